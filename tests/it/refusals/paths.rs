//! Fields by path, as messages name them: `spec.domain.devices.disks[0].cdrom.bus`.

use serde_json::{Value, json};

/// Sets the field, making the objects and lists above it.
pub fn set(document: &mut Value, path: &str, value: Value) {
    let mut at = document;
    for part in path.split('.') {
        let (name, index) = match part.split_once('[') {
            Some((name, index)) => (name, Some(index.trim_end_matches(']').parse::<usize>().unwrap())),
            None => (part, None),
        };
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[name];
        if let Some(index) = index {
            if !at.is_array() {
                *at = json!([]);
            }
            let list = at.as_array_mut().unwrap();
            while list.len() <= index {
                list.push(json!({}));
            }
            at = &mut list[index];
        }
    }
    *at = value;
}
