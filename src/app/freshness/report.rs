//! What can be asked about freshness, for health, metrics and logs.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::sync::watch;

use super::Freshness;
use crate::{clock::Uptime, store::Revision};

/// Where answers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// From memory.
    Fresh,
    /// From the database, each of them.
    Reread,
    /// From nowhere.
    Blind,
}

impl State {
    /// The name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Reread => "reread",
            Self::Blind => "blind",
        }
    }
}

impl Freshness {
    /// Where answers come from at `now`.
    pub fn state(&self, now: Uptime) -> State {
        if self.on.lease.grant().is_fresh(now) {
            State::Fresh
        } else if self.answers.load(Ordering::Relaxed) {
            State::Reread
        } else {
            State::Blind
        }
    }

    /// Up to which change everything is applied; none if no history is followed.
    pub fn position(&self) -> Option<Revision> {
        self.on.lease.grant().position().cloned()
    }

    /// Changes of the state, as the poller tells them.
    pub fn states(&self) -> watch::Receiver<State> {
        self.told.subscribe()
    }

    /// Whether it has been fresh once: from then on calls can be served, if only with refusals to decide.
    pub fn was_fresh(&self) -> bool {
        self.was_fresh.load(Ordering::SeqCst)
    }

    /// For how long memory may be believed from `now` on; zero if it may not.
    pub fn lease_left(&self, now: Uptime) -> Duration {
        self.on.lease.grant().until().since(now)
    }

    /// Changes that were committed and not applied yet, as of the last poll.
    pub fn feed_lag(&self) -> u64 {
        self.on.lag.load(Ordering::Relaxed)
    }

    /// Answers that came from memory.
    pub fn from_memory(&self) -> u64 {
        self.counters.from_memory.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Reads because memory did not know.
    pub fn fills(&self) -> u64 {
        self.counters.fills.load(Ordering::Relaxed)
    }

    /// Reads because memory could not be believed.
    pub fn rereads(&self) -> u64 {
        self.counters.rereads.load(Ordering::Relaxed)
    }

    /// Calls that waited in vain for a read.
    pub fn shed(&self) -> u64 {
        self.counters.shed.load(Ordering::Relaxed)
    }

    /// How often everything was dropped because the feed was not what it was.
    pub fn anomalies(&self) -> u64 {
        self.counters.anomalies.load(Ordering::Relaxed)
    }

    /// Polls that were begun, and those that failed.
    pub fn polls(&self) -> (u64, u64) {
        (self.polls.load(Ordering::SeqCst), self.counters.polls_failed.load(Ordering::Relaxed))
    }

    /// Refusals of what the database says is good and was seen revoked.
    pub fn revoked_again(&self) -> u64 {
        self.counters.revoked_again.load(Ordering::Relaxed)
    }

    /// Keys that are remembered.
    pub fn keys_held(&self) -> usize {
        self.on.memory.len()
    }

    /// Credentials that are remembered not to exist.
    pub fn absent_held(&self) -> usize {
        self.on.absent.len()
    }
}
