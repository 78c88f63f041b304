//! How many bytes of answers one connection holds that were made and not sent.
//!
//! Each answer adds to a counter when it is made and takes off when the transport has dropped its bytes: two atomic
//! operations, which is all that the fast path can afford. How *old* the unsent answers are is found without a time in each
//! of them. There are two counters, and new answers go to one of them. Whenever the other is empty, a sweep exchanges them.
//! What is in the other was therefore made before the last exchange, however many answers came and went since.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::ConnectionHandle;

/// What an answer costs beside its bytes: its stream, its task, its headers.
const OVERHEAD: u64 = 4 * 1024;

/// The unsent answers of one connection.
#[derive(Default)]
pub(super) struct Unread {
    bytes: [AtomicU64; 2],
    /// Which of the counters new answers go to.
    newest: AtomicUsize,
    swept: Mutex<Option<Swept>>,
}

/// What the last sweep found in the counter of older answers.
#[derive(Clone, Copy)]
struct Swept {
    exchanged: Instant,
    older: u64,
    /// Since when as many bytes are in it.
    unchanged: Instant,
}

/// What a sweep finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Bytes of all unsent answers.
    pub(super) bytes: u64,
    /// At least how old the oldest is.
    pub(super) age: Duration,
    /// For how long none of the older ones was sent.
    pub(super) stalled: Duration,
}

impl Unread {
    fn add(&self, bytes: u64) -> usize {
        let newest = self.newest.load(Ordering::Relaxed);
        self.bytes[newest].fetch_add(bytes, Ordering::Relaxed);
        newest
    }

    fn take_off(&self, counter: usize, bytes: u64) {
        self.bytes[counter].fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Looks at the counters and exchanges them if no older answer is left.
    pub(super) fn sweep(&self, now: Instant) -> Found {
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.newest.load(Ordering::Relaxed);
        let [newer, older] = [newest, 1 - newest].map(|counter| self.bytes[counter].load(Ordering::Relaxed));
        let bytes = newer + older;
        match &mut *swept {
            Some(before) if older > 0 => {
                if before.older != older {
                    (before.older, before.unchanged) = (older, now);
                }
                let since = |then| now.saturating_duration_since(then);
                Found { bytes, age: since(before.exchanged), stalled: since(before.unchanged) }
            }
            _ => {
                self.newest.store(1 - newest, Ordering::Relaxed);
                *swept = Some(Swept { exchanged: now, older: newer, unchanged: now });
                Found { bytes, ..Found::default() }
            }
        }
    }
}

/// Bytes of an answer that count as unsent until this is dropped.
pub struct UnreadAnswer {
    connection: ConnectionHandle,
    counter: usize,
    bytes: u64,
}

impl ConnectionHandle {
    /// Counts `bytes` of an answer as unsent until the guard is dropped.
    pub fn count_unread(&self, bytes: usize) -> UnreadAnswer {
        let bytes = bytes as u64 + OVERHEAD;
        UnreadAnswer { connection: self.clone(), counter: self.unread().add(bytes), bytes }
    }
}

impl Drop for UnreadAnswer {
    fn drop(&mut self) {
        self.connection.unread().take_off(self.counter, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_that_of_the_oldest_however_many_others_come_and_go() {
        let (unread, begin) = (Unread::default(), Instant::now());
        let after = |seconds| begin + Duration::from_secs(seconds);
        let stuck = unread.add(100);
        assert_eq!(unread.sweep(after(0)), Found { bytes: 100, ..Found::default() });
        for second in 1..=60 {
            let other = unread.add(1);
            assert_eq!(unread.sweep(after(second)).age, Duration::from_secs(second));
            unread.take_off(other, 1);
        }
        assert_eq!(unread.sweep(after(61)).stalled, Duration::from_secs(61));
        unread.take_off(stuck, 100);
        let recent = unread.add(7);
        assert_eq!(unread.sweep(after(62)), Found { bytes: 7, ..Found::default() });
        unread.take_off(recent, 7);
        assert_eq!(unread.sweep(after(63)), Found::default());
    }

    #[test]
    fn older_answers_that_are_sent_one_by_one_do_not_stall() {
        let (unread, begin) = (Unread::default(), Instant::now());
        let answers: Vec<_> = (0..5).map(|_| unread.add(10)).collect();
        unread.sweep(begin);
        for (second, answer) in (1..).zip(answers) {
            unread.take_off(answer, 10);
            let found = unread.sweep(begin + Duration::from_secs(second));
            assert_eq!(found.stalled, Duration::ZERO);
        }
    }
}
