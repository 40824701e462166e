//! Bytes as they come, cut into lines of a bounded length.

/// A line, without its line feed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Line<'a> {
    /// All of it.
    Whole(&'a [u8]),
    /// Longer than the limit. Its bytes are passed over as they come, up to the next line feed.
    TooLong,
}

/// What came and was not yet taken. Holds one incomplete line of at most the limit, beside what was fed last.
#[derive(Debug)]
pub struct Lines {
    limit_bytes: usize,
    buffer: Vec<u8>,
    /// Where in the buffer the next line begins.
    start: usize,
    /// Up to where no line feed is, from `start` on.
    searched: usize,
    /// Whether the rest of a line that was too long is still to come.
    skipping: bool,
}

/// A buffer that grew beyond this for one long line is given back.
const KEPT_BYTES: usize = 1 << 20;

impl Lines {
    /// For lines of at most so many bytes.
    #[must_use]
    pub const fn new(limit_bytes: usize) -> Self {
        Self { limit_bytes, buffer: Vec::new(), start: 0, searched: 0, skipping: false }
    }

    /// Takes in what was read. Best called when there is no further line.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT_BYTES {
            self.buffer = Vec::new();
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next line that is complete, or known to be too long. Empty lines are passed over.
    pub fn next_line(&mut self) -> Option<Line<'_>> {
        loop {
            let found = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let Some(length) = found.map(|at| self.searched + at - self.start) else {
                return self.incomplete();
            };
            let begin = self.start;
            self.start += length + 1;
            self.searched = self.start;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            if length > self.limit_bytes {
                return Some(Line::TooLong);
            }
            if !self.buffer[begin..begin + length].trim_ascii().is_empty() {
                return Some(Line::Whole(&self.buffer[begin..begin + length]));
            }
        }
    }

    /// The last line, when nothing more comes: one without a line feed.
    pub fn end(&mut self) -> Option<Line<'_>> {
        let begin = self.start;
        self.start = self.buffer.len();
        self.searched = self.start;
        let skipped = std::mem::take(&mut self.skipping);
        let rest = &self.buffer[begin..];
        (!skipped && !rest.trim_ascii().is_empty()).then_some(Line::Whole(rest))
    }

    fn incomplete(&mut self) -> Option<Line<'_>> {
        let too_long = self.buffer.len() - self.start > self.limit_bytes;
        if too_long || self.skipping {
            self.start = self.buffer.len();
        }
        self.searched = self.buffer.len();
        if too_long && !self.skipping {
            self.skipping = true;
            return Some(Line::TooLong);
        }
        None
    }
}
