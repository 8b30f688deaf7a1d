//! Numbers that look random and are the same in every run.

/// A small generator (splitmix64): the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Bytes that nothing can compress.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    /// Words as people and programs write them: few often, many seldom.
    pub fn words(&mut self, bytes: usize, text: &mut String) {
        const SYLLABLES: [&str; 24] = [
            "re", "con", "ta", "lo", "mi", "der", "sys", "en", "pro", "va", "lu", "tion", "an",
            "ke", "so", "ri", "ful", "ment", "a", "be", "qua", "no", "ti", "is",
        ];
        let end = text.len() + bytes;
        while text.len() < end {
            // The product of two draws prefers small numbers, as words do.
            let mut word = self.below(64) * self.below(64);
            for _ in 0..=word % 3 {
                text.push_str(SYLLABLES[(word % 24) as usize]);
                word = word / 24 + 7 * (word % 5);
            }
            text.push(match self.below(14) {
                0 => '\n',
                1 => ',',
                _ => ' ',
            });
        }
        text.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same() {
        let (mut a, mut b) = (Chance::new(7), Chance::new(7));
        assert_eq!(a.bytes(1001), b.bytes(1001));
        let (mut one, mut two) = (String::new(), String::new());
        a.words(500, &mut one);
        b.words(500, &mut two);
        assert_eq!(one, two);
        assert!((500..520).contains(&one.len()));
        assert_ne!(Chance::new(8).next(), Chance::new(7).next());
    }
}
