//! Who is asked for: the key of rank *r* one *r*-th as often as the first.

use super::dice::Dice;

/// Chooses among many by Zipf's law with the exponent 1.
pub struct Zipf(Vec<f64>);

impl Zipf {
    pub fn new(many: usize) -> Self {
        let mut sum = 0.0;
        Self((1..=many).map(|rank| (sum += 1.0 / rank as f64, sum).1).collect())
    }

    /// The ranks of this many calls, from 0. The same seed gives the same calls.
    pub fn calls(&self, calls: usize, seed: u64) -> Vec<usize> {
        let mut dice = Dice::new(seed);
        let whole = self.0.last().copied().unwrap_or_default();
        (0..calls)
            .map(|_| {
                let chance = (dice.bits() >> 11) as f64 / (1_u64 << 53) as f64 * whole;
                self.0.partition_point(|sum| *sum <= chance).min(self.0.len() - 1)
            })
            .collect()
    }
}
