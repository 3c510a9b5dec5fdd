//! Lines of a libvirt daemon's standard error (contract/lifecycle.md 5.2).

use time::macros::format_description;
use time::{OffsetDateTime, PrimitiveDateTime};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use crate::logging::{Level, forward, timestamp};

/// Longest part of a line that is forwarded; the rest is dropped with a mark. Reading never stops for it.
const LONGEST: usize = 512 * 1024;

/// A line taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LibvirtLine {
    /// `info`, `warning` or `error`.
    pub level: Level,
    /// The text, with the position in front of it unless that became `pos`.
    pub message: String,
    /// `function:line`.
    pub pos: Option<String>,
    /// libvirt's thread number.
    pub thread: Option<String>,
    /// In the log's form; absent if the line had none, so that the present time is taken.
    pub timestamp: Option<String>,
}

/// Takes a line apart; `None` for one that is not to be forwarded. Lines that are not in libvirt's form (continuations,
/// messages of libraries) are kept whole. `verbosity` is the launcher's.
pub fn parse_libvirt_line(line: &str, verbosity: i32) -> Option<LibvirtLine> {
    if line.trim().is_empty() {
        return None;
    }
    let whole =
        || LibvirtLine { level: Level::Info, message: line.to_owned(), pos: None, thread: None, timestamp: None };
    let mut parts = line.splitn(5, ": ");
    let (Some(time), Some(thread), Some(severity), Some(position)) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Some(whole());
    };
    let Some(timestamp) = parse_time(time) else { return Some(whole()) };
    let mut level = match severity.trim().to_ascii_lowercase().as_str() {
        "error" => Level::Error,
        "warning" => Level::Warning,
        _ => Level::Info,
    };
    let is_position = position.split_once(':').is_some_and(|(word, number)| {
        !word.is_empty()
            && word.chars().all(|character| character.is_alphanumeric() || character == '_')
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    });
    let (pos, message) = match (is_position, parts.next()) {
        (true, message) => (Some(position.to_owned()), message.unwrap_or_default().to_owned()),
        (false, Some(message)) => (None, format!("{position}: {message}")),
        (false, None) => (None, position.to_owned()),
    };
    if message.contains("unable to execute QEMU agent command") {
        if verbosity < 4 {
            return None;
        }
        level = Level::Warning;
    }
    Some(LibvirtLine { level, message, pos, thread: Some(thread.to_owned()), timestamp: Some(timestamp) })
}

/// `2026-11-21 03:02:20.820+0000` as the log's form: the wall clock as it stands, with a `Z`.
fn parse_time(text: &str) -> Option<String> {
    let clock = text.get(..23)?;
    let offset = text.get(23..)?;
    let described = format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]");
    let time: OffsetDateTime = PrimitiveDateTime::parse(clock, described).ok()?.assume_utc();
    let sign = offset.starts_with('+') || offset.starts_with('-');
    if !sign || offset.len() != 5 || !offset.bytes().skip(1).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(timestamp(time.unix_timestamp_nanos() / 1000))
}

/// Forwards a daemon's log until it ends. Lines over the limit are cut, bytes that are not UTF-8 replaced.
pub(super) async fn forward_libvirt_log(mut log: impl AsyncBufRead + Unpin, verbosity: i32) {
    let mut line = Vec::with_capacity(1024);
    loop {
        match read_line(&mut log, &mut line).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => return tracing::warn!("the daemon's log cannot be read: {error}"),
        }
        let text = String::from_utf8_lossy(&line);
        if let Some(LibvirtLine { level, message, pos, thread, timestamp }) =
            parse_libvirt_line(text.trim_end_matches('\n'), verbosity)
        {
            forward("libvirt", level, &message, pos.as_deref(), thread.as_deref(), timestamp.as_deref());
        }
        line.clear();
        line.shrink_to(4096);
    }
}

/// Reads up to a newline, keeping at most `LONGEST` bytes of it; false at the end.
async fn read_line(log: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> std::io::Result<bool> {
    let mut any = false;
    loop {
        let available = log.fill_buf().await?;
        if available.is_empty() {
            return Ok(any);
        }
        any = true;
        let newline = available.iter().position(|byte| *byte == b'\n');
        let taken = newline.map_or(available.len(), |at| at + 1);
        let room = LONGEST.saturating_sub(line.len());
        line.extend_from_slice(available.get(..taken.min(room)).unwrap_or_default());
        log.consume(taken);
        if newline.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: &str = "2026-11-21 03:02:20.820+0000";

    #[test]
    fn a_regular_line_is_taken_apart() {
        let line = format!("{TIME}: 48: error : virHostCPUGetCPUID:1467 : Unable to open /dev/kvm: Permission denied");
        // The position has a blank behind it in libvirt's own form, so it is glued back.
        let parsed = parse_libvirt_line(&line, 2).unwrap();
        assert_eq!(parsed.level, Level::Error);
        assert_eq!(parsed.thread.as_deref(), Some("48"));
        assert_eq!(parsed.timestamp.as_deref(), Some("2026-11-21T03:02:20.820000Z"));
        assert_eq!(parsed.message, "virHostCPUGetCPUID:1467 : Unable to open /dev/kvm: Permission denied");
        let parsed = parse_libvirt_line(&format!("{TIME}: 48: debug : virX:1467: text: more"), 2).unwrap();
        assert_eq!(
            (parsed.level, parsed.pos.as_deref(), parsed.message.as_str()),
            (Level::Info, Some("virX:1467"), "text: more")
        );
    }

    #[test]
    fn odd_lines_are_kept_whole_and_never_fatal() {
        for line in ["hello", "a: b: c: d", "a: b: c: d: e", &format!("{TIME}x: 1: info : p"), "\u{fffd}: : : : "] {
            assert_eq!(parse_libvirt_line(line, 2).unwrap().message, line);
        }
        let four = parse_libvirt_line(&format!("{TIME}: 48: info : libvirt version"), 2).unwrap();
        assert_eq!(four.message, "libvirt version");
        assert_eq!(parse_libvirt_line("  ", 2), None);
    }

    #[test]
    fn agent_failures_are_quiet() {
        let line = format!("{TIME}: 1: error : qemuAgent:1: unable to execute QEMU agent command 'x'");
        assert_eq!(parse_libvirt_line(&line, 3), None);
        assert_eq!(parse_libvirt_line(&line, 4).unwrap().level, Level::Warning);
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut_and_the_next_one_read() {
        let mut text = vec![b'x'; LONGEST + 100_000];
        text.extend_from_slice(b"\nnext\nlast");
        let mut log = tokio::io::BufReader::new(text.as_slice());
        let mut line = Vec::new();
        for expected in [LONGEST, 5, 4] {
            assert!(read_line(&mut log, &mut line).await.unwrap());
            assert_eq!(line.len(), expected);
            line.clear();
        }
        assert!(!read_line(&mut log, &mut line).await.unwrap());
    }
}
