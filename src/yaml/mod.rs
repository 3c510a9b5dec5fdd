//! YAML and JSON as kubectl reads them, with the line of every key and value.
//!
//! kubectl reads by `sigs.k8s.io/yaml` on go-yaml v2 (as KubeVirt at commit d923fdb815 vendors them): YAML 1.1 scalars
//! (`yes` is true, `0777` is 511), merge keys (`<<`), anchors, several documents. The grammar is `saphyr-parser`'s;
//! what an event means is decided here.

mod build;
mod json;
mod scalar;

use serde_json::{Map, Number, Value};

/// Where something stands in its file. Both are 0 where that is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub content: Content,
    /// Where it begins.
    pub place: Place,
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// `null`, `~` or nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A map, as written: a key may be there twice.
    Map(Vec<Entry>),
}

/// A key of a map and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub place: Place,
    /// Whether it came by a merge key (`<<`).
    pub merged: bool,
    /// Where the map's own value of this key stands, which a merge key after it has replaced.
    pub replaced: Option<Place>,
    /// The value.
    pub value: Node,
}

/// Why a text is not a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {problem}", place.line, place.column)]
pub struct SyntaxError {
    /// Where.
    pub place: Place,
    /// What is wrong.
    pub problem: String,
}

impl SyntaxError {
    fn new(place: Place, problem: impl Into<String>) -> Self {
        SyntaxError { place, problem: problem.into() }
    }
}

/// Reads all documents of a text. One that begins with a brace is JSON, if it is JSON.
pub fn documents(text: &str) -> Result<Vec<Node>, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.trim_start().starts_with('{') {
        return build::documents(text);
    }
    match json::documents(text) {
        // JSON is YAML but for a few escapes, and only the YAML reader knows lines.
        Ok(plain) => Ok(build::documents(text).ok().filter(|placed| same(placed, &plain)).unwrap_or(plain)),
        // A JSON reader reports a mistake in JSON best.
        Err(error) => build::documents(text).map_err(|_| error),
    }
}

fn same(one: &[Node], other: &[Node]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.to_value() == other.to_value())
}

impl Node {
    /// The value without places. Of a key that is there twice the last one counts, as with kubectl.
    pub fn to_value(&self) -> Value {
        match &self.content {
            Content::Null => Value::Null,
            Content::Bool(value) => Value::Bool(*value),
            Content::Number(number) => Value::Number(number.clone()),
            Content::Text(text) => Value::String(text.clone()),
            Content::List(items) => Value::Array(items.iter().map(Node::to_value).collect()),
            Content::Map(entries) => {
                let mut map = Map::new();
                for entry in entries {
                    map.insert(entry.key.clone(), entry.value.to_value());
                }
                Value::Object(map)
            }
        }
    }

    /// The value of a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// A key and its value, if this is a map that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.content {
            Content::Map(entries) => entries.iter().rev().find(|entry| entry.key == key),
            Content::Null | Content::Bool(_) | Content::Number(_) | Content::Text(_) | Content::List(_) => None,
        }
    }

    /// The text, if this is one.
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::Null | Content::Bool(_) | Content::Number(_) | Content::List(_) | Content::Map(_) => None,
        }
    }

    /// The text of a key, if this is a map that has it.
    pub fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key)?.text()
    }

    /// What it is, in the words of serde's errors.
    pub fn describe(&self) -> String {
        match &self.content {
            Content::Null => "null".to_owned(),
            Content::Bool(value) => format!("boolean `{value}`"),
            Content::Number(number) => match number.is_f64() {
                true => format!("floating point `{number}`"),
                false => format!("integer `{number}`"),
            },
            Content::Text(text) => format!("string {text:?}"),
            Content::List(_) => "sequence".to_owned(),
            Content::Map(_) => "map".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn values(text: &str) -> Vec<Value> {
        documents(text).unwrap().iter().map(Node::to_value).collect()
    }

    #[test]
    fn merge_keys_are_merged_as_kubectl_merges_them() {
        let text = "a: &x {bus: virtio, q: 1}\nb: {<<: *x, q: 2}\nc: {<<: [{bus: a}, {bus: b, z: 1}]}\n\
                    d: {<<: {q: 3}, e: {<<: *x}}\nf: {bus: sata, <<: *x}\ng: {'<<': 1}\n";
        assert_eq!(
            values(text)[0],
            json!({
                "a": {"bus": "virtio", "q": 1}, "b": {"bus": "virtio", "q": 2}, "c": {"bus": "a", "z": 1},
                "d": {"q": 3, "e": {"bus": "virtio", "q": 1}},
                // Seen with sigs.k8s.io/yaml 1.6: a merge key that stands after a key replaces it.
                "f": {"bus": "virtio", "q": 1}, "g": {"<<": 1},
            })
        );
        for bad in ["a: {<<: 1}", "a: {<<: [1]}", "a: {<<: }", "a: {<<: *nobody}"] {
            assert!(documents(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn documents_are_separate_and_empty_ones_are_null() {
        assert_eq!(values("a: 1\n---\n---\nb: 2\n...\n"), [json!({"a": 1}), json!(null), json!({"b": 2})]);
        assert!(values("").is_empty() && values("# nothing\n").is_empty());
        assert_eq!(values("\u{feff}a: 1\r\nb: 2\r\n"), [json!({"a": 1, "b": 2})]);
    }

    #[test]
    fn places_are_lines_and_columns_of_keys_and_values() {
        let nodes = documents("a:\n  b: 1\n  c:\n  - x\n  - {d: 2}\n").unwrap();
        let c = nodes[0].get("a").unwrap().entry("c").unwrap();
        assert_eq!(c.place, Place { line: 3, column: 3 });
        let Content::List(items) = &c.value.content else { panic!("{c:?}") };
        assert_eq!(items[1].entry("d").unwrap().place, Place { line: 5, column: 6 });
        let error = documents("a: 1\nb: [\n").unwrap_err();
        assert!(error.to_string().starts_with("line "), "{error}");
    }

    #[test]
    fn json_is_read_as_json_and_keeps_its_lines() {
        let nodes = documents("{\n\t\"a\": \"yes\",\n\t\"b\": [1.5, true, null]\n}").unwrap();
        assert_eq!(nodes[0].to_value(), json!({"a": "yes", "b": [1.5, true, null]}));
        assert_eq!(nodes[0].entry("b").unwrap().place.line, 3);
        // An escape that YAML does not have.
        assert_eq!(values(r#"{"a": "\ud83d\ude00"}"#)[0], json!({"a": "\u{1f600}"}));
        assert_eq!(values("{\"a\": 1}\n{\"a\": 2}").len(), 2);
        assert_eq!(values("{a: yes}")[0], json!({"a": true}));
        let error = documents("{\"spec\":").unwrap_err();
        assert!(error.to_string().contains("line 1, column 8: EOF while parsing a value"), "{error}");
    }

    #[test]
    fn key_that_is_there_twice_is_kept_and_the_last_one_counts() {
        for text in ["a: 1\na: 2\n", "{\"a\": 1, \"a\": 2}"] {
            let nodes = documents(text).unwrap();
            let Content::Map(entries) = &nodes[0].content else { panic!("{nodes:?}") };
            assert_eq!(entries.len(), 2);
            assert_eq!(nodes[0].to_value(), json!({"a": 2}));
        }
    }

    #[test]
    fn what_would_grow_without_end_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..12 {
            let below = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![below; 10].join(", ")));
        }
        assert!(documents(&bomb).unwrap_err().problem.contains("values"));
        assert!(documents(&"[".repeat(100_000)).is_err());
        assert!(documents(&format!("{}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000))).is_err());
        assert!(documents(&format!("a: {}1{}", "[".repeat(300), "]".repeat(300))).is_err());
        assert!(documents("a: &a [*a]").is_err());
    }
}
