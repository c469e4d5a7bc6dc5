//! A tokenizer in memory: a vocabulary with its tables, its merge cache and its workers' memory.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use crate::cache::{CACHE_BYTES, CacheStats, Table, WordCache, image};
use crate::decode::{Decoder, ROOM_BYTES};
use crate::documents::{DocumentEncoder, Eot, Rules, encode_segments};
use crate::encode::{Encoder, Model, Scratch};
use crate::error::{Error, Result};
use crate::input::border::Cuts;
use crate::lane::Lane;
use crate::room::{give_back, room};
use crate::special::{SpecialFinder, SpecialPolicy};
use crate::tier::{self, Kernels};
use crate::vocab::Vocabulary;

/// An exact byte-level BPE tokenizer; shared freely between threads.
///
/// Every encoding call of every thread learns into one merge cache, which lives as long as the
/// tokenizer.
///
/// ```
/// use tokend_core::{SpecialPolicy, Tokenizer, Vocabulary};
/// let tokenizer = Tokenizer::new(Vocabulary::gpt2())?;
/// let ids: Vec<u16> = tokenizer.encode("Hello, world!", SpecialPolicy::Raise)?;
/// assert_eq!(ids, [15496, 11, 995, 0]);
/// assert_eq!(tokenizer.decode_bytes(&ids)?, b"Hello, world!");
/// # Ok::<(), tokend_core::Error>(())
/// ```
pub struct Tokenizer {
    vocab: Vocabulary,
    model: Model,
    finder: Option<SpecialFinder>,
    cache: WordCache,
    idle: Mutex<Vec<Scratch>>,
    /// Made when something is decoded first: files become token files without it.
    decoder: OnceLock<Decoder>,
    /// Entries of the cache when it was last written or read.
    saved_entries: AtomicU64,
}

/// Shorter texts of a batch are put into one buffer of about this size and encoded together.
const TOGETHER_BYTES: usize = 1 << 14;
/// A cache that has learned less than this is not worth writing.
const SAVE_MIN_ENTRIES: u64 = 8192;

/// So many workers' memories are kept, megabytes each. More have only run at a time for a moment, and a
/// daemon would keep what its busiest moment took.
static IDLE_MAX: LazyLock<usize> =
    LazyLock::new(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get) + 1);

impl Tokenizer {
    /// Builds the tables of a vocabulary.
    ///
    /// # Errors
    /// [`Error::BadPattern`] for a split pattern outside the supported subset, [`Error::Io`] where
    /// there is no memory for the cache.
    pub fn new(vocab: Vocabulary) -> Result<Self> {
        Self::with_kernels(vocab, tier::kernels()?, CACHE_BYTES)
    }

    /// The same with a merge cache of another size than 32 MiB: rounded up to a power of two, at least
    /// 128 bytes. What has no place in it is merged again whenever it comes.
    pub fn with_cache(vocab: Vocabulary, cache_bytes: usize) -> Result<Self> {
        Self::with_kernels(vocab, tier::kernels()?, cache_bytes)
    }

    /// The same with given kernels, which this processor can run.
    pub(crate) fn with_kernels(
        vocab: Vocabulary,
        kernels: &'static Kernels,
        cache_bytes: usize,
    ) -> Result<Self> {
        let cache = WordCache::new(cache_bytes, kernels)
            .map_err(|error| Error::io("merge cache", "mapping memory", error))?;
        // The cache's pages are zeroed beside the work on the tables, which takes as long.
        let model = std::thread::scope(|scope| {
            scope.spawn(|| cache.table().populate());
            Model::new(&vocab, kernels)
        });
        let model = model.map_err(|error| match error {
            Error::BadPattern { pattern, at, what, .. } => {
                Error::BadPattern { tokenizer: vocab.name().to_owned(), pattern, at, what }
            }
            other => other,
        })?;
        let finder = (!vocab.specials().is_empty()).then(|| SpecialFinder::new(&vocab));
        let tokenizer = Self {
            vocab,
            model,
            finder,
            cache,
            idle: Mutex::default(),
            decoder: OnceLock::new(),
            saved_entries: AtomicU64::new(0),
        };
        let table = tokenizer.cache.table();
        tokenizer.seed(&table);
        tokenizer.saved_entries.store(table.n_entries(), Ordering::Relaxed);
        Ok(tokenizer)
    }

    /// The vocabulary.
    #[must_use]
    pub fn vocab(&self) -> &Vocabulary {
        &self.vocab
    }

    /// The ids of a text. `L` is the vocabulary's lane: `u16` unless [`Vocabulary::is_wide`], then
    /// `u32`; any other is an error, because the cache holds values of one width.
    pub fn encode<L: Lane>(&self, text: &str, special: SpecialPolicy) -> Result<Vec<L>> {
        let mut ids = room(text.len());
        self.encode_into(text, special, &mut ids)?;
        give_back(&mut ids);
        Ok(ids)
    }

    /// Appends the ids of a text to `ids`; with an error, some of them may have been appended.
    pub fn encode_into<L: Lane>(&self, text: &str, special: SpecialPolicy, ids: &mut Vec<L>) -> Result<()> {
        self.check_lane::<L>()?;
        self.with_encoder(|encoder| {
            encode_segments(encoder, self.finder.as_ref(), special, text, None, 0, ids)
        })?;
        Ok(())
    }

    /// The ids of many texts, flat, with the cumulative count after each.
    pub fn encode_batch<L: Lane>(
        &self,
        texts: &[&str],
        special: SpecialPolicy,
    ) -> Result<(Vec<L>, Vec<u64>)> {
        self.check_lane::<L>()?;
        let n_bytes = texts.iter().map(|text| text.len()).sum();
        let rules =
            Rules { separator: None, eot: Eot::None, eot_id: 0, special, finder: self.finder.as_ref() };
        self.with_encoder(|encoder| {
            let mut documents = DocumentEncoder::new(encoder.reborrow(), &rules);
            documents.ids = room(n_bytes);
            let (mut together, mut places) = (String::new(), Vec::new());
            let mut texts = texts.iter().peekable();
            while let Some(text) = texts.next() {
                if text.len() <= TOGETHER_BYTES {
                    let start = together.len();
                    together.push_str(text);
                    places.push(start..together.len());
                    if together.len() <= TOGETHER_BYTES && texts.peek().is_some() {
                        continue;
                    }
                }
                let from_start = |_: &Range<usize>| 0;
                documents.whole(&together, &places, from_start).map_err(|(_, error)| error)?;
                together.clear();
                places.clear();
                if text.len() > TOGETHER_BYTES {
                    documents
                        .whole(text, std::slice::from_ref(&(0..text.len())), from_start)
                        .map_err(|(_, error)| error)?;
                }
            }
            give_back(&mut documents.ids);
            Ok((documents.ids, documents.ends))
        })
    }

    /// How many ids a text has.
    pub fn count(&self, text: &str, special: SpecialPolicy) -> Result<usize> {
        if self.vocab.is_wide() {
            Ok(self.encode::<u32>(text, special)?.len())
        } else {
            Ok(self.encode::<u16>(text, special)?.len())
        }
    }

    /// Refuses a lane that is not the vocabulary's.
    pub(crate) fn check_lane<L: Lane>(&self) -> Result<()> {
        if (L::BYTES == 4) == self.vocab.is_wide() {
            return Ok(());
        }
        let what = format!("this vocabulary's ids are not {} bytes wide", L::BYTES);
        Err(Error::BadOption { option: "lane", what })
    }

    /// The bytes of ids.
    ///
    /// # Errors
    /// [`Error::UnknownId`] for an id that the vocabulary does not have.
    pub fn decode_bytes<L: Lane>(&self, ids: &[L]) -> Result<Vec<u8>> {
        // Room for all of it at once, and for the last whole slots: nothing is copied on the way.
        let mut bytes = Vec::with_capacity(self.decoded_bytes(ids) as usize + ROOM_BYTES);
        self.decoder().decode_into(ids, &mut bytes)?;
        Ok(bytes)
    }

    /// How many bytes [`Tokenizer::decode_bytes`] of ids gives; an unknown id counts as none.
    #[must_use]
    pub fn decoded_bytes<L: Lane>(&self, ids: &[L]) -> u64 {
        self.decoder().n_bytes(ids)
    }

    fn decoder(&self) -> &Decoder {
        self.decoder.get_or_init(|| Decoder::new(&self.vocab))
    }

    /// Adds what a file of [`Tokenizer::save_cache`] holds to the merge cache; returns whether there was a
    /// file of this vocabulary that could be believed.
    pub fn load_cache(&self, path: &Path) -> bool {
        let table = self.cache.table();
        let loaded = image::load(&table, &self.owner(), path);
        if loaded.is_some() {
            self.saved_entries.store(table.n_entries(), Ordering::Relaxed);
        }
        loaded.is_some()
    }

    /// Writes the merge cache to a file, if it has grown by a quarter since it was last written or read;
    /// returns whether it was. The file is replaced as a whole, and is this user's alone.
    pub fn save_cache(&self, path: &Path) -> Result<bool> {
        let table = self.cache.table();
        let (now, then) = (table.n_entries(), self.saved_entries.load(Ordering::Relaxed));
        if now < then + then / 4 + SAVE_MIN_ENTRIES {
            return Ok(false);
        }
        image::save(&table, &self.owner(), path)?;
        self.saved_entries.store(now, Ordering::Relaxed);
        Ok(true)
    }

    fn owner(&self) -> image::Owner<'_> {
        let id_bytes = if self.vocab.is_wide() { 4 } else { 2 };
        image::Owner { fingerprint: self.vocab.fingerprint(), id_bytes }
    }

    /// What the merge cache holds and did.
    #[must_use]
    pub fn cache_stats(&self) -> CacheStats {
        self.cache.stats()
    }

    /// Forgets what the cache learned; what the vocabulary itself gives is put back.
    pub fn cache_clear(&self) {
        self.cache.clear(|table| self.seed(table));
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(crate) fn finder(&self) -> Option<&SpecialFinder> {
        self.finder.as_ref()
    }

    /// Where text can be cut, if that is known for the vocabulary's splitter.
    pub(crate) fn cuts(&self) -> Option<Cuts<'_>> {
        Cuts::new(&self.model.splitter, self.model.stage.as_ref())
    }

    /// Lends an encoder over the present table and a worker's memory.
    pub(crate) fn with_encoder<T>(&self, run: impl FnOnce(&mut Encoder<'_>) -> Result<T>) -> Result<T> {
        self.cache.renew_if_worn(|table| self.seed(table));
        let table: Arc<Table> = self.cache.table();
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut scratch = idle.unwrap_or_default();
        let result = run(&mut Encoder { model: &self.model, table: &table, scratch: &mut scratch });
        table.count(std::mem::take(&mut scratch.learned));
        self.cache.count(std::mem::take(&mut scratch.hits), std::mem::take(&mut scratch.misses_seen));
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < *IDLE_MAX {
            idle.push(scratch);
        }
        result
    }

    fn seed(&self, table: &Table) {
        if self.vocab.is_wide() {
            self.model.seed::<u32>(&self.vocab, table);
        } else {
            self.model.seed::<u16>(&self.vocab, table);
        }
    }
}
