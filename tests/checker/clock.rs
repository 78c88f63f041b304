//! The one clock: `CLOCK_MONOTONIC` of the checker's process. What happened on a replica is known only by when its
//! question was sent and its answer came.

use std::{
    fmt,
    time::{Duration, Instant},
};

/// A point on the clock, in nanoseconds since the run began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

/// The clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// What it shows.
    pub fn now(&self) -> Moment {
        Moment(u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Moment {
    /// The moment so many milliseconds after the beginning.
    pub fn at_millis(millis: u64) -> Self {
        Self(millis * 1_000_000)
    }

    /// How long after `earlier` it is; nothing if it is before it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment so much later.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}", Duration::from_nanos(self.0).as_secs_f64())
    }
}
