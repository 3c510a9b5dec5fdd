//! Compares what we said with what the original said, key for key.

use serde_json::{Map, Value};

/// Ends of paths, or with `*` parts of them, whose values belong to a run or to a guest: only their kind is compared.
/// Whether such a key is there belongs to the run, too.
pub struct Loose(pub &'static [&'static str]);

impl Loose {
    fn covers(&self, path: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(start) => path.contains(start),
            None => path.ends_with(pattern),
        })
    }
}

/// Differences of `ours` from `theirs`, one line each.
pub fn differences(path: &str, ours: &Value, theirs: &Value, loose: &Loose) -> Vec<String> {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => objects(path, ours, theirs, loose),
        (Value::Array(ours), Value::Array(theirs)) => arrays(path, ours, theirs, loose),
        (Value::String(our_text), Value::String(their_text)) => match (document(our_text), document(their_text)) {
            (Some(ours), Some(theirs)) => differences(path, &ours, &theirs, loose),
            _ if our_text == their_text || loose.covers(path) => Vec::new(),
            _ => vec![format!("{path}: {} instead of {}", short(ours), short(theirs))],
        },
        // An empty list may be written as null.
        (Value::Null, Value::Array(_)) | (Value::Array(_), Value::Null) if loose.covers(path) => Vec::new(),
        _ if kind(ours) != kind(theirs) => {
            vec![format!("{path}: {} instead of {}", short(ours), short(theirs))]
        }
        _ if ours == theirs || loose.covers(path) => Vec::new(),
        _ => vec![format!("{path}: {} instead of {}", short(ours), short(theirs))],
    }
}

fn objects(path: &str, ours: &Map<String, Value>, theirs: &Map<String, Value>, loose: &Loose) -> Vec<String> {
    let bound = |key: &str| !loose.covers(&format!("{path}.{key}"));
    let missing = theirs.iter().filter(|(key, _)| !ours.contains_key(*key) && bound(key));
    let missing = missing.map(|(key, value)| format!("{path}.{key}: absent instead of {}", short(value)));
    let extra = ours.iter().filter(|(key, _)| !theirs.contains_key(*key) && bound(key));
    let extra = extra.map(|(key, value)| format!("{path}.{key}: {} instead of absent", short(value)));
    let both = ours.iter().filter_map(|(key, value)| Some((key, value, theirs.get(key)?)));
    let both = both.flat_map(|(key, ours, theirs)| differences(&format!("{path}.{key}"), ours, theirs, loose));
    missing.chain(extra).chain(both).collect()
}

fn arrays(path: &str, ours: &[Value], theirs: &[Value], loose: &Loose) -> Vec<String> {
    if loose.covers(path) {
        // A list whose length belongs to the run: its elements are of one kind.
        let (Some(ours), Some(theirs)) = (ours.first(), theirs.first()) else { return Vec::new() };
        return differences(&format!("{path}[0]"), ours, theirs, loose);
    }
    if ours.len() != theirs.len() {
        return vec![format!("{path}: {} elements instead of {}", ours.len(), theirs.len())];
    }
    let pairs = ours.iter().zip(theirs).enumerate();
    pairs.flat_map(|(index, (ours, theirs))| differences(&format!("{path}[{index}]"), ours, theirs, loose)).collect()
}

fn document(text: &str) -> Option<Value> {
    text.starts_with(['{', '[']).then(|| serde_json::from_str(text).ok()).flatten()
}

fn kind(value: &Value) -> u8 {
    match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
