//! The flag syntax of spf13/pflag, which KubeVirt's controller writes (contract/lifecycle.md 2): `--name value`,
//! `--name=value`, booleans `--name` and `--name=false`, Go's numbers and durations. Every mistake of a command line is
//! collected, so that one run shows them all.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::domain::parse_bool;

/// One mistake, by the name of the flag.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// A flag that does not exist.
    #[error("unknown flag: {0}")]
    Unknown(String),
    /// The last word is a flag that wants a value.
    #[error("flag needs an argument: {0}")]
    NoValue(String),
    /// The value is not of the flag's type, or out of range.
    #[error("invalid argument {value:?} for {flag}: {why}")]
    Invalid {
        /// As it is written, with its dashes.
        flag: String,
        /// As it was given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
    /// A word that belongs to no flag.
    #[error("unexpected argument {0:?}")]
    Unexpected(String),
    /// An environment variable that cannot be used.
    #[error("environment variable {name}: {why}")]
    Environment {
        /// The variable.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Mistake {
    /// A value that cannot be, of the flag `name` (without dashes).
    pub fn invalid(name: &str, value: impl fmt::Display, why: impl Into<String>) -> Self {
        Mistake::Invalid { flag: format!("--{name}"), value: value.to_string(), why: why.into() }
    }
}

/// Where a flag's value goes.
pub enum Target<'a> {
    /// `--x`, `--x=true`, `--x=0`, …
    Bool(&'a mut bool),
    /// Go's `int`: decimal, `0x`, `0o`, `0b`, `_` between digits.
    Int(&'a mut i64),
    /// Go's `uint`.
    Uint(&'a mut u64),
    /// Go's duration.
    Duration(&'a mut Duration),
    /// The same, where leaving it out means something.
    OptionalDuration(&'a mut Option<Duration>),
    /// Any text.
    Text(&'a mut String),
    /// A path.
    Path(&'a mut PathBuf),
    /// A text whose absence means something.
    OptionalText(&'a mut Option<String>),
    /// A path whose absence means something.
    OptionalPath(&'a mut Option<PathBuf>),
}

impl Target<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Target::Bool(_) => "",
            Target::Int(_) => "int",
            Target::Uint(_) => "uint",
            Target::Duration(_) | Target::OptionalDuration(_) => "duration",
            Target::Text(_) | Target::Path(_) | Target::OptionalText(_) | Target::OptionalPath(_) => "string",
        }
    }

    fn default_text(&self) -> Option<String> {
        match self {
            Target::Bool(value) => value.then(|| "true".to_owned()),
            Target::Int(value) => Some(value.to_string()),
            Target::Uint(value) => (**value != 0).then(|| value.to_string()),
            Target::Duration(value) => Some(format!("{value:?}")),
            Target::Text(value) => (!value.is_empty()).then(|| format!("{value:?}")),
            Target::Path(value) => Some(format!("{value:?}")),
            Target::OptionalText(_) | Target::OptionalPath(_) | Target::OptionalDuration(_) => None,
        }
    }

    fn set(&mut self, value: &str) -> Result<(), String> {
        match self {
            Target::Bool(target) => **target = parse_bool(value).ok_or("expected true or false")?,
            Target::Int(target) => **target = parse_int(value)?,
            Target::Uint(target) => **target = parse_uint(value)?,
            Target::Duration(target) => **target = parse_duration(value)?,
            Target::OptionalDuration(target) => **target = Some(parse_duration(value)?),
            Target::Text(target) => **target = value.to_owned(),
            Target::Path(target) => **target = PathBuf::from(value),
            Target::OptionalText(target) => **target = (!value.is_empty()).then(|| value.to_owned()),
            Target::OptionalPath(target) => **target = (!value.is_empty()).then(|| PathBuf::from(value)),
        }
        Ok(())
    }
}

/// A flag: its long name, perhaps one letter, where its value goes, and a line of help.
pub struct Flag<'a> {
    /// Without dashes.
    pub name: &'static str,
    /// The letter after a single dash.
    pub letter: Option<char>,
    /// Holds the default before parsing.
    pub target: Target<'a>,
    /// For `--help`.
    pub help: &'static str,
}

impl<'a> Flag<'a> {
    /// A flag without a letter.
    pub fn new(name: &'static str, target: Target<'a>, help: &'static str) -> Self {
        Flag { name, letter: None, target, help }
    }

    /// `-v`.
    pub fn verbosity(target: &'a mut i64) -> Self {
        Flag { letter: Some('v'), ..Flag::new("v", Target::Int(target), "log verbosity") }
    }
}

/// What parsing came to.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The targets hold the values; the list has the mistakes.
    Done(Vec<Mistake>),
    /// `--help` or `-h` came before the first mistake that would hide it.
    Help,
}

/// Reads `words` (without the program's name) into the targets. The last of several equal flags wins; after `--` nothing
/// is a flag.
pub fn parse(words: &[String], flags: &mut [Flag<'_>]) -> Parsed {
    let mut mistakes = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            mistakes.extend(words.by_ref().map(|word| Mistake::Unexpected(word.clone())));
        } else if word == "--help" || word == "-h" {
            return Parsed::Help;
        } else if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let shown = format!("--{name}");
            match flags.iter_mut().find(|flag| flag.name == name) {
                Some(flag) => mistakes.extend(give(flag, shown, value, &mut words)),
                None => mistakes.push(Mistake::Unknown(shown)),
            }
        } else if let Some(short) = word.strip_prefix('-').filter(|short| !short.is_empty()) {
            mistakes.extend(letters(short, flags, &mut words));
        } else {
            mistakes.push(Mistake::Unexpected(word.clone()));
        }
    }
    Parsed::Done(mistakes)
}

/// `-v 3`, `-v3`, `-v=3`. Booleans with letters do not exist here, so a letter takes the rest of the word.
fn letters(short: &str, flags: &mut [Flag<'_>], words: &mut std::slice::Iter<'_, String>) -> Option<Mistake> {
    let mut characters = short.chars();
    let letter = characters.next()?;
    let rest = characters.as_str();
    let value = match rest.strip_prefix('=') {
        Some(value) => Some(value.to_owned()),
        None => (!rest.is_empty()).then(|| rest.to_owned()),
    };
    match flags.iter_mut().find(|flag| flag.letter == Some(letter)) {
        Some(flag) => give(flag, format!("-{letter}"), value, words),
        None => Some(Mistake::Unknown(format!("-{short}"))),
    }
}

fn give(
    flag: &mut Flag<'_>,
    shown: String,
    value: Option<String>,
    words: &mut std::slice::Iter<'_, String>,
) -> Option<Mistake> {
    let value = match (value, &flag.target) {
        (Some(value), _) => value,
        (None, Target::Bool(_)) => "true".to_owned(),
        (None, _) => match words.next() {
            Some(word) => word.clone(),
            None => return Some(Mistake::NoValue(shown)),
        },
    };
    match flag.target.set(&value) {
        Ok(()) => None,
        Err(why) => Some(Mistake::Invalid { flag: shown, value, why }),
    }
}

/// The list of flags for a person, with their defaults.
pub fn usage(program: &str, flags: &[Flag<'_>]) -> String {
    let lines: Vec<(String, String)> = flags
        .iter()
        .map(|flag| {
            let letter = flag.letter.map_or("    ".to_owned(), |letter| format!("-{letter}, "));
            let kind = match flag.target.kind() {
                "" => String::new(),
                kind => format!(" {kind}"),
            };
            let default = flag.target.default_text().map(|text| format!(" (default {text})")).unwrap_or_default();
            (format!("  {letter}--{}{kind}", flag.name), format!("{}{default}", flag.help))
        })
        .collect();
    let width = lines.iter().map(|(left, _)| left.len()).max().unwrap_or(0) + 3;
    let lines: String = lines.iter().map(|(left, right)| format!("{left:width$}{right}\n")).collect();
    format!("Usage of {program}:\n{lines}")
}

/// Digits and base of an unsigned number as Go writes it with base 0.
fn digits(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, radix) = match lower.as_bytes() {
        [b'0', b'x', ..] => (lower.get(2..), 16),
        [b'0', b'b', ..] => (lower.get(2..), 2),
        [b'0', b'o', ..] => (lower.get(2..), 8),
        [b'0', _, ..] => (lower.get(1..), 8),
        _ => (Some(lower.as_str()), 10),
    };
    let digits = digits.unwrap_or_default();
    // Go allows one underscore between digits of a number with a base prefix; a plain decimal number has none.
    let plain = if radix == 10 { digits.to_owned() } else { digits.replace('_', "") };
    if plain.is_empty() || !plain.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err("expected a whole number".to_owned());
    }
    u64::from_str_radix(&plain, radix).map_err(|error| match error.kind() {
        std::num::IntErrorKind::PosOverflow => "out of range".to_owned(),
        _ => "expected a whole number".to_owned(),
    })
}

fn parse_uint(text: &str) -> Result<u64, String> {
    digits(text)
}

fn parse_int(text: &str) -> Result<i64, String> {
    let (negative, unsigned) = match text.as_bytes() {
        [b'-', ..] => (true, text.get(1..).unwrap_or_default()),
        [b'+', ..] => (false, text.get(1..).unwrap_or_default()),
        _ => (false, text),
    };
    let value = i128::from(digits(unsigned)?);
    i64::try_from(if negative { -value } else { value }).map_err(|_| "out of range".to_owned())
}

/// Go's durations: `312s`, `3m`, `1h30m`, `1.5h`, `250ms`, `0`; a bare number other than 0 is refused, as is a negative
/// one, which no flag of ours can use.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a duration such as 312s, 3m, 1h30m or 250ms".to_owned();
    if text.starts_with('-') {
        return Err("a duration must not be negative".to_owned());
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let mut nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(|| missing_unit(text))?;
        let (number, tail) = rest.split_at(end);
        let end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(end);
        let scale: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(wrong()),
        };
        nanoseconds = nanoseconds.checked_add(scaled(number, scale).ok_or_else(wrong)?).ok_or_else(wrong)?;
        rest = tail;
    }
    // Go counts nanoseconds in 63 bits, about 292 years.
    i64::try_from(nanoseconds)
        .ok()
        .and_then(|nanoseconds| u64::try_from(nanoseconds).ok())
        .map(Duration::from_nanos)
        .ok_or_else(|| "out of range".to_owned())
}

fn missing_unit(text: &str) -> String {
    format!("missing unit, such as {text}s")
}

/// `number` (`12`, `1.5`, `.5`, `2.`) times `scale`, cut to a whole number.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let mut value = if whole.is_empty() { 0 } else { whole.parse::<u128>().ok()?.checked_mul(scale)? };
    let mut place = scale;
    for digit in fraction.bytes() {
        place /= 10;
        value = value.checked_add(place.checked_mul(u128::from(digit.checked_sub(b'0')?))?)?;
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    /// The values of a few flags, or the mistakes.
    fn read(line: &str) -> (bool, i64, u64, String, Vec<String>) {
        let (mut flag, mut int, mut uint, mut text) = (false, 2, 0, String::new());
        let mut flags = [
            Flag::new("flag", Target::Bool(&mut flag), ""),
            Flag { name: "v", letter: Some('v'), target: Target::Int(&mut int), help: "" },
            Flag::new("count", Target::Uint(&mut uint), ""),
            Flag::new("text", Target::Text(&mut text), ""),
        ];
        let mistakes = match parse(&words(line), &mut flags) {
            Parsed::Done(mistakes) => mistakes.iter().map(Mistake::to_string).collect(),
            Parsed::Help => vec!["help".to_owned()],
        };
        (flag, int, uint, text, mistakes)
    }

    #[test]
    fn all_forms_are_read() {
        let none = Vec::<String>::new;
        assert_eq!(read("--flag --v 3 --count=7 --text=a=b"), (true, 3, 7, "a=b".into(), none()));
        assert_eq!(read("--flag=true --flag=false -v=4"), (false, 4, 0, String::new(), none()));
        assert_eq!(read("-v5 --text --flag"), (false, 5, 0, "--flag".into(), none()));
        assert_eq!(read("-v -1 --text="), (false, -1, 0, String::new(), none()));
        assert_eq!(read("-v 6 -v 7"), (false, 7, 0, String::new(), none()));
    }

    #[test]
    fn every_mistake_is_reported() {
        let (.., mistakes) = read("--nope --v=x -x3 --count -1 --flag=maybe stray --text");
        assert_eq!(
            mistakes,
            [
                "unknown flag: --nope",
                "invalid argument \"x\" for --v: expected a whole number",
                "unknown flag: -x3",
                "invalid argument \"-1\" for --count: expected a whole number",
                "invalid argument \"maybe\" for --flag: expected true or false",
                "unexpected argument \"stray\"",
                "flag needs an argument: --text",
            ]
        );
        assert_eq!(read("--v 1 --help").4, ["help"]);
        assert_eq!(read("-- --v").4, ["unexpected argument \"--v\""]);
    }

    #[test]
    fn numbers_are_read_as_go_does() {
        let table = [
            ("10", Ok(10)),
            ("-7", Ok(-7)),
            ("+7", Ok(7)),
            ("0x1F", Ok(31)),
            ("0b101", Ok(5)),
            ("017", Ok(15)),
            ("0o17", Ok(15)),
            ("0", Ok(0)),
            ("9223372036854775807", Ok(i64::MAX)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775808", Err("out of range")),
            ("99999999999999999999", Err("out of range")),
            ("", Err("expected a whole number")),
            ("--1", Err("expected a whole number")),
            ("1.5", Err("expected a whole number")),
            ("0x", Err("expected a whole number")),
            ("1_0", Err("expected a whole number")),
        ];
        for (text, value) in table {
            assert_eq!(parse_int(text), value.map_err(str::to_owned), "{text:?}");
        }
    }

    #[test]
    fn durations_are_read_as_go_does() {
        let ms = Duration::from_millis;
        let table = [
            ("312s", Some(ms(312_000))),
            ("3m", Some(ms(180_000))),
            ("1h30m", Some(ms(5_400_000))),
            ("250ms", Some(ms(250))),
            ("1.5h", Some(ms(5_400_000))),
            (".5s", Some(ms(500))),
            ("1.s", Some(ms(1_000))),
            ("0", Some(ms(0))),
            ("+5s", Some(ms(5_000))),
            ("3us", Some(Duration::from_micros(3))),
            ("3\u{b5}s", Some(Duration::from_micros(3))),
            ("7ns", Some(Duration::from_nanos(7))),
            ("30", None),
            ("", None),
            ("s", None),
            ("-3s", None),
            ("3 s", None),
            ("1.2.3s", None),
            (".s", None),
            ("3d", None),
            ("300y", None),
            ("9999999999h", None),
            ("3s5", None),
        ];
        for (text, value) in table {
            assert_eq!(parse_duration(text).ok(), value, "{text:?}");
        }
        assert_eq!(parse_duration("30").unwrap_err(), "missing unit, such as 30s");
    }

    #[test]
    fn usage_shows_the_defaults() {
        let (mut int, mut path) = (2, PathBuf::from("/a"));
        let flags = [Flag::verbosity(&mut int), Flag::new("dir", Target::Path(&mut path), "a directory")];
        assert_eq!(
            usage("x", &flags),
            "Usage of x:\n  -v, --v int        log verbosity (default 2)\n      --dir string   a directory (default \"/a\")\n"
        );
    }
}
