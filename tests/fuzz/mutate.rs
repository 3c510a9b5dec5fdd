//! Mutations of seeds: cuts, copies, splices, words and edge values in other places.

use std::collections::BTreeSet;

/// A small generator (xorshift64*): the same seed gives the same inputs.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    /// Less than `bound`; 0 for 0.
    fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() % bound as u64) as usize }
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// What readers stumble over.
const EDGES: &[&[u8]] = &[
    b"",
    b"0",
    b"-1",
    b"1",
    b"null",
    b"true",
    b"\"\"",
    b"[]",
    b"{}",
    b"[null]",
    b"4294967296",
    b"18446744073709551616",
    b"-9223372036854775809",
    b"1e999",
    b"0.1",
    b"1Gi",
    b"-5M",
    b"99999999999Ei",
    b"<",
    b">",
    b"&",
    b"&#0;",
    b"&#xD800;",
    b"&x;",
    b"]]>",
    b"<![CDATA[",
    b"<!--",
    b"<?",
    b"\xff",
    b"\xc3",
    b"\0",
    b"\"",
    b"'",
    b"\\u0000",
    b"\\ud800",
    b"..",
    b"/",
    b":",
    b",",
    b" ",
    b"\xf0\x9f\x98\x80",
];

/// Those of them that stand anywhere between quotes.
const GENTLE_EDGES: &[&[u8]] =
    &[b"", b"0", b"-1", b"4294967296", b"18446744073709551616", b"1Gi", b"99999999999Ei", b"..", b"/", b" ", b"*"];

/// Seeds and the words they are made of.
pub struct Corpus {
    seeds: Vec<Vec<u8>>,
    words: Vec<Vec<u8>>,
}

impl Corpus {
    pub fn new(seeds: Vec<Vec<u8>>) -> Self {
        let mut words = BTreeSet::new();
        for seed in &seeds {
            words.extend(seed.split(|byte| b" <>/='\"{}[],:\n\t".contains(byte)).map(<[u8]>::to_vec));
        }
        Self { seeds, words: words.into_iter().collect() }
    }

    /// A seed with one to eight changes; every second input has only such as leave the document well-formed.
    pub fn mutation(&self, random: &mut Random) -> Vec<u8> {
        let mut input = random.pick(&self.seeds).clone();
        let gentle = random.below(2) == 0;
        for _ in 0..=random.below(8) {
            if gentle {
                self.exchange_value(&mut input, random);
            } else {
                self.change(&mut input, random);
            }
        }
        input
    }

    /// Puts another word in the place of a quoted text or a number.
    fn exchange_value(&self, input: &mut Vec<u8>, random: &mut Random) {
        let at = random.below(input.len());
        let starts =
            |pair: &[u8]| matches!(pair, [b'\'' | b'"' | b':' | b'>' | b'=', next] if next.is_ascii_alphanumeric());
        let Some(start) = input[at..].windows(2).position(starts).map(|offset| at + offset + 1) else { return };
        let ends = |byte: &u8| b"'\"<,}]\n".contains(byte);
        let end = input[start..].iter().position(ends).map_or(input.len(), |offset| start + offset);
        // A word before `="` or `":` is a name, and stays.
        if input.get(start - 1) == Some(&b'"') && input.get(end + 1) == Some(&b':') {
            return;
        }
        let word = match random.below(3) {
            0 => random.pick(GENTLE_EDGES).to_vec(),
            1 => random.next().to_string().into_bytes(),
            _ => random.pick(&self.words).clone(),
        };
        input.splice(start..end, word);
    }

    fn change(&self, input: &mut Vec<u8>, random: &mut Random) {
        let from = random.below(input.len());
        let to = from + random.below((input.len() - from).min(200));
        let piece = match random.below(8) {
            0 => Vec::new(),
            1 => input[from..to].repeat(2),
            2 => {
                let other = random.pick(&self.seeds);
                let start = random.below(other.len());
                other[start..start + random.below((other.len() - start).min(400))].to_vec()
            }
            3 | 4 => return self.exchange_word(input, random),
            5 => random.pick(&self.words).clone(),
            6 => random.pick(EDGES).to_vec(),
            _ => vec![random.next() as u8],
        };
        input.splice(from..to, piece);
    }

    /// Puts another word or an edge value in the place of a word, which keeps the document well-formed more often.
    fn exchange_word(&self, input: &mut Vec<u8>, random: &mut Random) {
        let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        let at = random.below(input.len());
        let Some(start) = input[at..].iter().position(is_word).map(|offset| at + offset) else { return };
        let end = input[start..].iter().position(|byte| !is_word(byte)).map_or(input.len(), |offset| start + offset);
        let word = if random.below(2) == 0 { random.pick(&self.words).clone() } else { random.pick(EDGES).to_vec() };
        input.splice(start..end, word);
    }
}
