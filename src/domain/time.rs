//! Times as Kubernetes writes them.

use std::fmt;
use std::str::FromStr;

use ::time::format_description::well_known::Rfc3339;
use ::time::{OffsetDateTime, UtcOffset};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A point in time (`metav1.Time`). In JSON whole seconds in UTC, `2026-11-21T01:30:33Z`; in XML with the fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(OffsetDateTime);

/// A text that is no RFC 3339 time.
#[derive(Debug, thiserror::Error)]
#[error("an RFC 3339 time is expected, not {text:?}")]
pub struct TimeError {
    text: String,
    source: ::time::error::Parse,
}

impl Time {
    /// This moment.
    pub fn now() -> Self {
        Self(OffsetDateTime::now_utc())
    }

    /// The moment `seconds` after 1970-01-01T00:00:00Z; `None` outside the years -9999 to 9999.
    pub fn from_unix(seconds: i64) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp(seconds).ok().map(Self)
    }

    /// Whole seconds since 1970-01-01T00:00:00Z.
    pub fn unix(&self) -> i64 {
        self.0.unix_timestamp()
    }

    /// The time as the domain's XML has it: with the fraction of a second, if there is one.
    pub(super) fn to_xml(self) -> String {
        self.format(self.0)
    }

    /// The time as messages of the original have it, which are written in Go: `2026-11-21 01:30:33 +0000 UTC`.
    pub fn in_messages(&self) -> String {
        self.to_string().replace('T', " ").replace('Z', " +0000 UTC")
    }

    fn format(self, time: OffsetDateTime) -> String {
        // RFC 3339 has no years beyond 9999; such a time is not worth an error where it is only displayed.
        time.to_offset(UtcOffset::UTC).format(&Rfc3339).unwrap_or_default()
    }
}

/// 1970-01-01T00:00:00Z; only a place for a parsed time to go.
impl Default for Time {
    fn default() -> Self {
        Self(OffsetDateTime::UNIX_EPOCH)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.format(self.0.replace_nanosecond(0).unwrap_or(self.0)))
    }
}

impl FromStr for Time {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        match OffsetDateTime::parse(text, &Rfc3339) {
            Ok(time) => Ok(Self(time)),
            Err(source) => Err(TimeError { text: text.to_owned(), source }),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_has_whole_seconds_in_utc_and_xml_the_fraction() {
        let time: Time = "2026-11-21T03:30:33.25+02:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-21T01:30:33Z");
        assert_eq!(time.to_xml(), "2026-11-21T01:30:33.25Z");
        assert_eq!(serde_json::to_string(&time).unwrap(), "\"2026-11-21T01:30:33Z\"");
        assert_eq!(Time::from_unix(time.unix()).unwrap().to_string(), time.to_string());
    }

    #[test]
    fn bad_time_is_named() {
        let error = "yesterday".parse::<Time>().unwrap_err();
        assert_eq!(error.to_string(), "an RFC 3339 time is expected, not \"yesterday\"");
    }
}
