//! Truth values in text.

/// A truth value as Go's `strconv.ParseBool` reads one; none if it is neither.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Some(true),
        "0" | "f" | "F" | "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::parse_bool;

    #[test]
    fn words_are_true_false_or_neither() {
        for (word, truth) in [("1", Some(true)), ("TRUE", Some(true)), ("f", Some(false)), ("False", Some(false))] {
            assert_eq!(parse_bool(word), truth, "{word}");
        }
        for word in ["", "yes", "tRUE", " true", "2"] {
            assert_eq!(parse_bool(word), None, "{word}");
        }
    }
}
