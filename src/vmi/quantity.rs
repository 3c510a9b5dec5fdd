//! Kubernetes quantities, with the API's own arithmetic.
//!
//! The original keeps a quantity either as a 64-bit number with a decimal exponent or, when that does not hold it, as a
//! big decimal. Which of the two decides whether `AsInt64` answers, and with it one byte of guest memory; so the choice is
//! reproduced here ([`Quantity::exact`]).

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A resource quantity. Two are equal if their values are, however they are written (the API's `Equal`).
#[derive(Debug, Clone)]
pub struct Quantity {
    text: String,
    /// Nanounits, the API's finest grain (finer values are rounded up).
    nano: i128,
    /// The value, where the original holds it as a whole 64-bit number.
    whole: Option<i64>,
}

/// How the value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notation {
    /// `Ki`, `Mi`, …
    Binary,
    /// `k`, `M`, …
    Decimal,
    /// `e3`
    Exponent,
}

/// Nanounits in a unit.
const NANO: i128 = 1_000_000_000;
/// Decimal digits that a 64-bit number surely holds.
const FAST_DIGITS: usize = 18;
const WRONG_FORMAT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
const WRONG_NUMBER: &str = "unable to parse numeric part of quantity";
const WRONG_SUFFIX: &str = "unable to parse quantity's suffix";
const DECIMAL_SUFFIXES: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY_SUFFIXES: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// A suffix's factor.
enum Factor {
    Ten(i32),
    Two(u32),
}

impl Quantity {
    /// Reads a quantity such as `1536Mi`, `1.5Gi`, `500m`, `2e3`. The error is the API's own text.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(WRONG_FORMAT.into());
        }
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (number, suffix) = split(unsigned);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let whole = whole.trim_start_matches('0');
        let (factor, notation) = factor(suffix)?;
        let digits = format!("{whole}{fraction}");
        if digits.bytes().any(|byte| !byte.is_ascii_digit()) {
            return Err(WRONG_NUMBER.into());
        }
        let value = if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
        let sign = if negative { -1 } else { 1 };
        let nano = value.and_then(|value| nano(value, fraction.len(), &factor)).unwrap_or(i128::MAX);
        // What does not fit is the largest value there is; binary ones are cut at 64 bits.
        let nano = if notation == Notation::Binary { nano.min(i128::from(i64::MAX) * NANO) } else { nano };
        let whole = value
            .filter(|_| is_fast(whole.len().max(1), fraction.len(), &factor))
            .and_then(|value| as_int64(value, fraction.len(), &factor));
        let notation = if notation == Notation::Binary && nano < NANO { Notation::Decimal } else { notation };
        let nano = sign * nano;
        Ok(Quantity { text: canonical(nano, notation), nano, whole: whole.map(|n| sign as i64 * n) })
    }

    /// Whole units, rounded up (the API's `Value`).
    pub fn value(&self) -> i64 {
        let whole = self.nano.div_euclid(NANO) + i128::from(self.nano.rem_euclid(NANO) != 0);
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whole units (the API's `AsInt64`): absent for fractions, and also for whole numbers that the original holds as a big
    /// decimal: written with a fraction (`1.5Gi`), in smaller units (`128974848000m`), or with too many digits (`128Ti`).
    pub fn exact(&self) -> Option<i64> {
        self.whole
    }

    /// Thousandths, such as 1500 for `1.5`.
    pub fn from_milli(milli: i64) -> Self {
        let nano = i128::from(milli) * (NANO / 1000);
        Quantity { text: canonical(nano, Notation::Decimal), nano, whole: (milli % 1000 == 0).then_some(milli / 1000) }
    }

    /// The nearest floating-point number (the API's `AsApproximateFloat64`).
    pub fn approximate(&self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }
}

/// The one way to write a value: no fraction, the largest suffix that loses nothing.
fn canonical(nano: i128, notation: Notation) -> String {
    if nano == 0 {
        return "0".into();
    }
    let whole = nano / NANO;
    if notation == Notation::Binary && nano % NANO == 0 && whole.unsigned_abs() >= 1024 {
        let (mut number, mut suffix) = (whole, "");
        for (next, _) in BINARY_SUFFIXES {
            if number % 1024 != 0 {
                break;
            }
            (number, suffix) = (number / 1024, next);
        }
        return format!("{number}{suffix}");
    }
    let (mut number, mut exponent) = (nano, -9);
    while number % 1000 == 0 {
        (number, exponent) = (number / 1000, exponent + 3);
    }
    let suffix = DECIMAL_SUFFIXES.iter().find(|(_, power)| *power == exponent);
    match (notation, suffix) {
        (Notation::Exponent, _) if exponent == 0 => number.to_string(),
        (Notation::Exponent, _) | (_, None) => format!("{number}e{exponent}"),
        (Notation::Binary | Notation::Decimal, Some((suffix, _))) => format!("{number}{suffix}"),
    }
}

/// Number and suffix.
fn split(text: &str) -> (&str, &str) {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(text);
    let end = match text.get(whole..) {
        Some(rest) if rest.starts_with('.') => whole + 1 + digits(rest.get(1..).unwrap_or_default()),
        Some(_) | None => whole,
    };
    text.split_at(end)
}

fn factor(suffix: &str) -> Result<(Factor, Notation), String> {
    if let Some((_, power)) = DECIMAL_SUFFIXES.iter().find(|(known, _)| *known == suffix) {
        return Ok((Factor::Ten(*power), Notation::Decimal));
    }
    if let Some((_, power)) = BINARY_SUFFIXES.iter().find(|(known, _)| *known == suffix) {
        return Ok((Factor::Two(*power), Notation::Binary));
    }
    let letters = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let exponent = letters.strip_prefix(['+', '-']).unwrap_or(letters);
    if !exponent.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(WRONG_FORMAT.into());
    }
    let power = suffix.strip_prefix(['e', 'E']).and_then(|power| power.parse::<i32>().ok());
    power.map(|power| (Factor::Ten(power), Notation::Exponent)).ok_or_else(|| WRONG_SUFFIX.into())
}

/// Nanounits of `digits · 10^-places · factor`, rounded up; absent if they do not fit.
fn nano(digits: i128, places: usize, factor: &Factor) -> Option<i128> {
    if digits == 0 {
        return Some(0);
    }
    let places = i32::try_from(places).ok()?;
    let (scaled, power) = match factor {
        Factor::Ten(power) => (digits, power.saturating_sub(places).saturating_add(9)),
        Factor::Two(power) => (digits.checked_mul(1 << power)?, 9_i32.saturating_sub(places)),
    };
    if power >= 0 {
        return scaled.checked_mul(10_i128.checked_pow(power.unsigned_abs())?);
    }
    // So small that only the rounding is left.
    let Some(divisor) = 10_i128.checked_pow(power.unsigned_abs()) else { return Some(1) };
    Some(scaled / divisor + i128::from(scaled % divisor != 0))
}

/// Whether the original holds such a number in 64 bits.
fn is_fast(whole: usize, places: usize, factor: &Factor) -> bool {
    match factor {
        Factor::Ten(power) => {
            let scale = i64::from(*power) - places as i64;
            whole + places <= FAST_DIGITS && scale >= -9
        }
        // 2^20 has about six decimal digits.
        Factor::Two(power) => places == 0 && whole + (*power as usize) * 3 / 10 < 15,
    }
}

fn as_int64(digits: i128, places: usize, factor: &Factor) -> Option<i64> {
    let value = match factor {
        Factor::Ten(power) => {
            let scale = i64::from(*power) - places as i64;
            digits.checked_mul(10_i128.checked_pow(u32::try_from(scale).ok()?)?)?
        }
        Factor::Two(power) => digits.checked_mul(1 << power)?,
    };
    i64::try_from(value).ok()
}

impl Default for Quantity {
    fn default() -> Self {
        Quantity { text: "0".into(), nano: 0, whole: Some(0) }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.nano.cmp(&other.nano))
    }
}

/// The canonical form.
impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(text) => text,
            serde_json::Value::Number(number) => number.to_string(),
            other => return Err(serde::de::Error::custom(format!("{other} is not a quantity such as 512Mi"))),
        };
        let text = text.trim();
        Quantity::parse(text).map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_round_up_and_have_one_canonical_form() {
        for (text, value, exact, canonical) in [
            ("0", 0, Some(0), "0"),
            ("0Gi", 0, Some(0), "0"),
            ("64Mi", 67_108_864, Some(67_108_864), "64Mi"),
            ("65536Ki", 67_108_864, Some(67_108_864), "64Mi"),
            ("1536Mi", 1_610_612_736, Some(1_610_612_736), "1536Mi"),
            ("1500m", 2, None, "1500m"),
            ("100M", 100_000_000, Some(100_000_000), "100M"),
            ("1.5G", 1_500_000_000, Some(1_500_000_000), "1500M"),
            ("2e3", 2000, Some(2000), "2e3"),
            ("1E3", 1000, Some(1000), "1e3"),
            ("0.5", 1, None, "500m"),
            ("1024", 1024, Some(1024), "1024"),
            ("512000", 512_000, Some(512_000), "512k"),
            ("-1Ki", -1024, Some(-1024), "-1Ki"),
            ("1E", 1_000_000_000_000_000_000, Some(1_000_000_000_000_000_000), "1E"),
            ("+5", 5, Some(5), "5"),
            ("0.0000000001", 1, None, "1n"),
            ("9223372036854775807", i64::MAX, None, "9223372036854775807"),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!((quantity.value(), quantity.exact()), (value, exact), "{text}");
            assert_eq!(quantity.to_string(), canonical, "{text}");
            assert_eq!(Quantity::parse(canonical).unwrap().value(), value, "{text}");
        }
    }

    #[test]
    fn whole_numbers_in_the_originals_slow_form_are_not_exact() {
        // Each is a whole number of bytes; the original's AsInt64 has no answer for it.
        for (text, value, canonical) in [
            ("1.5Gi", 1_610_612_736, "1536Mi"),
            ("128974848000m", 128_974_848, "128974848"),
            (".5Ki", 512, "512"),
            ("128Ti", 140_737_488_355_328, "128Ti"),
            ("1Pi", 1_125_899_906_842_624, "1Pi"),
            ("100000Gi", 107_374_182_400_000, "100000Gi"),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!((quantity.value(), quantity.exact()), (value, None), "{text}");
            assert_eq!(quantity.to_string(), canonical, "{text}");
        }
        for text in ["64Ti", "99999Gi", "99999999Mi"] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!(quantity.exact(), Some(quantity.value()), "{text}");
        }
    }

    #[test]
    fn quantity_equals_itself_as_it_is_written() {
        for text in [".5Ki", "1.5Gi", "0.001Ki", "128974848000m", "99999999999Ei", "2e3", "-1.5Gi"] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!(Quantity::parse(&quantity.to_string()).unwrap(), quantity, "{text}");
        }
        assert_ne!(Quantity::parse("1G").unwrap(), Quantity::parse("1Gi").unwrap());
    }

    #[test]
    fn fractions_have_a_floating_point_number() {
        for (text, number) in [("400m", 0.4), ("1.5", 1.5), ("2", 2.0), ("-1500m", -1.5), ("1Ki", 1024.0), ("0", 0.0)] {
            assert_eq!(Quantity::parse(text).unwrap().approximate(), number, "{text}");
        }
        for (milli, text, exact) in
            [(400, "400m", None), (2000, "2", Some(2)), (-1500, "-1500m", None), (0, "0", Some(0))]
        {
            let quantity = Quantity::from_milli(milli);
            assert_eq!((quantity.to_string().as_str(), quantity.exact()), (text, exact));
            assert_eq!(quantity, Quantity::parse(text).unwrap());
        }
    }

    #[test]
    fn too_large_is_the_largest_and_nonsense_is_refused() {
        let huge = Quantity::parse("99999999999999999999999999999999999999999Ei").unwrap();
        assert_eq!((huge.value(), huge.exact()), (i64::MAX, None));
        assert_eq!(Quantity::parse("1e99").unwrap().value(), i64::MAX);
        assert_eq!(Quantity::parse("-1e2147483647").unwrap().value(), i64::MIN);
        assert_eq!(Quantity::parse("1e-2147483648").unwrap().value(), 1);
        // The API reads a missing number as 0.
        assert!(Quantity::parse("Mi").unwrap().is_zero());
        for text in ["", "1 Mi", "1mi", "1.2.3", "--1", "lots", "pageSizeValue", "1e", "1KI", "5eE3", "1é"] {
            assert!(Quantity::parse(text).is_err(), "{text:?}");
        }
    }
}
