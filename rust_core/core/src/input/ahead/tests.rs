//! What comes out is what the plain decoder makes of the same file: bytes, errors, checksums.

use std::io::Write;
use std::sync::{Condvar, Mutex};

use proptest::prelude::*;

use super::*;
use crate::input::tests::opened;

/// Every frame a part of its own.
const SMALL: Limits = Limits { min_bytes: 1, max_bytes: 1 << 20 };
/// Small ones together, and those of which too much is to be expected streamed.
const TIGHT: Limits = Limits { min_bytes: 20_000, max_bytes: 150_000 };

/// How a piece is compressed: what else stands before it, and which of its format's options are used.
#[derive(Clone, Copy, Debug)]
struct How {
    option: u8,
    padding: u8,
}

fn zstd_frame(text: &[u8], how: How, out: &mut Vec<u8>) {
    if how.padding > 200 {
        let len = u32::from(how.padding) - 200;
        out.extend_from_slice(&(0x184D_2A50 + len % 16).to_le_bytes());
        out.extend_from_slice(&len.to_le_bytes());
        out.resize(out.len() + len as usize, how.padding);
    }
    let mut encoder = ::zstd::stream::write::Encoder::new(out, 1).expect("an encoder");
    encoder.include_checksum(how.option & 1 == 0).expect("set");
    if how.option & 2 == 0 {
        encoder.set_pledged_src_size(Some(text.len() as u64)).expect("set");
        encoder.include_contentsize(how.option & 4 == 0).expect("set");
    }
    encoder.write_all(text).expect("written");
    encoder.finish().expect("finished");
}

fn gzip_member(text: &[u8], how: How, out: &mut Vec<u8>) {
    let is_bgzf = how.option < 250;
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).expect("written");
    let data = encoder.finish().expect("finished");
    out.extend_from_slice(&[0x1F, 0x8B, 8, if is_bgzf { 4 } else { 0 }, 0, 0, 0, 0, 0, 255]);
    if is_bgzf {
        let len = data.len() + 12 + 6 + 8;
        out.extend_from_slice(&[6, 0, b'B', b'C', 2, 0]);
        out.extend_from_slice(&u16::try_from(len - 1).expect("a member").to_le_bytes());
    }
    out.extend_from_slice(&data);
    let mut crc = flate2::Crc::new();
    crc.update(text);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
}

fn bzip2_stream(text: &[u8], how: How, out: &mut Vec<u8>) {
    let level = bzip2_level(how);
    let mut encoder = ::bzip2::write::BzEncoder::new(out, level);
    encoder.write_all(text).expect("written");
    encoder.finish().expect("finished");
}

fn bzip2_level(how: How) -> ::bzip2::Compression {
    ::bzip2::Compression::new(1 + u32::from(how.option) % 9)
}

/// Streams, a new one where the option says so, with a block for each piece.
fn xz_streams(pieces: &[(&[u8], How)]) -> Vec<u8> {
    use liblzma::stream::{Action, Check, Status, Stream};
    let checks = [Check::None, Check::Crc32, Check::Crc64, Check::Sha256];
    let mut out = Vec::new();
    let mut at = 0;
    while at < pieces.len() {
        let end = (at + 1..pieces.len()).find(|&end| pieces[end].1.option > 180).unwrap_or(pieces.len());
        let check = checks[usize::from(pieces[at].1.option) % 4];
        let mut stream = Stream::new_easy_encoder(0, check).expect("an encoder");
        let mut run = |text: &[u8], action| {
            let before = stream.total_in();
            loop {
                let done = (stream.total_in() - before) as usize;
                out.reserve(1 << 16);
                let status = stream.process_vec(&text[done..], &mut out, action).expect("compressed");
                let is_done = (stream.total_in() - before) as usize == text.len();
                if status == Status::StreamEnd || is_done && matches!(action, Action::Run) {
                    break;
                }
            }
        };
        for (text, _) in &pieces[at..end] {
            run(text, Action::FullFlush);
        }
        run(b"", Action::Finish);
        out.resize(out.len() + 4 * usize::from(pieces[at].1.padding % 3), 0);
        at = end;
    }
    out
}

fn compress(compression: Compression, pieces: &[(&[u8], How)]) -> Vec<u8> {
    let mut out = Vec::new();
    match compression {
        Compression::Xz => out = xz_streams(pieces),
        Compression::Zstd => pieces.iter().for_each(|(text, how)| zstd_frame(text, *how, &mut out)),
        Compression::Gzip => pieces.iter().for_each(|(text, how)| gzip_member(text, *how, &mut out)),
        Compression::Bzip2 => pieces.iter().for_each(|(text, how)| bzip2_stream(text, *how, &mut out)),
        Compression::None => pieces.iter().for_each(|(text, _)| out.extend_from_slice(text)),
    }
    out
}

#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    content: Vec<u8>,
    /// What was taken, or the error.
    end: Result<(u64, u64), String>,
}

fn serial(source: &Arc<Opened>, compression: Compression, step: usize, skip: u64) -> Outcome {
    let mut content = Vec::new();
    let mut run = || {
        let mut unpacked = Unpacked::new(Arc::clone(source), compression)?;
        unpacked.skip_to(skip)?;
        while unpacked.read(step, &mut content)? > 0 {}
        Ok(unpacked.taken())
    };
    let end = run().map_err(|error: crate::Error| error.to_string());
    Outcome { content, end }
}

/// Whether two readers gave the same content. A plain decoder that has filled a read at a border looks at what
/// stands behind it before it returns: then it fails a read earlier than one for whom a part ends there.
fn is_same(found: &Outcome, plain: &Outcome, step: usize) -> bool {
    let n_more = found.content.len().checked_sub(plain.content.len());
    let is_allowed = n_more.is_some_and(|more| more == 0 || (more == step && plain.end.is_err()));
    is_allowed && found.content.starts_with(&plain.content)
}

/// Decodes parts in an order that `random` chooses.
fn ahead(mut content: Ahead, step: usize, skip: u64, mut random: u64) -> (Outcome, usize) {
    let mut all = Vec::new();
    let (mut claimed, mut n_claimed) = (Vec::new(), 0);
    content.skip_to(skip);
    let mut run = || {
        loop {
            let before = all.len();
            loop {
                let missing = before + step - all.len();
                match content.read(missing, &mut all) {
                    Ok(Read::Full) => break,
                    Ok(Read::End) => return Ok(content.taken()),
                    Ok(Read::Starved) => {}
                    Err(error) => {
                        all.truncate(before);
                        return Err(error);
                    }
                }
                let is_waiting = match content.claim()? {
                    Claim::Decode(part) => {
                        claimed.push(part);
                        n_claimed += 1;
                        false
                    }
                    Claim::Again => false,
                    Claim::Wait => true,
                };
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                if !claimed.is_empty() && (is_waiting || random >> 60 < 4) {
                    let at = (random >> 33) as usize % claimed.len();
                    claimed.swap_remove(at).decode();
                } else {
                    assert!(!is_waiting, "nobody will ever wake this reader");
                }
            }
        }
    };
    let end = run().map_err(|error: crate::Error| error.to_string());
    (Outcome { content: all, end }, n_claimed)
}

/// Text whose lines and characters are cut anywhere.
fn text(n_bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(n_bytes + 40);
    while out.len() < n_bytes {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let line = format!("{{\"text\": \"{} é中🙂\"}}\n", state >> 40);
        out.extend_from_slice(line.as_bytes());
    }
    out.truncate(n_bytes);
    out
}

#[derive(Clone, Debug)]
struct Case {
    compression: Compression,
    pieces: Vec<(usize, How)>,
    seed: u64,
    step: usize,
    /// Where a byte is changed, and how; or where the file is cut.
    damage: Option<(f64, u8)>,
    skip: f64,
    budget: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let compression =
        prop::sample::select(vec![Compression::Zstd, Compression::Gzip, Compression::Xz, Compression::Bzip2]);
    let size = prop_oneof![1 => Just(0_usize), 6 => 0..3000_usize, 2 => 3000..60_000_usize, 1 => 60_000..300_000_usize];
    let how = (any::<u8>(), any::<u8>()).prop_map(|(option, padding)| How { option, padding });
    let pieces = prop::collection::vec((size, how), 1..8);
    let damage = prop::option::of((0.0..1.0, any::<u8>()));
    let skip = prop_oneof![3 => Just(0.0), 1 => 0.0..1.0];
    let budget = prop::sample::select(vec![1_u64, 20_000, 1 << 20]);
    (compression, pieces, any::<u64>(), 1..200_000_usize, damage, skip, budget).prop_map(
        |(compression, pieces, seed, step, damage, skip, budget)| Case {
            compression,
            pieces,
            seed,
            step,
            damage,
            skip,
            budget,
        },
    )
}

impl Case {
    fn file(&self) -> (Vec<u8>, usize) {
        let is_gzip = self.compression == Compression::Gzip;
        let sizes: Vec<_> = self
            .pieces
            .iter()
            .map(|(size, how)| (if is_gzip { *size % 40_000 } else { *size }, *how))
            .collect();
        let all = text(sizes.iter().map(|(size, _)| size).sum(), self.seed);
        let mut rest = &all[..];
        let pieces: Vec<_> = sizes
            .into_iter()
            .map(|(size, how)| {
                let (piece, behind) = rest.split_at(size);
                rest = behind;
                (piece, how)
            })
            .collect();
        let mut file = compress(self.compression, &pieces);
        if let Some((place, change)) = self.damage {
            let at = (file.len() as f64 * place) as usize;
            if change == 0 {
                file.truncate(at);
            } else if let Some(byte) = file.get_mut(at) {
                *byte ^= change;
            }
        }
        (file, all.len())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn parts_give_what_the_plain_decoder_gives(case in case(), order: u64) {
        let (file, n_content) = case.file();
        let (_folder, source) = opened(&file);
        let skip = (n_content as f64 * case.skip) as u64;
        let plain = serial(&source, case.compression, case.step, skip);
        let parts = Ahead::with_limits(source, case.compression, case.budget, if order & 1 == 0 { SMALL } else { TIGHT });
        let (found, _) = ahead(parts, case.step, skip, order);
        // A resumed job steps over parts that state their size without decoding them: damage there is
        // not met again. The interrupted run has read them.
        if skip == 0 || plain.end.is_ok() {
            prop_assert_eq!(&found.end, &plain.end);
            prop_assert!(is_same(&found, &plain, case.step));
        }
    }
}

#[test]
fn every_cut_and_many_changes_of_a_file_end_as_with_the_plain_decoder() {
    let all = text(6000, 7);
    for compression in [Compression::Zstd, Compression::Gzip, Compression::Xz, Compression::Bzip2] {
        let pieces: Vec<_> = all.chunks(1500).map(|piece| (piece, How { option: 3, padding: 201 })).collect();
        let file = compress(compression, &pieces);
        let whole = (file.len(), 0);
        let cuts = (0..file.len()).step_by(3).map(|len| (len, 0));
        let changes = (0..file.len()).step_by(3).map(|at| (at, 1 << (at % 8)));
        for (at, change) in [whole].into_iter().chain(cuts).chain(changes) {
            let mut damaged = file.clone();
            if change == 0 {
                damaged.truncate(at);
            } else {
                damaged[at] ^= change;
            }
            let (_folder, source) = opened(&damaged);
            let plain = serial(&source, compression, 1000, 0);
            let (found, n_claimed) =
                ahead(Ahead::with_limits(source, compression, 1 << 20, SMALL), 1000, 0, at as u64);
            assert_eq!(found.end, plain.end, "{compression:?} {at} {change}");
            assert!(is_same(&found, &plain, 1000), "{compression:?} {at} {change}");
            if (at, change) == whole {
                assert!(found.content == all && n_claimed >= 4, "{compression:?}: {n_claimed} parts");
            }
        }
    }
}

#[test]
fn a_large_frame_is_streamed_and_those_behind_it_are_parts_again() {
    let all = text(400_000, 3);
    let how = How { option: 0, padding: 0 };
    let pieces = [(&all[..1000], how), (&all[1000..390_000], how), (&all[390_000..], how)];
    let file = compress(Compression::Zstd, &pieces);
    let (_folder, source) = opened(&file);
    let (found, n_claimed) = ahead(Ahead::with_limits(source, Compression::Zstd, 1, TIGHT), 5000, 0, 1);
    assert!(found.content == all);
    assert_eq!(n_claimed, 2);
    assert_eq!(found.end, Ok((file.len() as u64, xxhash_rust::xxh3::xxh3_64(&file))));
}

#[test]
fn threads_that_share_a_reader_get_all_of_it() {
    let all = text(3_000_000, 5);
    for compression in [Compression::Zstd, Compression::Gzip, Compression::Xz, Compression::Bzip2] {
        let how = How { option: 0, padding: 0 };
        let pieces: Vec<_> = all.chunks(40_000).map(|piece| (piece, how)).collect();
        let (_folder, source) = opened(&compress(compression, &pieces));
        let shared = Mutex::new((Ahead::with_limits(source, compression, 200_000, SMALL), Vec::new(), false));
        let decoded = Condvar::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut guard = shared.lock().expect("the reader");
                    loop {
                        let (content, out, is_over) = &mut *guard;
                        if *is_over {
                            break;
                        }
                        match content.read(10_000, out).expect("read") {
                            Read::Full => {}
                            Read::End => {
                                *is_over = true;
                                decoded.notify_all();
                            }
                            Read::Starved => match content.claim().expect("claimed") {
                                Claim::Again => {}
                                Claim::Wait => guard = decoded.wait(guard).expect("woken"),
                                Claim::Decode(part) => {
                                    drop(guard);
                                    part.decode();
                                    guard = shared.lock().expect("the reader");
                                    decoded.notify_all();
                                }
                            },
                        }
                    }
                });
            }
        });
        assert!(shared.into_inner().expect("the reader").1 == all, "{compression:?}");
    }
}

#[test]
fn what_a_resumed_job_has_is_stepped_over_and_not_decoded() {
    let all = text(100_000, 9);
    let how = How { option: 0, padding: 0 };
    let pieces: Vec<_> = all.chunks(10_000).map(|piece| (piece, how)).collect();
    for (compression, expected) in [(Compression::Zstd, 4), (Compression::Xz, 4), (Compression::Bzip2, 10)] {
        let file = compress(compression, &pieces);
        let (_folder, source) = opened(&file);
        let (found, n_claimed) =
            ahead(Ahead::with_limits(source, compression, 1 << 20, SMALL), 777, 65_000, 2);
        assert!(found.content == all[65_000..]);
        assert_eq!(n_claimed, expected, "{compression:?}");
        assert_eq!(found.end, Ok((file.len() as u64, xxhash_rust::xxh3::xxh3_64(&file))));
    }
}
