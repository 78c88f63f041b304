//! Hashing what is random already.
//!
//! The ids of keys and credentials are random bits that this deployment made, so nobody chooses them to collide, and to
//! hash them as carefully as if somebody did would cost more than the rest of looking one up (15 ns against 2 ns).

use std::hash::{BuildHasher, Hasher, RandomState};

/// Begins where nobody outside the process knows.
#[derive(Clone, Debug)]
pub(crate) struct Scatter(u64);

/// See [`Scatter`].
pub(crate) struct Scattered(u64);

/// An odd number without a pattern: the fraction of the golden ratio.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

impl Default for Scatter {
    fn default() -> Self {
        Self(RandomState::new().hash_one(FACTOR))
    }
}

impl BuildHasher for Scatter {
    type Hasher = Scattered;

    fn build_hasher(&self) -> Scattered {
        Scattered(self.0)
    }
}

impl Hasher for Scattered {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.write_u64(u64::from_le_bytes(*word));
        }
        // Of an id nothing is left.
        for byte in rest {
            self.write_u64((*byte).into());
        }
    }

    fn write_u64(&mut self, word: u64) {
        // Both halves of the product: all bits of the word reach all bits of the sum.
        let product = u128::from(self.0 ^ word) * u128::from(FACTOR);
        self.0 = fold(product);
    }

    fn write_usize(&mut self, _length: usize) {
        // Lengths of ids do not differ.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are what is wanted")]
fn fold(product: u128) -> u64 {
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_counted_ids_fall_into_all_places() {
        let scatter = Scatter::default();
        for shift in [0, 20, 57] {
            let mut seen = [0_u32; 64];
            for number in 0..6_400_u128 {
                let hash = scatter.hash_one(number.to_be_bytes());
                seen[usize::try_from(hash >> shift & 63).unwrap()] += 1;
            }
            assert!(seen.iter().all(|count| (40..200).contains(count)), "{shift}: {seen:?}");
        }
    }
}
