//! A bound on how often the same thing is said.

use std::time::{Duration, Instant};

/// At most this often.
const INTERVAL: Duration = Duration::from_secs(1);

/// Lets one line a second through and counts the others.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    last: Option<Instant>,
    held_back: u64,
}

impl Seldom {
    /// Whether to say it now; then with how many were held back since the last time.
    pub(super) fn may_speak(&mut self) -> Option<u64> {
        self.may_speak_at(Instant::now())
    }

    fn may_speak_at(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            self.held_back += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_is_let_through_and_the_others_are_counted() {
        let (mut seldom, begin) = (Seldom::default(), Instant::now());
        let at = |millis| begin + Duration::from_millis(millis);
        let said: Vec<_> = [0, 1, 500, 999, 1_000, 1_500, 5_000].map(|millis| seldom.may_speak_at(at(millis))).into();
        assert_eq!(said, [Some(0), None, None, None, Some(3), None, Some(1)]);
    }
}
