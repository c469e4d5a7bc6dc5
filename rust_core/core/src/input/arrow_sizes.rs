//! An arrow file, looked at before its reader does: sizes that the reader believes, and which columns are text.
//!
//! A compressed buffer begins with an int64: its length once it is decompressed, for which the reader makes
//! room at once. In a damaged file that may be any number, and memory that cannot be had ends the process.
//!
//! ```text
//! message   [FF FF FF FF] int32 length of the metadata, metadata (a flatbuffer), body
//! file      ARROW1, messages, footer (a flatbuffer with the places of the messages), int32 its length, ARROW1
//! stream    messages, one after the other, up to a length of 0 or the end
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;

use arrow_ipc::{RecordBatch, root_as_footer, root_as_message};

use super::detect::Content;
use super::text_as_bytes::{self, Patches};

/// No compression of ours makes more of a byte: a zstd block of 128 KiB takes four.
const EXPANSION_MAX: u64 = 1 << 16;
/// Bytes that a buffer may always have.
const ALWAYS: u64 = 1 << 20;

/// Fails where a buffer says that it is longer than it can be, or where this cannot be told. Returns what makes
/// the texts bytes.
pub(super) fn check(file: &File, content: Content, size_bytes: u64) -> Result<Patches, String> {
    let walk = Walk { file, size_bytes };
    if content == Content::ArrowFile {
        return walk.file();
    }
    let (mut at, mut patches) = (0, None);
    while let Some(message) = walk.message(at)? {
        at = message.end;
        patches.get_or_insert(message.patches);
    }
    Ok(patches.unwrap_or_default())
}

/// Where a message's body is, and where it ends; of a schema also what makes its texts bytes.
struct Message {
    body: u64,
    end: u64,
    patches: Patches,
}

struct Walk<'a> {
    file: &'a File,
    size_bytes: u64,
}

impl Walk<'_> {
    fn bytes(&self, at: u64, len: u64) -> Result<Vec<u8>, String> {
        if at.checked_add(len).is_none_or(|end| end > self.size_bytes) {
            return Err(format!("something at byte {at} is longer than the file"));
        }
        let mut bytes = vec![0; len as usize];
        self.file.read_exact_at(&mut bytes, at).map_err(|error| error.to_string())?;
        Ok(bytes)
    }

    fn int32(&self, at: u64) -> Result<u32, String> {
        let bytes = self.bytes(at, 4)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)))
    }

    fn file(&self) -> Result<Patches, String> {
        let end = self.size_bytes.checked_sub(10).ok_or("it has no footer")?;
        let len = u64::from(self.int32(end)?);
        let start = end.checked_sub(len).ok_or("its footer is longer than the file")?;
        let footer = self.bytes(start, len)?;
        let footer = root_as_footer(&footer).map_err(|error| error.to_string())?;
        for blocks in [footer.dictionaries(), footer.recordBatches()].into_iter().flatten() {
            for block in blocks {
                let at = u64::try_from(block.offset()).map_err(|error| error.to_string())?;
                let metadata = u64::try_from(block.metaDataLength()).map_err(|error| error.to_string())?;
                let body = self.message(at)?.map(|message| message.body);
                if body != at.checked_add(metadata) {
                    return Err(format!("footer and message at byte {at} differ"));
                }
            }
        }
        Ok(footer.schema().map(|schema| text_as_bytes::arrow(schema, start)).unwrap_or_default())
    }

    /// Looks at the message at `at`, if there is one.
    fn message(&self, at: u64) -> Result<Option<Message>, String> {
        if at >= self.size_bytes {
            return Ok(None);
        }
        let (len, start) = match self.int32(at)? {
            u32::MAX => (self.int32(at + 4)?, at + 8),
            len => (len, at + 4),
        };
        if len == 0 {
            return Ok(None);
        }
        let metadata = self.bytes(start, u64::from(len))?;
        let message = root_as_message(&metadata).map_err(|error| error.to_string())?;
        let body = start + u64::from(len);
        let length = u64::try_from(message.bodyLength()).map_err(|error| error.to_string())?;
        let batch = message.header_as_record_batch().or_else(|| message.header_as_dictionary_batch()?.data());
        if let Some(batch) = batch {
            self.batch(batch, body)?;
        }
        let schema = message.header_as_schema();
        let patches = schema.map(|schema| text_as_bytes::arrow(schema, start)).unwrap_or_default();
        Ok(Some(Message { body, end: body.saturating_add(length), patches }))
    }

    fn batch(&self, batch: RecordBatch<'_>, body: u64) -> Result<(), String> {
        if batch.compression().is_none() {
            return Ok(());
        }
        for buffer in batch.buffers().into_iter().flatten() {
            let (offset, length) = (buffer.offset().cast_unsigned(), buffer.length().cast_unsigned());
            if length < 8 {
                continue;
            }
            let at = body.checked_add(offset).ok_or("a buffer lies behind all bytes")?;
            let prefix = self.bytes(at, 8)?;
            let said = prefix.first_chunk().map_or(0, |bytes| i64::from_le_bytes(*bytes));
            // -1: the buffer is not compressed after all.
            if said > 0 && said.cast_unsigned() > ALWAYS.max(length.saturating_mul(EXPANSION_MAX)) {
                return Err(format!("{length} bytes at byte {at} say that they were {said}"));
            }
        }
        Ok(())
    }
}
