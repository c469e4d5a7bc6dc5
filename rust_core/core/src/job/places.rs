//! Where documents of text stand that are no records: the text up to each separator, or the file.
//!
//! Workers know where a document's text ended, not where it began, which may be pieces before. It begins where the
//! one before it in the source ended, a separator further on, so places are made in the order of the output. A job
//! that goes on somewhere in a source is told by its checkpoint where the open document began.

use super::checkpoint::{Position, Share};

/// Follows the documents of one source after the other.
pub(super) struct Places {
    separator_bytes: u64,
    source: usize,
    /// Where the next document of the source begins.
    start: u64,
}

impl Places {
    /// Goes on from where the input stood.
    pub(super) fn new(position: &Position, separator_bytes: u64) -> Self {
        Self { separator_bytes, source: position.source, start: position.document_bytes.unwrap_or_default() }
    }

    /// The places, two numbers each (see `job::records`), of a block's documents, of which `text_ends` says where
    /// their texts ended.
    pub(super) fn take(&mut self, shares: &[Share], text_ends: &[u64]) -> Vec<u64> {
        let mut docs = Vec::with_capacity(2 * text_ends.len());
        let mut ends = text_ends.iter();
        for share in shares {
            if self.source != share.source {
                (self.source, self.start) = (share.source, 0);
            }
            for &end in ends.by_ref().take(share.n_documents as usize) {
                docs.extend([self.start, end - self.start]);
                self.start = end + self.separator_bytes;
            }
        }
        docs
    }

    /// Notes where the open document began, for a job that goes on from a position within the source.
    pub(super) fn note(&self, next: Option<&mut Position>) {
        if let Some(next) = next.filter(|next| next.source == self.source) {
            next.document_bytes = Some(self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(source: usize, n_documents: u64) -> Share {
        Share { source, n_tokens: 0, n_documents, xxh3: 0, counts: None }
    }

    #[test]
    fn documents_begin_behind_the_separator_before_and_go_on_over_blocks() {
        let mut places = Places::new(&Position::default(), 2);
        assert_eq!(places.take(&[share(0, 2)], &[5, 7]), [0, 5, 7, 0]);
        assert_eq!(places.take(&[share(0, 0)], &[]), [0_u64; 0]);
        let mut next = Position { source: 0, offset_bytes: 50, ..Position::default() };
        places.note(Some(&mut next));
        assert_eq!(next.document_bytes, Some(9));
        let mut resumed = Places::new(&next, 2);
        for places in [&mut places, &mut resumed] {
            assert_eq!(places.take(&[share(0, 1), share(1, 0), share(2, 1)], &[60, 3]), [9, 51, 0, 3]);
        }
        places.note(Some(&mut Position { source: 3, ..Position::default() }));
    }
}
