//! The kernel's lists of CPUs and nodes: `0-3,8`.

/// Ranges that name more numbers than this are not believed.
const MOST: u32 = 1 << 16;

/// The numbers of a list in its order; an empty text is an empty list, none if it is not one.
pub fn parse(text: &str) -> Option<Vec<u32>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        numbers.extend(first..=last);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_have_numbers_and_ranges() {
        assert_eq!(parse("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(parse("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(parse("5"), Some(vec![5]));
        assert_eq!((parse(""), parse("\n")), (Some(vec![]), Some(vec![])));
        for text in ["a", "x", "-1", "3-1", "0-4294967295", "0-99999999", "1,,-"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
