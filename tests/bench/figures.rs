//! Figures out of measurements.

use std::time::Duration;

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The time that this share of the calls, in hundredths, stayed below, in microseconds.
pub fn percentile(times: &[Duration], share: usize) -> f64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[(times.len() * share / 100).min(times.len() - 1)].as_secs_f64() * 1e6
}

/// The values of all rounds, for the table.
pub fn all(values: &[f64], digits: usize) -> String {
    values.iter().map(|value| format!("{value:>10.digits$}")).collect::<Vec<_>>().concat()
}
