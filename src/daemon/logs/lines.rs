//! Bytes into lines, with a longest one.

/// Longest line that is kept, in bytes; the rest of a longer one is dropped (contract/lifecycle.md 4.3).
pub const MAX_LINE: usize = 512 * 1024;

/// Buffers larger than this are given back once their line is over.
const KEEP: usize = 4096;

/// A line without its newline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// Its bytes, as many as were kept.
    pub bytes: &'a [u8],
    /// How many were dropped at its end.
    pub dropped: usize,
}

impl Line<'_> {
    /// Its text: what is not UTF-8 is replaced, a carriage return at the end goes, and a cut is marked.
    pub fn text(&self) -> String {
        let text = String::from_utf8_lossy(self.bytes.strip_suffix(b"\r").unwrap_or(self.bytes));
        match self.dropped {
            0 => text.into_owned(),
            dropped => format!("{text}… ({dropped} bytes dropped)"),
        }
    }
}

/// Splits a stream into lines.
#[derive(Debug)]
pub struct Lines {
    buffer: Vec<u8>,
    dropped: usize,
    longest: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Lines::new(MAX_LINE)
    }
}

impl Lines {
    /// Keeps at most `longest` bytes of a line.
    pub fn new(longest: usize) -> Self {
        Lines { buffer: Vec::new(), dropped: 0, longest }
    }

    /// Takes the next bytes of the stream; calls `each` for every line that ends in them.
    pub fn push(&mut self, bytes: &[u8], mut each: impl FnMut(Line<'_>)) {
        let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                self.keep(part);
            } else if self.buffer.is_empty() && self.dropped == 0 && part.len() <= self.longest {
                each(Line { bytes: part, dropped: 0 });
            } else {
                self.keep(part);
                self.end(&mut each);
            }
        }
    }

    /// The stream has ended: what came without a newline is a line too.
    pub fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        if !self.buffer.is_empty() {
            self.end(&mut each);
        }
    }

    /// Bytes of a line that has not ended.
    pub fn pending(&self) -> usize {
        self.buffer.len().saturating_add(self.dropped)
    }

    /// Bytes of a line that has not ended, as many as are kept.
    pub fn unfinished(&self) -> usize {
        self.buffer.len()
    }

    fn keep(&mut self, part: &[u8]) {
        let kept = part.len().min(self.longest.saturating_sub(self.buffer.len()));
        self.buffer.extend_from_slice(part.get(..kept).unwrap_or_default());
        self.dropped = self.dropped.saturating_add(part.len() - kept);
    }

    fn end(&mut self, each: &mut impl FnMut(Line<'_>)) {
        each(Line { bytes: &self.buffer, dropped: self.dropped });
        self.buffer.clear();
        self.buffer.shrink_to(KEEP);
        self.dropped = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(chunks: &[&[u8]], longest: usize) -> Vec<(Vec<u8>, usize)> {
        let mut lines = Lines::new(longest);
        let mut found = Vec::new();
        let mut take = |line: Line<'_>| found.push((line.bytes.to_vec(), line.dropped));
        chunks.iter().for_each(|chunk| lines.push(chunk, &mut take));
        lines.finish(&mut take);
        found
    }

    #[test]
    fn long_lines_are_cut_and_the_next_one_is_whole() {
        let found = split(&[b"abc", b"defgh", b"ij\nok\n\nlast"], 5);
        assert_eq!(found, [(b"abcde".to_vec(), 5), (b"ok".to_vec(), 0), (Vec::new(), 0), (b"last".to_vec(), 0)]);
        let mut lines = Lines::new(MAX_LINE);
        (0..100).for_each(|_| lines.push(&[b'x'; 65536], |_| panic!("a line without an end")));
        assert_eq!(lines.unfinished(), MAX_LINE);
        lines.push(b"\n", |line| assert_eq!(line.dropped, 100 * 65536 - MAX_LINE));
        assert!(lines.buffer.capacity() <= KEEP);
    }

    #[test]
    fn texts_are_always_utf8_and_tell_a_cut() {
        assert_eq!(Line { bytes: b"a\xffb\r", dropped: 0 }.text(), "a\u{fffd}b");
        assert_eq!(Line { bytes: b"a", dropped: 7 }.text(), "a… (7 bytes dropped)");
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'a'), Just(b'b')], 0..60),
                                cuts in proptest::collection::vec(0_usize..60, 0..6), longest in 1_usize..8) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let mut from = 0;
            let chunks: Vec<&[u8]> = cuts.iter().map(|to| { let chunk = &bytes[from..*to]; from = *to; chunk }).collect();
            // The model: the standard library's split, each piece cut.
            let mut model: Vec<(Vec<u8>, usize)> = bytes.split(|byte| *byte == b'\n')
                .map(|line| (line[..line.len().min(longest)].to_vec(), line.len().saturating_sub(longest))).collect();
            if model.last().is_some_and(|(last, _)| last.is_empty()) {
                model.pop();
            }
            prop_assert_eq!(split(&chunks, longest), model);
        }
    }
}
