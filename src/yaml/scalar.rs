//! What a scalar without quotes means: YAML 1.1 as go-yaml v2 takes it.

use serde_json::Number;

use super::{Content, Node};

/// The value of a plain scalar. Dates stay texts, and there are no numbers to the base 60.
pub(super) fn resolve(text: &str) -> Result<Content, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Content::Null),
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Ok(Content::Bool(true));
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Ok(Content::Bool(false));
        }
        ".nan" | ".NaN" | ".NAN" | ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" | "-.inf" | "-.Inf"
        | "-.INF" => return Err(format!("{text} is a number that JSON does not have")),
        _ => {}
    }
    let number = match text.as_bytes().first() {
        Some(b'.') => float(text),
        Some(b'0'..=b'9' | b'+' | b'-') => {
            let plain = text.replace('_', "");
            integer(&plain).or_else(|| float(&plain))
        }
        _ => None,
    };
    Ok(number.map_or_else(|| Content::Text(text.to_owned()), Content::Number))
}

/// A key, as a text. Those that are booleans or numbers are written the usual way.
pub(super) fn key(node: &Node) -> Result<String, String> {
    match &node.content {
        Content::Text(text) => Ok(text.clone()),
        Content::Bool(value) => Ok(value.to_string()),
        Content::Number(number) => Ok(number.to_string()),
        Content::Null => Err("a key is missing".to_owned()),
        Content::List(_) | Content::Map(_) => Err("a key must be a plain value".to_owned()),
    }
}

/// Decimal, `0x`, `0o`, `0b`, or octal with a leading 0.
fn integer(text: &str) -> Option<Number> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let (base, digits) = match prefix.as_deref() {
        Some("0x") => (16, digits.get(2..)?),
        Some("0o") => (8, digits.get(2..)?),
        Some("0b") => (2, digits.get(2..)?),
        Some(_) if digits.starts_with('0') => (8, digits.get(1..)?),
        Some(_) | None => (10, digits),
    };
    if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_alphanumeric()) {
        return None;
    }
    let value = u64::from_str_radix(digits, base).ok()?;
    match negative {
        false => Some(value.into()),
        true => Some(i64::try_from(-i128::from(value)).ok()?.into()),
    }
}

/// `1.5`, `.5`, `1e3`.
fn float(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let is_number = digits(whole)
        && digits(fraction)
        && !(whole.is_empty() && fraction.is_empty())
        && exponent.is_none_or(|exponent| !exponent.is_empty() && digits(exponent));
    number(text.parse::<f64>().ok().filter(|_| is_number)?)
}

/// The number, if JSON has it. A whole one is written without a fraction, as Go writes it.
pub(super) fn number(value: f64) -> Option<Number> {
    const WHOLE: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= WHOLE {
        // Every whole number up to 2^53 is one of i64's.
        return Some((value as i64).into());
    }
    Number::from_f64(value)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Each as `sigs.k8s.io/yaml` 1.6 on go-yaml 2.4 was seen to read it.
    #[test]
    fn scalars_are_those_of_yaml_1_1() {
        let cases: &[(&str, Value)] = &[
            ("yes", json!(true)),
            ("y", json!(true)),
            ("On", json!(true)),
            ("off", json!(false)),
            ("No", json!(false)),
            ("oN", json!("oN")),
            ("~", json!(null)),
            ("0777", json!(511)),
            ("08", json!(8)),
            ("0o17", json!(15)),
            ("0x1F", json!(31)),
            ("0b11", json!(3)),
            ("1_000", json!(1000)),
            ("1e3", json!(1000)),
            ("+5", json!(5)),
            ("-5", json!(-5)),
            ("1.0", json!(1)),
            (".5", json!(0.5)),
            ("1.", json!(1)),
            ("12:30", json!("12:30")),
            ("2001-01-01", json!("2001-01-01")),
            ("18446744073709551615", json!(18_446_744_073_709_551_615_u64)),
            ("2Gi", json!("2Gi")),
            ("1.2.3", json!("1.2.3")),
            ("-", json!("-")),
            ("0x", json!("0x")),
            ("-0x10", json!(-16)),
            ("e3", json!("e3")),
            (".", json!(".")),
            ("1e", json!("1e")),
            ("52:54:00:00:00:01", json!("52:54:00:00:00:01")),
        ];
        for (text, value) in cases {
            let node = Node { content: resolve(text).unwrap(), place: Default::default() };
            assert_eq!(&node.to_value(), value, "{text}");
        }
        assert!(resolve(".inf").is_err());
    }
}
