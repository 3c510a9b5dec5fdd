//! `bytes` fields in the JSON form of messages: in this protocol they hold JSON documents, which are shown as such.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// The document in `bytes`; `null` if empty; base64 text if it is no JSON (a screenshot).
pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    if bytes.is_empty() {
        return serializer.serialize_none();
    }
    match serde_json::from_slice::<Value>(bytes) {
        Ok(document) => document.serialize(serializer),
        Err(_) => serializer.serialize_str(&STANDARD.encode(bytes)),
    }
}

/// The bytes of a document; `null` is empty.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(Vec::new()),
        document => Ok(document.to_string().into_bytes()),
    }
}
