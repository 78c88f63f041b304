//! The poller: asks the feed five times a second, or when it is poked, and goes on whatever happens to it.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::Instant;

use super::{
    State,
    follow::{Follower, Outcome},
};
use crate::{
    app::{App, alarms::Alarm},
    domain::{Error, Result},
    seeded::{self, Bug},
    store::{FeedReader, Polled},
};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// After a poll that failed the next one comes sooner.
const AFTER_FAILURE: Duration = Duration::from_millis(100);
/// However often it is poked, it polls no more often.
const LEAST_INTERVAL: Duration = Duration::from_millis(20);

/// The poller of one process, between two polls.
pub struct Poller {
    reader: FeedReader,
    follower: Follower,
}

impl App {
    /// A poller that has not polled yet. One process has one.
    pub fn poller(&self) -> Poller {
        Poller { reader: self.store.feed_reader(), follower: Follower::default() }
    }

    /// Polls, and waits until the next poll is due. Never fails: what goes wrong is told, and memory is not believed when
    /// its lease has run out.
    pub async fn poll_and_wait(&self, poller: &mut Poller) {
        let begun = Instant::now();
        let pause = self.poll(poller).await;
        let poked = self.freshness.poked.notified();
        if tokio::time::timeout(pause, poked).await.is_ok() {
            let rest = LEAST_INTERVAL.saturating_sub(begun.elapsed());
            pause_for(rest).await;
        }
    }

    /// Polls until nothing is left behind, and tells after how long to poll again.
    pub async fn poll(&self, poller: &mut Poller) -> Duration {
        let polling = AssertUnwindSafe(self.catch_up(poller)).catch_unwind().await;
        let pause = match polling {
            Ok(Ok(())) => {
                self.freshness.database_answered(true);
                self.interval()
            }
            Ok(Err(error)) => {
                self.freshness.counters.polls_failed.fetch_add(1, Ordering::Relaxed);
                self.freshness.database_answered(false);
                tracing::debug!(?error, "a poll of the feed failed");
                AFTER_FAILURE
            }
            Err(_panic) => {
                // What it left half done is not known, so nothing of it is believed. The hook of `main` told where.
                self.alarms.count(Alarm::PollerPanicked);
                tracing::error!(
                    alarm = Alarm::PollerPanicked.name(),
                    "the poller of the feed panicked and begins anew"
                );
                poller.follower.drop_everything(&self.freshness.on);
                self.freshness.known.forget_everything();
                *poller = self.poller();
                AFTER_FAILURE
            }
        };
        if let Some(alarm) = self.freshness.tell_state(self.clock.uptime()) {
            self.alarms.count(alarm);
        }
        pause
    }

    async fn catch_up(&self, poller: &mut Poller) -> Result<()> {
        let freshness = &self.freshness;
        loop {
            poller.reader.connect(CONNECT_TIMEOUT).await?;
            let number = freshness.polls.fetch_add(1, Ordering::SeqCst) + 1;
            let mut began = self.clock.uptime();
            let answer = poller.reader.poll(poller.follower.applied(), freshness.settings.poll_timeout).await?;
            seeded::race("poll: answered, not applied").await;
            if seeded::bug(Bug::LeaseFromPollEnd) {
                began = self.clock.uptime();
            }
            let applied = poller.follower.applied();
            self.take_in(&answer)?;
            let outcome = poller.follower.apply(&answer, began, &freshness.on);
            if matches!(outcome, Outcome::UpToDate | Outcome::Behind) {
                // Before the poll is confirmed: who waits for it finds here since when a change is known (step 12).
                freshness.known.note_polled(&answer, applied, self.known_now());
            }
            match outcome {
                Outcome::UpToDate => {
                    freshness.was_fresh.store(true, Ordering::SeqCst);
                    freshness.confirmed.send_replace(number);
                    return Ok(());
                }
                Outcome::Behind => seeded::race("poll: behind").await,
                Outcome::NotTheWriter => {
                    // The connection goes to the wrong node, and so would the next poll over it.
                    poller.reader = self.store.feed_reader();
                    return Err(super::not_the_writer());
                }
                Outcome::Dropped(anomaly) => {
                    freshness.known.forget_everything();
                    freshness.counters.anomalies.fetch_add(1, Ordering::Relaxed);
                    self.alarms.count(Alarm::FeedAnomaly);
                    tracing::error!(
                        alarm = Alarm::FeedAnomaly.name(),
                        anomaly = anomaly.name(),
                        epoch = %answer.head.revision.epoch(),
                        head = answer.head.revision.seq(),
                        "the feed is not what it was: everything remembered is dropped, and what was seen revoked stays \
                         refused; was the database restored or changed by hand?"
                    );
                }
            }
        }
    }

    /// What an answer of the writer says beside the feed: the states of the root secrets, which versions may run, and whether
    /// lease and wait can be trusted.
    fn take_in(&self, answer: &Polled) -> Result<()> {
        let freshness = &self.freshness;
        let was_other_session = freshness.is_other_session.swap(answer.is_other_session, Ordering::Relaxed);
        if answer.is_other_session && !was_other_session {
            self.alarms.count(Alarm::DatabaseSessionChanged);
            tracing::error!(
                alarm = Alarm::DatabaseSessionChanged.name(),
                "a connection leads to another session of the database than when it was made, so its answers do not count: \
                 connect to the database directly, not through a pooler that shares connections"
            );
        }
        if !(answer.is_writer && answer.was_writer) {
            return Ok(());
        }
        if let Some(schema) = answer.newer_schema_required {
            freshness.on.lease.end();
            if freshness.outdated.send_replace(Some(schema)).is_none() {
                self.alarms.count(Alarm::BinaryOutdated);
                tracing::error!(
                    alarm = Alarm::BinaryOutdated.name(),
                    schema,
                    "the database is in use by a newer Claviger in a way that this one cannot take part in: it answers nothing \
                     from its cache any more, makes no change and ends"
                );
            }
            return Err(Error::fault(format!("the database requires a Claviger that knows schema {schema}")));
        }
        let ring = freshness.ring();
        if *ring.states() != answer.root_states {
            freshness.ring.replace(ring.with_states(answer.root_states.clone()), &freshness.on);
        }
        if !answer.head.is_lease_valid {
            // Before the alarm: what an operator is told has happened by then.
            freshness.on.lease.expire();
        }
        let was_valid = freshness.is_lease_valid.swap(answer.head.is_lease_valid, Ordering::Relaxed);
        if was_valid && !answer.head.is_lease_valid {
            self.alarms.count(Alarm::LeaseInvalid);
            tracing::error!(
                alarm = Alarm::LeaseInvalid.name(),
                "the lease and the wait in the table feed_head contradict each other, so there is no lease and every change \
                 waits 10.5 s; set them with `claviger feed lease 1s`"
            );
        }
        Ok(())
    }

    /// A fifth of a second, more or less, so that replicas do not poll in step.
    fn interval(&self) -> Duration {
        let interval = self.freshness.settings.poll_interval;
        let dice = Self::random_bytes::<1>().map_or(0, |[byte]| u32::from(byte));
        interval * 4 / 5 + interval * 2 / 5 * dice / 255
    }
}

impl super::Freshness {
    /// Tells a change of the state, once, and which alarm that is. Reading each answer is slow and right, and no alarm.
    fn tell_state(&self, now: crate::clock::Uptime) -> Option<Alarm> {
        let state = self.state(now);
        if !self.told.send_if_modified(|told| std::mem::replace(told, state) != state) {
            return None;
        }
        let (state_name, feed_lag) = (state.name(), self.feed_lag());
        match state {
            State::Fresh => {
                tracing::info!(state = state_name, feed_lag, "answers come from memory again");
                None
            }
            State::Reread => {
                tracing::warn!(
                    state = state_name,
                    feed_lag,
                    "memory may not be believed now: every answer is read from the database"
                );
                None
            }
            State::Blind => {
                tracing::error!(
                    alarm = Alarm::DatabaseAway.name(),
                    state = state_name,
                    feed_lag,
                    "the database does not answer: nothing can be decided that needs it"
                );
                Some(Alarm::DatabaseAway)
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "there is nothing to wait for but that others poke, and share the poll")]
async fn pause_for(rest: Duration) {
    tokio::time::sleep(rest).await;
}

/// Keeps `app` fresh until it is dropped.
pub async fn keep_fresh(app: Arc<App>, mut poller: Poller) {
    loop {
        app.poll_and_wait(&mut poller).await;
    }
}
