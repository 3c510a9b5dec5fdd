//! The agent's commands as JSON. Texts of callers go through a JSON writer, never into a template.

use serde_json::json;

/// Version and commands of the agent.
pub(super) const INFO: &str = "guest-info";
/// Mounted file systems.
pub(super) const FSINFO: &str = "guest-get-fsinfo";
/// Whether the file systems are frozen.
pub(super) const FREEZE_STATUS: &str = "guest-fsfreeze-status";
/// Nothing, to see whether the agent answers.
pub(super) const PING: &str = "guest-ping";
/// Starts a process.
pub(super) const EXEC: &str = "guest-exec";
/// What became of a process.
pub(super) const EXEC_STATUS: &str = "guest-exec-status";
/// Opens a file.
pub(super) const FILE_OPEN: &str = "guest-file-open";
/// Reads the next bytes.
pub(super) const FILE_READ: &str = "guest-file-read";
/// Writes the next bytes.
pub(super) const FILE_WRITE: &str = "guest-file-write";
/// Closes a file.
pub(super) const FILE_CLOSE: &str = "guest-file-close";

/// A command without arguments.
pub(super) fn bare(command: &str) -> String {
    json!({ "execute": command }).to_string()
}

/// `guest-exec` with its output kept for `guest-exec-status`.
pub(super) fn exec(path: &str, arguments: &[String]) -> String {
    ascii(
        &json!({ "execute": EXEC, "arguments": { "path": path, "arg": arguments, "capture-output": true } })
            .to_string(),
    )
}

/// `guest-exec-status`.
pub(super) fn exec_status(pid: i64) -> String {
    json!({ "execute": EXEC_STATUS, "arguments": { "pid": pid } }).to_string()
}

/// `guest-file-open`, in C's mode.
pub(super) fn file_open(path: &str, mode: &str) -> String {
    ascii(&json!({ "execute": FILE_OPEN, "arguments": { "path": path, "mode": mode } }).to_string())
}

/// `guest-file-read` of at most `count` bytes.
pub(super) fn file_read(handle: i64, count: usize) -> String {
    json!({ "execute": FILE_READ, "arguments": { "handle": handle, "count": count } }).to_string()
}

/// `guest-file-write` of what is base64 here.
pub(super) fn file_write(handle: i64, base64: &str) -> String {
    json!({ "execute": FILE_WRITE, "arguments": { "handle": handle, "buf-b64": base64 } }).to_string()
}

/// `guest-file-close`.
pub(super) fn file_close(handle: i64) -> String {
    json!({ "execute": FILE_CLOSE, "arguments": { "handle": handle } }).to_string()
}

/// JSON without other than ASCII characters, which not every libvirt takes.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_the_documented_ones() {
        assert_eq!(bare(PING), r#"{"execute":"guest-ping"}"#);
        assert_eq!(exec_status(7), r#"{"execute":"guest-exec-status","arguments":{"pid":7}}"#);
        assert_eq!(
            exec("/bin/true", &[]),
            r#"{"execute":"guest-exec","arguments":{"path":"/bin/true","arg":[],"capture-output":true}}"#
        );
    }

    #[test]
    fn what_a_caller_writes_stays_a_text() {
        let hostile = r#"x","capture-output":false},"execute":"guest-shutdown","y":{"z":""#;
        let text = exec(hostile, &["a\nb\"\\".to_owned(), "ü𝄞\u{0}".to_owned()]);
        assert!(text.is_ascii() && text.contains("\\u00fc\\ud834\\udd1e"), "{text}");
        let command: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(command["execute"], "guest-exec");
        assert_eq!(command["arguments"]["path"], hostile);
        assert_eq!(command["arguments"]["arg"], json!(["a\nb\"\\", "ü𝄞\u{0}"]));
    }
}
