//! Kubernetes quantities.

use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A resource quantity, exact: `mantissa · 10^exponent · 2^binary`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity {
    text: String,
    /// Nanounits, the API's finest grain (finer values are rounded up).
    nano: i128,
}

const NANO: i128 = 1_000_000_000;

impl Quantity {
    /// Reads a quantity such as `1536Mi`, `1.5Gi`, `500m`, `2e3`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not a quantity such as 512Mi");
        let number_end =
            text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+' || c == '-')).unwrap_or(text.len());
        let (number, suffix) = text.split_at(number_end);
        let (negative, digits) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number.strip_prefix('+').unwrap_or(number)),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty())
            || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit())
        {
            return Err(bad());
        }
        let (mut numerator, mut denominator): (i128, i128) = match suffix {
            "n" => (1, NANO),
            "u" => (1, 1_000_000),
            "m" => (1, 1000),
            "" => (1, 1),
            "k" => (1000, 1),
            "M" => (1_000_000, 1),
            "G" => (1_000_000_000, 1),
            "T" => (1_000_000_000_000, 1),
            "P" => (1_000_000_000_000_000, 1),
            "E" => (1_000_000_000_000_000_000, 1),
            "Ki" => (1 << 10, 1),
            "Mi" => (1 << 20, 1),
            "Gi" => (1 << 30, 1),
            "Ti" => (1 << 40, 1),
            "Pi" => (1 << 50, 1),
            "Ei" => (1 << 60, 1),
            _ => {
                let exponent = suffix.strip_prefix(['e', 'E']).and_then(|digits| digits.parse::<i32>().ok());
                let exponent = exponent.filter(|exponent| exponent.unsigned_abs() <= 18).ok_or_else(bad)?;
                let power = 10_i128.pow(exponent.unsigned_abs());
                if exponent >= 0 { (power, 1) } else { (1, power) }
            }
        };
        let joined: i128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
        let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= 18).ok_or_else(bad)?;
        denominator = denominator.checked_mul(10_i128.pow(places)).ok_or_else(bad)?;
        numerator = numerator.checked_mul(joined).ok_or_else(bad)?;
        let scaled = numerator.checked_mul(NANO).ok_or_else(bad)?;
        let nano = scaled.div_euclid(denominator) + i128::from(scaled.rem_euclid(denominator) != 0);
        Ok(Quantity { text: text.to_owned(), nano: if negative { -nano } else { nano } })
    }

    /// Whole units, rounded up (the API's `Value`).
    pub fn value(&self) -> i64 {
        let whole = self.nano.div_euclid(NANO) + i128::from(self.nano.rem_euclid(NANO) != 0);
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whole units if it is a whole number of them.
    pub fn exact(&self) -> Option<i64> {
        (self.nano.rem_euclid(NANO) == 0).then(|| i64::try_from(self.nano.div_euclid(NANO)).ok()).flatten()
    }

    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Quantity { text: "0".into(), nano: 0 }
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.nano.cmp(&other.nano))
    }
}

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
        Quantity::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_exact_and_round_up() {
        for (text, value, exact) in [
            ("0", 0, Some(0)),
            ("64Mi", 67_108_864, Some(67_108_864)),
            ("1.5Gi", 1_610_612_736, Some(1_610_612_736)),
            ("1500m", 2, None),
            ("100M", 100_000_000, Some(100_000_000)),
            ("2e3", 2000, Some(2000)),
            ("0.5", 1, None),
            (".5Ki", 512, Some(512)),
            ("-1Ki", -1024, Some(-1024)),
            ("1E", 1_000_000_000_000_000_000, Some(1_000_000_000_000_000_000)),
            ("128974848000m", 128_974_848, Some(128_974_848)),
        ] {
            let quantity = Quantity::parse(text).unwrap();
            assert_eq!((quantity.value(), quantity.exact()), (value, exact), "{text}");
            assert_eq!(quantity.to_string(), text);
        }
        for text in ["", "Mi", "1 Mi", "1mi", "1.2.3", "--1", "1e99", "99999999999999999999999999999999999999999Ei"] {
            assert!(Quantity::parse(text).is_err(), "{text:?}");
        }
    }
}
