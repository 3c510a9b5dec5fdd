//! Lines of a libvirt daemon's standard error (contract/lifecycle.md 5.2).

use std::time::Instant;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::lines::Lines;
use super::repeats::Repeats;
use super::{Forwarded, Sink};
use crate::logging::Level;

/// From this verbosity on, complaints about the guest agent are shown.
const AGENT_VERBOSITY: i32 = 4;

/// Where a daemon's lines go.
#[derive(Debug, Clone)]
pub struct LibvirtLog {
    /// The launcher's verbosity.
    pub verbosity: i32,
    /// The log.
    pub sink: Sink,
}

/// Forwards a daemon's log until it ends. Never stops before: a daemon blocks when its log has no reader.
pub async fn forward_libvirt(mut log: impl AsyncRead + Unpin, to: LibvirtLog) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 8 * 1024];
    let mut repeats = Repeats::new(to.sink);
    loop {
        let read = match repeats.due() {
            None => log.read(&mut buffer).await,
            // What a read that did not come to its end would have read is still there for the next one.
            Some(due) => match tokio::time::timeout_at(due.into(), log.read(&mut buffer)).await {
                Ok(read) => read,
                Err(_) => {
                    repeats.settle();
                    continue;
                }
            },
        };
        match read {
            Ok(0) => break,
            Ok(count) => {
                lines.push(buffer.get(..count).unwrap_or_default(), |line| show(&mut repeats, &line, to.verbosity))
            }
            Err(error) => {
                tracing::warn!(reason = %error, "cannot read a libvirt daemon's log any further");
                break;
            }
        }
    }
    lines.finish(|line| show(&mut repeats, &line, to.verbosity));
    repeats.settle();
}

fn show(repeats: &mut Repeats, line: &super::Line<'_>, verbosity: i32) {
    if let Some(record) = parse_libvirt_line(&line.text(), verbosity) {
        repeats.put(record, Instant::now());
    }
}

/// Takes a line apart: `time: thread: severity : function:line : text`. None for one that is not to be shown. What has not
/// this form (continuations, messages of libraries) is kept whole.
pub fn parse_libvirt_line(line: &str, verbosity: i32) -> Option<Forwarded> {
    if line.trim().is_empty() {
        return None;
    }
    let mut record = regular(line).unwrap_or_else(|| Forwarded::plain("libvirt", Level::Info, line));
    if record.message.contains("unable to execute QEMU agent command") {
        if verbosity < AGENT_VERBOSITY {
            return None;
        }
        record.level = Level::Warning;
    }
    Some(record)
}

fn regular(line: &str) -> Option<Forwarded> {
    let mut parts = line.splitn(5, ": ");
    let (time, thread, severity, fourth, fifth) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?, parts.next());
    let level = match severity.trim().to_ascii_lowercase().as_str() {
        "debug" | "info" => Level::Info,
        "warning" => Level::Warning,
        "error" => Level::Error,
        _ => return None,
    };
    let timestamp = Some(timestamp(time.trim())?);
    let (pos, message) = match fifth {
        Some(text) if is_position(fourth.trim()) => (Some(fourth.trim().to_owned()), text.trim().to_owned()),
        Some(text) => (None, format!("{fourth}: {text}").trim().to_owned()),
        // libvirt omits what is empty; the fourth part is all the text there is.
        None => (None, fourth.trim().to_owned()),
    };
    Some(Forwarded { subcomponent: "libvirt", level, message, pos, thread: Some(thread.trim().to_owned()), timestamp })
}

/// `word:number`.
fn is_position(text: &str) -> bool {
    text.split_once(':').is_some_and(|(word, number)| {
        !word.is_empty()
            && !word.contains(char::is_whitespace)
            && !number.is_empty()
            && number.bytes().all(|digit| digit.is_ascii_digit())
    })
}

/// `2026-11-21 03:02:20.820+0000` in the log's form: the wall clock as it stands, with six digits and a `Z`.
fn timestamp(text: &str) -> Option<String> {
    let (date, rest) = text.split_once(' ')?;
    let (clock, offset) = rest.split_at_checked(rest.find(['+', '-'])?)?;
    let (clock, fraction) = clock.split_once('.')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let [_] = numbers(offset.get(1..)?, ' ', [4])?;
    let valid = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !valid || fraction.is_empty() || !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:0<6.6}Z"))
}

/// Exactly N numbers of these lengths.
fn numbers<const N: usize>(text: &str, separator: char, lengths: [usize; N]) -> Option<[u32; N]> {
    let mut parts = text.split(separator);
    let mut found = [0; N];
    for (number, length) in found.iter_mut().zip(lengths) {
        let part =
            parts.next().filter(|part| part.len() == length && part.bytes().all(|digit| digit.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIME: &str = "2026-11-21 03:02:20.820+0000";

    fn parsed(line: &str) -> Forwarded {
        parse_libvirt_line(line, 2).unwrap()
    }

    #[test]
    fn regular_line_is_taken_apart() {
        let line = format!("{TIME}: 48: error : virHostCPUGetCPUID:1467 : Unable to open /dev/kvm: Permission denied");
        assert_eq!(
            parsed(&line),
            Forwarded {
                subcomponent: "libvirt",
                level: Level::Error,
                message: "Unable to open /dev/kvm: Permission denied".into(),
                pos: Some("virHostCPUGetCPUID:1467".into()),
                thread: Some("48".into()),
                timestamp: Some("2026-11-21T03:02:20.820000Z".into()),
            }
        );
        let debug = parsed("2026-11-21 03:02:20.820+0530: 48: DEBUG : f:1 : text");
        assert_eq!((debug.level, debug.timestamp.as_deref()), (Level::Info, Some("2026-11-21T03:02:20.820000Z")));
    }

    #[test]
    fn lines_without_a_position_keep_their_text() {
        let version = parsed(&format!("{TIME}: 48: info : libvirt version: 11.3.0, package: 3 (Debian)"));
        assert_eq!((version.message.as_str(), version.pos), ("libvirt version: 11.3.0, package: 3 (Debian)", None));
        // Four parts killed the original.
        let four = parsed(&format!("{TIME}: 48: warning : something"));
        assert_eq!((four.message.as_str(), four.level), ("something", Level::Warning));
        assert!(four.timestamp.is_some());
        assert_eq!(parsed(&format!("{TIME}: 1: info : a word:12 : x")).pos, None);
    }

    #[test]
    fn what_has_another_form_is_kept_whole() {
        for line in [
            "hello",
            "a: b: c: d",
            "a: b: c: d: e",
            "  continued: with: many: colons: here",
            &format!("{TIME}x: 1: info : p"),
            &format!("{TIME}: 1: strange : p:1 : text"),
            "2026-13-21 03:02:20.820+0000: 1: info : p:1 : month",
            "2026-11-21 03:02:20.+0000: 1: info : p:1 : text",
            "\u{fffd}: : : : ",
        ] {
            assert_eq!(parsed(line), Forwarded::plain("libvirt", Level::Info, line), "{line}");
        }
        assert_eq!(parse_libvirt_line("  ", 9), None);
    }

    #[test]
    fn complaints_about_the_agent_are_quiet() {
        let line = format!("{TIME}: 1: error : qemuAgent:1 : internal error: unable to execute QEMU agent command 'x'");
        assert_eq!(parse_libvirt_line(&line, 3), None);
        assert_eq!(parse_libvirt_line(&line, 4).unwrap().level, Level::Warning);
    }

    proptest! {
        #[test]
        fn no_line_is_fatal_or_lost(line in "(2026-11-21 03:02:20\\.820[+-]0000)?(: |[a-z0-9:. -]|\\PC){0,40}") {
            prop_assert_eq!(parse_libvirt_line(&line, 4).is_none(), line.trim().is_empty());
        }
    }
}
