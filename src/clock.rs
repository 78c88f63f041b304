//! What time it is, and how much of it has passed. Nobody else knows.
//!
//! The two are told apart. The wall clock says what people mean by a time, and jumps when somebody sets it; the time since
//! the machine was started only ever goes on, also while the machine sleeps, and says nothing to people. Keys begin and
//! end by the first, leases run by the second.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use rustix::time::{ClockId, clock_gettime};

use crate::domain::Time;

/// How long the machine has been up, suspended or not. Comparable only on this machine and until it is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(Duration);

impl Uptime {
    /// This long after the machine was started.
    pub const fn new(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// This much later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    /// How long after `earlier` it is; zero if it is before it.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Now, for people.
    fn now(&self) -> Time;

    /// Now, for measuring how much time has passed.
    fn uptime(&self) -> Uptime;
}

/// The clocks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks the operating system")]
    fn now(&self) -> Time {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        // A machine whose clock stands before 1970 is served as well as any other.
        Time::from_micros(match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => micros(after),
            Err(before) => -micros(before.duration()),
        })
    }

    fn uptime(&self) -> Uptime {
        // CLOCK_BOOTTIME, and not CLOCK_MONOTONIC, which stands still while the machine sleeps.
        let time = clock_gettime(ClockId::Boottime);
        let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
        Uptime(Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0)))
    }
}

/// Clocks that go when told to, for tests.
#[derive(Debug)]
pub struct ManualClock {
    now: AtomicI64,
    /// In microseconds.
    uptime: AtomicU64,
}

impl ManualClock {
    /// Stands at `now`, an hour after the start of the machine.
    pub fn new(now: Time) -> Self {
        Self { now: AtomicI64::new(now.micros()), uptime: AtomicU64::new(3_600_000_000) }
    }

    /// Goes on by `duration`, for people and for leases.
    pub fn advance(&self, duration: Duration) {
        self.set(self.now().saturating_add(duration));
        self.pass(duration);
    }

    /// Jumps to `now`, forward or back, as when somebody sets the wall clock: no time passes.
    pub fn set(&self, now: Time) {
        self.now.store(now.micros(), Ordering::SeqCst);
    }

    /// Lets time pass that the wall clock knows nothing of.
    pub fn pass(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.uptime.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time::from_micros(self.now.load(Ordering::SeqCst))
    }

    fn uptime(&self) -> Uptime {
        Uptime(Duration::from_micros(self.uptime.load(Ordering::SeqCst)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_s_uptime_only_goes_on() {
        let before = SystemClock.uptime();
        let after = SystemClock.uptime();
        assert!(after >= before && before > Uptime::default());
        assert_eq!(before.after(Duration::from_secs(1)).since(before), Duration::from_secs(1));
        assert_eq!(before.since(before.after(Duration::from_secs(1))), Duration::ZERO);
    }
}
