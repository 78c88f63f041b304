//! Whether the wall clock may be believed, for what cannot be undone: a purge.
//!
//! One clock proves nothing: set 40 days ahead, it would purge every deleted key at once. So it is compared with two
//! others: that of the database server, and the uptime clock, which nobody sets. A clock that moved since this process
//! started stays in doubt until it is back or the process is started again. An embedded database has the clock of the same
//! machine, so there the second comparison alone protects.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{App, alarms::Alarm};
use crate::{
    clock::{Clock, Uptime},
    domain::{Result, Time},
};

/// How far two clocks may be apart.
pub const MAX_CLOCK_DIFFERENCE: Duration = Duration::from_secs(60 * 60);

/// The wall clock beside the uptime clock, when the process started.
pub(super) struct ClockCheck {
    time: Time,
    uptime: Uptime,
    in_doubt: AtomicBool,
}

impl ClockCheck {
    pub(super) fn start(clock: &dyn Clock) -> Self {
        Self { time: clock.now(), uptime: clock.uptime(), in_doubt: AtomicBool::new(false) }
    }

    /// By how much the wall clock was moved since the process started, so that it says `now` at this `uptime`.
    fn moved(&self, now: Time, uptime: Uptime) -> Duration {
        difference(now, self.time.saturating_add(uptime.since(self.uptime)))
    }
}

impl App {
    /// Whether what cannot be undone may be done at `now`. When the answer becomes no, an alarm is raised.
    ///
    /// # Errors
    /// `Unavailable` if the database does not tell its time.
    pub(super) async fn clock_is_plausible(&self, now: Time) -> Result<bool> {
        let check = &self.clock_check;
        let moved = check.moved(now, self.clock.uptime());
        let apart = difference(now, self.store.database_time().await?);
        let limit = self.settings.max_clock_difference;
        let plausible = moved <= limit && apart <= limit;
        if check.in_doubt.swap(!plausible, Ordering::Relaxed) == plausible {
            if plausible {
                tracing::info!("the clock is plausible again; deleted keys are purged when they are due");
            } else {
                self.alarms.count(Alarm::ClockImplausible);
                tracing::error!(
                    alarm = Alarm::ClockImplausible.name(),
                    moved_seconds = moved.as_secs(),
                    from_database_seconds = apart.as_secs(),
                    "the clock of this machine moved by more than an hour, or is more than an hour from the database \
                     server's; no deleted key is purged. Put the clock right; if it is right now, start this replica again"
                );
            }
        }
        Ok(plausible)
    }
}

fn difference(a: Time, b: Time) -> Duration {
    a.since(b).max(b.since(a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn case_70_a_clock_that_was_moved_stays_in_doubt_however_long_it_is_ago() {
        let hour = Duration::from_secs(60 * 60);
        let clock = ManualClock::new(Time::from_micros(1_800_000_000_000_000));
        let check = ClockCheck::start(&clock);
        let moved = || check.moved(clock.now(), clock.uptime());
        clock.advance(hour * 24 * 400);
        assert_eq!(moved(), Duration::ZERO, "time that passes is not a move");
        clock.set(clock.now().saturating_add(hour * 24 * 40));
        clock.advance(hour * 24);
        assert_eq!(moved(), hour * 24 * 40);
        clock.set(clock.now().saturating_sub(hour * 24 * 41));
        assert_eq!(moved(), hour * 24);
    }
}
