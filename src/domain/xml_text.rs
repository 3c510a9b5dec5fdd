//! A domain document as text, changed in places and otherwise kept byte for byte.
//!
//! A document of libvirt holds more than [`DomainSpec`](super::DomainSpec) knows, and a migration must lose nothing of it: it
//! is read only to find the places where something is to be written.

use std::borrow::Cow;
use std::ops::Range;

use quick_xml::Reader;
use quick_xml::events::Event;

/// Deeper than any domain document.
const MAX_DEPTH: usize = 256;

/// Why a text cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not well-formed.
    #[error("byte {at} of the XML: {why}")]
    Syntax {
        /// Where.
        at: usize,
        /// What the reader says.
        why: String,
    },
    /// The text ends inside an element, or there is none.
    #[error("the XML ends before its outermost element does")]
    Truncated,
    /// More levels than any domain has.
    #[error("byte {at} of the XML: elements nested more than {MAX_DEPTH} deep")]
    TooDeep {
        /// Where it became too deep.
        at: usize,
    },
}

/// A document with the places of its elements.
#[derive(Debug)]
pub struct XmlText<'t> {
    text: &'t str,
    /// The outermost element first, each before those inside it.
    elements: Vec<Element>,
}

/// Where an element is.
#[derive(Debug)]
struct Element {
    name: Range<usize>,
    start_tag: Range<usize>,
    /// From the start tag's begin to the end tag's end.
    whole: Range<usize>,
    /// Whether it is written as `<a/>`.
    is_closed_at_once: bool,
    attributes: Vec<Attribute>,
    children: Vec<usize>,
}

/// Where an attribute is.
#[derive(Debug)]
struct Attribute {
    name: Range<usize>,
    /// Without the quotes.
    value: Range<usize>,
}

impl<'t> XmlText<'t> {
    /// Reads a text that holds one outermost element; what stands before and behind is kept.
    pub fn read(text: &'t str) -> Result<Self, TextError> {
        let mut reader = Reader::from_str(text);
        let mut elements: Vec<Element> = Vec::new();
        let mut open: Vec<usize> = Vec::new();
        loop {
            let begin = position(reader.buffer_position(), text);
            let event = reader.read_event().map_err(|error| TextError::Syntax {
                at: position(reader.error_position(), text),
                why: error.to_string(),
            })?;
            let end = position(reader.buffer_position(), text);
            match event {
                Event::Start(_) | Event::Empty(_) => {
                    let is_closed_at_once = matches!(event, Event::Empty(_));
                    if open.is_empty() && !elements.is_empty() {
                        return Err(TextError::Syntax { at: begin, why: "a second outermost element".to_owned() });
                    }
                    if open.len() >= MAX_DEPTH {
                        return Err(TextError::TooDeep { at: begin });
                    }
                    let (name, attributes) = start_tag(text, begin..end)?;
                    let at = elements.len();
                    if let Some(parent) = open.last().and_then(|parent| elements.get_mut(*parent)) {
                        parent.children.push(at);
                    }
                    let (start_tag, whole) = (begin..end, begin..end);
                    elements.push(Element {
                        name,
                        start_tag,
                        whole,
                        is_closed_at_once,
                        attributes,
                        children: Vec::new(),
                    });
                    if !is_closed_at_once {
                        open.push(at);
                    }
                }
                Event::End(_) => {
                    if let Some(element) = open.pop().and_then(|at| elements.get_mut(at)) {
                        element.whole.end = end;
                    }
                }
                Event::Eof => break,
                Event::Text(_)
                | Event::CData(_)
                | Event::GeneralRef(_)
                | Event::Comment(_)
                | Event::PI(_)
                | Event::Decl(_)
                | Event::DocType(_) => {}
            }
        }
        if elements.is_empty() || !open.is_empty() {
            return Err(TextError::Truncated);
        }
        Ok(XmlText { text, elements })
    }

    /// The outermost element.
    pub fn root(&self) -> Node<'_> {
        Node { document: self, at: 0 }
    }

    fn part(&self, range: &Range<usize>) -> &str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    /// White space directly before a place, if nothing but a tag stands before that; else none.
    fn indentation(&self, at: usize) -> &str {
        let before = self.text.get(..at).unwrap_or_default();
        let bare = before.trim_end_matches([' ', '\t', '\r', '\n']);
        match bare.ends_with('>') || bare.is_empty() {
            true => before.get(bare.len()..).unwrap_or_default(),
            false => "",
        }
    }
}

fn position(at: u64, text: &str) -> usize {
    usize::try_from(at).unwrap_or(usize::MAX).min(text.len())
}

/// Name and attributes of the start tag in `range`, which quick-xml has found to be one.
fn start_tag(text: &str, range: Range<usize>) -> Result<(Range<usize>, Vec<Attribute>), TextError> {
    let fault = |at: usize, why: &str| TextError::Syntax { at, why: why.to_owned() };
    let inner = text.get(range.clone()).and_then(|tag| tag.strip_prefix('<')?.strip_suffix('>'));
    let Some(inner) = inner else { return Err(fault(range.start, "not a start tag")) };
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    let base = range.start + 1;
    let is_space = |c: char| c.is_ascii_whitespace();
    let name_end = inner.find(is_space).unwrap_or(inner.len());
    let mut attributes = Vec::new();
    let mut at = name_end;
    loop {
        let rest = inner.get(at..).unwrap_or_default();
        let trimmed = rest.trim_start_matches(is_space);
        if trimmed.is_empty() {
            return Ok((base..base + name_end, attributes));
        }
        let begin = at + (rest.len() - trimmed.len());
        let Some(equals) = trimmed.find('=') else { return Err(fault(base + begin, "an attribute without value")) };
        let name = trimmed.get(..equals).unwrap_or_default().trim_end_matches(is_space);
        let value = trimmed.get(equals + 1..).unwrap_or_default();
        let bare = value.trim_start_matches(is_space);
        let quote = bare.chars().next().filter(|quote| matches!(quote, '"' | '\''));
        let Some(quote) = quote else { return Err(fault(base + begin, "an attribute's value without quotes")) };
        let value_begin = begin + equals + 1 + (value.len() - bare.len()) + 1;
        let Some(length) = inner.get(value_begin..).and_then(|value| value.find(quote)) else {
            return Err(fault(base + begin, "an attribute's value without end"));
        };
        attributes.push(Attribute {
            name: base + begin..base + begin + name.len(),
            value: base + value_begin..base + value_begin + length,
        });
        at = value_begin + length + 1;
    }
}

/// An element of a document.
#[derive(Debug, Clone, Copy)]
pub struct Node<'d> {
    document: &'d XmlText<'d>,
    at: usize,
}

impl<'d> Node<'d> {
    fn element(self) -> Option<&'d Element> {
        self.document.elements.get(self.at)
    }

    /// Its name as it is written, with a prefix if there is one.
    pub fn name(self) -> &'d str {
        self.element().map(|element| self.document.part(&element.name)).unwrap_or_default()
    }

    /// An attribute's value.
    pub fn attribute(self, name: &str) -> Option<Cow<'d, str>> {
        let attribute = self.place_of(name)?;
        let raw = self.document.part(&attribute.value);
        Some(quick_xml::escape::unescape(raw).unwrap_or(Cow::Borrowed(raw)))
    }

    fn place_of(self, name: &str) -> Option<&'d Attribute> {
        let mut attributes = self.element()?.attributes.iter();
        attributes.find(|attribute| self.document.part(&attribute.name) == name)
    }

    /// The elements directly inside it.
    pub fn children(self) -> impl Iterator<Item = Node<'d>> {
        let children = self.element().map(|element| element.children.as_slice()).unwrap_or_default();
        children.iter().map(move |at| Node { document: self.document, at: *at })
    }

    /// Those of a name.
    pub fn all(self, name: &str) -> impl Iterator<Item = Node<'d>> {
        self.children().filter(move |child| child.name() == name)
    }

    /// The first of a name.
    pub fn child(self, name: &str) -> Option<Node<'d>> {
        self.all(name).next()
    }

    /// The first element at the end of a path of names below it.
    pub fn find(self, path: &[&str]) -> Option<Node<'d>> {
        path.iter().try_fold(self, |node, name| node.child(name))
    }

    /// The element as it is written.
    pub fn text(self) -> &'d str {
        self.element().map(|element| self.document.part(&element.whole)).unwrap_or_default()
    }
}

/// Changes to a document.
#[derive(Debug)]
pub struct Edits<'d> {
    document: &'d XmlText<'d>,
    /// What is replaced, in the order in which it was asked for; an empty range inserts.
    changes: Vec<(Range<usize>, String)>,
}

impl<'d> Edits<'d> {
    /// None yet.
    pub fn new(document: &'d XmlText<'d>) -> Self {
        Edits { document, changes: Vec::new() }
    }

    /// Gives an attribute a value, or the element the attribute. The value that it has already is left as it is written.
    pub fn set(&mut self, node: Node<'d>, name: &str, value: &str) {
        if node.attribute(name).is_some_and(|old| old == value) {
            return;
        }
        let escaped = escape(value);
        if let Some(attribute) = node.place_of(name) {
            self.changes.push((attribute.value.clone(), escaped));
        } else if let Some(element) = node.element() {
            // Behind the last attribute's closing quote.
            let end = element.attributes.last().map_or(element.name.end, |last| last.value.end + 1);
            self.changes.push((end..end, format!(" {name}='{escaped}'")));
        }
    }

    /// Takes an attribute away, with the white space before it.
    pub fn unset(&mut self, node: Node<'d>, name: &str) {
        if let Some(attribute) = node.place_of(name) {
            let before = self.document.text.get(..attribute.name.start).unwrap_or_default();
            let begin = before.trim_end_matches(|c: char| c.is_ascii_whitespace()).len();
            self.changes.push((begin..attribute.value.end + 1, String::new()));
        }
    }

    /// Takes an element away, with the white space before it.
    pub fn remove(&mut self, node: Node<'d>) {
        if let Some(element) = node.element() {
            let begin = element.whole.start - self.document.indentation(element.whole.start).len();
            self.changes.push((begin..element.whole.end, String::new()));
        }
    }

    /// Puts an element, given as text, behind another one, on the same level.
    pub fn insert_after(&mut self, node: Node<'d>, xml: &str) {
        if let Some(element) = node.element() {
            let indentation = self.document.indentation(element.whole.start);
            let end = element.whole.end;
            self.changes.push((end..end, format!("{indentation}{xml}")));
        }
    }

    /// Puts elements, given as texts, into another one, behind what is in it.
    pub fn append(&mut self, parent: Node<'d>, elements: &[String]) {
        let Some(element) = parent.element() else { return };
        if let Some(last) = parent.children().last() {
            for xml in elements {
                self.insert_after(last, xml);
            }
            return;
        }
        let outer = self.document.indentation(element.whole.start);
        // On a line of their own if the parent is.
        let inner = if outer.contains('\n') { format!("{outer}  ") } else { String::new() };
        let outer = if inner.is_empty() { "" } else { outer };
        let content: String = elements.iter().map(|xml| format!("{inner}{xml}")).collect();
        if element.is_closed_at_once {
            let slash = element.start_tag.end.saturating_sub(2);
            let name = parent.name();
            self.changes.push((slash..element.start_tag.end, format!(">{content}{outer}</{name}>")));
        } else {
            let end = element.start_tag.end;
            let inner = element.whole.start + parent.text().rfind("</").unwrap_or_default();
            let outer = if inner == end { outer } else { "" };
            self.changes.push((end..end, format!("{content}{outer}")));
        }
    }

    /// The changed text. Changes of the same place stand in the order in which they were asked for; what lies inside an
    /// element that is taken away goes with it.
    pub fn finish(mut self) -> String {
        self.changes.sort_by_key(|(range, _)| (range.start, range.end));
        let text = self.document.text;
        let mut changed = String::with_capacity(text.len() + 256);
        let mut at = 0;
        for (range, with) in &self.changes {
            if range.start < at {
                continue;
            }
            changed.push_str(text.get(at..range.start).unwrap_or_default());
            changed.push_str(with);
            at = range.end;
        }
        changed.push_str(text.get(at..).unwrap_or_default());
        changed
    }
}

/// A value as it may stand between quotes of either kind.
pub fn escape(value: &str) -> String {
    quick_xml::escape::escape(value).into_owned()
}

#[cfg(test)]
pub(crate) mod tests;
