//! Events of the parser into values: anchors, merge keys, limits.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

use super::{Content, Entry, Node, Place, SyntaxError, scalar};

/// How deep values may be nested; serde_json has the same limit.
const DEEPEST: usize = 128;
/// How many values a text may become, those that aliases repeat included.
const MOST_VALUES: usize = 1_000_000;
/// How many bytes of text they may have altogether.
const MOST_TEXT: usize = 64 << 20;

/// Reads all documents of a YAML text.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let mut builder =
        Builder { parser: Parser::new_from_str(text), anchors: HashMap::new(), values: 0, text: 0, depth: 0 };
    let mut documents = Vec::new();
    loop {
        match builder.event()? {
            (Event::DocumentStart(_), _) => {
                builder.anchors.clear();
                let (event, span) = builder.event()?;
                documents.push(builder.node(event, span)?);
            }
            (Event::StreamEnd, _) => return Ok(documents),
            _ => {}
        }
    }
}

struct Builder<'input> {
    parser: Parser<'input, StrInput<'input>>,
    anchors: HashMap<usize, Node>,
    values: usize,
    text: usize,
    depth: usize,
}

impl<'input> Builder<'input> {
    fn event(&mut self) -> Result<(Event<'input>, Span), SyntaxError> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => Err(SyntaxError::new(place(*error.marker()), error.info())),
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'input>, span: Span) -> Result<Node, SyntaxError> {
        let at = place(span.start);
        let (anchor, content) = match event {
            Event::Alias(anchor) => {
                let mut node = self.anchors.get(&anchor).cloned().ok_or_else(|| {
                    // An anchor that is not complete yet contains its own alias.
                    SyntaxError::new(at, "the alias names no anchor that stands before it")
                })?;
                let (values, text) = weight(&node);
                self.count(values, text, at)?;
                node.place = at;
                return Ok(node);
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, text.len(), at)?;
                (anchor, content(&text, style, tag.as_deref(), at)?)
            }
            Event::SequenceStart(anchor, _) => {
                self.count(1, 0, at)?;
                self.deeper(at)?;
                let mut items = Vec::new();
                loop {
                    match self.event()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span)?),
                    }
                }
                self.depth -= 1;
                (anchor, Content::List(items))
            }
            Event::MappingStart(anchor, _) => {
                self.count(1, 0, at)?;
                self.deeper(at)?;
                let entries = self.entries()?;
                self.depth -= 1;
                (anchor, Content::Map(entries))
            }
            other => return Err(SyntaxError::new(at, format!("a value is expected, not {other:?}"))),
        };
        let node = Node { content, place: at };
        if anchor != 0 {
            let (values, text) = weight(&node);
            self.count(values, text, at)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn entries(&mut self) -> Result<Vec<Entry>, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let (event, span) = self.event()?;
            if event == Event::MappingEnd {
                return Ok(entries);
            }
            let is_merge = matches!(&event, Event::Scalar(text, style, _, tag)
                if text == "<<" && (*style == ScalarStyle::Plain && tag.is_none() || has_tag(tag.as_deref(), "merge")));
            let at = place(span.start);
            let key = self.node(event, span)?;
            let (event, span) = self.event()?;
            let value = self.node(event, span)?;
            if is_merge {
                merge(&mut entries, value, at)?;
            } else {
                // A key of the map itself takes the place of a merged one.
                let key = scalar::key(&key).map_err(|problem| SyntaxError::new(at, problem))?;
                entries.retain(|entry| !(entry.merged && entry.key == key));
                entries.push(Entry { key, place: at, merged: false, replaced: None, value });
            }
        }
    }

    fn deeper(&mut self, at: Place) -> Result<(), SyntaxError> {
        self.depth += 1;
        match self.depth > DEEPEST {
            true => Err(SyntaxError::new(at, format!("nested more than {DEEPEST} deep"))),
            false => Ok(()),
        }
    }

    fn count(&mut self, values: usize, text: usize, at: Place) -> Result<(), SyntaxError> {
        self.values = self.values.saturating_add(values);
        self.text = self.text.saturating_add(text);
        if self.values > MOST_VALUES || self.text > MOST_TEXT {
            let problem = format!("more than {MOST_VALUES} values or {} MiB of text, with aliases", MOST_TEXT >> 20);
            return Err(SyntaxError::new(at, problem));
        }
        Ok(())
    }
}

/// `<<: *a`, `<<: {…}` or a list of these, of which the first has precedence. What is merged replaces what stands before
/// the merge key, and what stands after it replaces what was merged.
fn merge(entries: &mut Vec<Entry>, value: Node, at: Place) -> Result<(), SyntaxError> {
    let wrong = || SyntaxError::new(at, "the value of `<<` must be a map, an alias of one, or a list of these");
    let maps = match value.content {
        Content::Map(map) => vec![map],
        Content::List(items) => {
            let maps = items.into_iter().map(|item| match item.content {
                Content::Map(map) => Ok(map),
                _ => Err(wrong()),
            });
            maps.collect::<Result<Vec<_>, _>>()?
        }
        _ => return Err(wrong()),
    };
    for mut new in maps.into_iter().rev().flatten() {
        let before = entries.iter().find(|entry| entry.key == new.key);
        let own = before.and_then(|entry| if entry.merged { entry.replaced } else { Some(entry.place) });
        entries.retain(|entry| entry.key != new.key);
        (new.merged, new.replaced) = (true, own);
        entries.push(new);
    }
    Ok(())
}

fn content(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Place) -> Result<Content, SyntaxError> {
    let plain = style == ScalarStyle::Plain;
    let tag = match tag {
        None if plain => return scalar::resolve(text).map_err(|problem| SyntaxError::new(at, problem)),
        None => return Ok(Content::Text(text.to_owned())),
        Some(tag) => tag,
    };
    let wrong = || SyntaxError::new(at, format!("{text:?} is not a value of the tag {tag}"));
    let resolved = || scalar::resolve(text).map_err(|problem| SyntaxError::new(at, problem));
    match core_tag(tag).as_deref() {
        Some("null") => resolved().and_then(|value| if value == Content::Null { Ok(value) } else { Err(wrong()) }),
        Some("bool") => resolved().and_then(|value| match value {
            Content::Bool(_) => Ok(value),
            _ => Err(wrong()),
        }),
        Some("int" | "float") => resolved().and_then(|value| match value {
            Content::Number(_) => Ok(value),
            _ => Err(wrong()),
        }),
        Some("binary") => Err(SyntaxError::new(at, "the tag !!binary is not supported; write the text in base64")),
        // `!!str`, `!`, and tags of one's own.
        Some(_) | None => Ok(Content::Text(text.to_owned())),
    }
}

/// `int` of `!!int`.
fn core_tag(tag: &Tag) -> Option<String> {
    let whole = format!("{}{}", tag.handle, tag.suffix);
    whole.strip_prefix("tag:yaml.org,2002:").or_else(|| whole.strip_prefix("!!")).map(str::to_owned)
}

fn has_tag(tag: Option<&Tag>, name: &str) -> bool {
    tag.and_then(core_tag).is_some_and(|found| found == name)
}

/// How many values it is, and how much text.
fn weight(node: &Node) -> (usize, usize) {
    match &node.content {
        Content::Null | Content::Bool(_) | Content::Number(_) => (1, 0),
        Content::Text(text) => (1, text.len()),
        Content::List(items) => items.iter().map(weight).fold((1, 0), add),
        Content::Map(entries) => {
            entries.iter().map(|entry| add((0, entry.key.len()), weight(&entry.value))).fold((1, 0), add)
        }
    }
}

fn add(one: (usize, usize), other: (usize, usize)) -> (usize, usize) {
    (one.0.saturating_add(other.0), one.1.saturating_add(other.1))
}

fn place(marker: Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}
