//! Finds the document in what a hook sends, which neither gives a length nor closes: it is there when its outermost element is
//! closed (contract/migration.md 9.3).

use std::ops::Range;

/// Longest tag or comment, in bytes: it is looked through again with each piece that comes.
const LONGEST_TOKEN: usize = 1024 * 1024;

/// How much of a document is there.
#[derive(Debug, Default)]
pub(super) struct Framing {
    /// Up to where the bytes are understood.
    at: usize,
    /// Open elements.
    depth: usize,
    /// Where the outermost element begins.
    root: Option<usize>,
}

impl Framing {
    /// Where the outermost element is in `bytes`, which are those of the last call and more; `None` while it is not complete.
    /// The first byte shows what is not XML.
    pub(super) fn advance(&mut self, bytes: &[u8]) -> Result<Option<Range<usize>>, &'static str> {
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            let text = rest.iter().position(|byte| *byte == b'<').unwrap_or(rest.len());
            if self.depth == 0 && rest.iter().take(text).any(|byte| !byte.is_ascii_whitespace()) {
                return Err("not an XML document");
            }
            self.at += text;
            let token = bytes.get(self.at..).unwrap_or_default();
            let Some(length) = length(token) else {
                if token.len() > LONGEST_TOKEN {
                    return Err("a tag or comment of the document has no end");
                }
                return Ok(None);
            };
            let begin = self.at;
            self.at += length;
            match token.get(1) {
                Some(b'!' | b'?') => continue,
                Some(b'/') => self.depth = self.depth.saturating_sub(1),
                _ => {
                    let is_closed_at_once = token.get(length.saturating_sub(2)) == Some(&b'/');
                    self.root.get_or_insert(begin);
                    self.depth += usize::from(!is_closed_at_once);
                }
            }
            if let Some(root) = self.root.filter(|_| self.depth == 0) {
                return Ok(Some(root..self.at));
            }
        }
    }
}

/// Length of the tag, comment or other part that begins with the first byte; `None` while its end is not there.
fn length(token: &[u8]) -> Option<usize> {
    for (begin, end) in [(&b"<!--"[..], &b"-->"[..]), (b"<![CDATA[", b"]]>"), (b"<?", b"?>")] {
        if token.starts_with(begin) {
            let rest = token.get(begin.len()..)?;
            return Some(begin.len() + rest.windows(end.len()).position(|window| window == end)? + end.len());
        }
        if begin.starts_with(token) {
            return None;
        }
    }
    let mut quote = None;
    for (at, byte) in token.iter().enumerate() {
        match (quote, byte) {
            (None, b'>') => return Some(at + 1),
            (None, b'"' | b'\'') => quote = Some(byte),
            (Some(open), byte) if open == byte => quote = None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::xml_text::tests::{real_documents, rewritten};

    /// What is found when the bytes come one by one; the document must not be found before its last byte.
    fn found(text: &str) -> Result<Option<&str>, &'static str> {
        let mut framing = Framing::default();
        for end in 0..=text.len() {
            if let Some(range) = framing.advance(&text.as_bytes()[..end])? {
                assert_eq!(range.end, end, "it was there before");
                return Ok(text.get(range));
            }
        }
        Ok(None)
    }

    #[test]
    fn document_is_there_when_its_outermost_element_is_closed() {
        for text in
            ["<domain/>", "<a x='/>' y=\"'>\">t<b/><!-- </a> --><![CDATA[</a>]]><?p </a>?><c>></c></a >", "<a></a>"]
        {
            assert_eq!(found(text), Ok(Some(text)));
            assert_eq!(found(&format!(" <?explain?><!-- <x> -->\n{text}")), Ok(Some(text)));
            assert_eq!(found(&format!("<!DOCTYPE a>{text}<more/>")), Ok(Some(text)));
            assert_eq!(found(&text[..text.len() - 1]), Ok(None));
        }
        assert_eq!(found(""), Ok(None));
    }

    #[test]
    fn real_documents_are_found() {
        for text in real_documents() {
            let text = rewritten(&text, &[1, 24, 97, 130]);
            assert_eq!(found(&text), Ok(Some(text.trim())));
        }
    }

    #[test]
    fn what_is_no_document_is_reported() {
        assert_eq!(found("hello"), Err("not an XML document"));
        assert_eq!(found("  x<a/>"), Err("not an XML document"));
        let endless = format!("<a b='{}", "x".repeat(LONGEST_TOKEN));
        assert_eq!(Framing::default().advance(endless.as_bytes()), Err("a tag or comment of the document has no end"));
    }
}
