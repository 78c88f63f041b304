//! The proof that this process has invalidated a key after a change was committed (step 12 of the argument).
//!
//! An answer with `enforced` is made of an [`Invalidated`], and only this module makes one.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

use super::{Freshness, bounded::Bounded};
use crate::{
    app::App,
    clock::{Clock, Uptime},
    domain::{ApiKey, KeyId, Time, audit_event::Action},
    store::{Polled, Revision},
};

/// Keys whose last change is known with its moment, at most. Whose is not waits in full.
const MOST_KNOWN: usize = 16_384;

/// A moment of this process, by both of its clocks.
#[derive(Clone, Copy, Debug)]
pub(in crate::app) struct Moment {
    pub(super) uptime: Uptime,
    pub(super) time: Time,
}

impl Moment {
    /// Now, by both clocks.
    pub(in crate::app) fn now(clock: &dyn Clock) -> Self {
        Self { uptime: clock.uptime(), time: clock.now() }
    }

    /// For one of the checker's bugs alone: when the time was that the database stores for a change.
    pub(in crate::app) fn of_stored(clock: &dyn Clock, time: Time) -> Self {
        let up = clock.uptime().since(Uptime::default()).saturating_sub(clock.now().since(time));
        Self { uptime: Uptime::new(up), time }
    }
}

/// Nothing that this process remembers of a key is from before a change, which it has known of since a moment.
#[derive(Clone, Copy, Debug)]
pub(in crate::app) struct Invalidated {
    since: Moment,
}

impl Invalidated {
    /// Since when this process knows the change to be committed.
    pub(super) fn since(self) -> Moment {
        self.since
    }
}

/// What a call that commits nothing read, and what it needs to prove that this process has it invalidated.
#[derive(Debug)]
pub(in crate::app) struct Unproved {
    key: KeyId,
    version: i64,
    revision: Revision,
    /// The polls that had begun when the read had ended.
    begun: u64,
    pub(super) read: Moment,
}

/// Since when the last change of a key is known.
#[derive(Debug)]
pub(super) struct KnownChanges(Mutex<Bounded<KeyId, Known>>);

#[derive(Clone, Debug)]
struct Known {
    epoch: Arc<str>,
    /// Of the key, after the change.
    version: i64,
    since: Moment,
}

impl Known {
    fn of(revision: &Revision, version: i64, since: Moment) -> Self {
        Self { epoch: Arc::clone(revision.epoch()), version, since }
    }
}

impl Default for KnownChanges {
    fn default() -> Self {
        Self(Mutex::new(Bounded::new(MOST_KNOWN)))
    }
}

impl KnownChanges {
    /// Notes what a poll showed that is new after the position `applied`. What was known before keeps its moment.
    pub(super) fn note_polled(&self, polled: &Polled, applied: Option<i64>, since: Moment) {
        // Where a history begins to be followed, what happened before is not seen.
        let Some(applied) = applied else { return self.forget_everything() };
        for change in polled.changes.iter().filter(|change| change.seq > applied) {
            if let Some(key) = change.key_id {
                self.note_unless_known(key, Known::of(&polled.head.revision, change.version, since));
            }
        }
    }

    /// Forgets all moments: the history that they belong to is in doubt.
    pub(super) fn forget_everything(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Bounded::new(MOST_KNOWN);
    }

    fn note_committed(&self, key: KeyId, known: Known) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key, known);
    }

    /// Notes `new`, unless the same or more is known, and tells since when at least as much as `new` is known.
    fn note_unless_known(&self, key: KeyId, new: Known) -> Moment {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // By the version of the key, so that no gap in what was noted can pass for knowledge of a later change.
        let before = known.find(&key).filter(|known| known.epoch == new.epoch && known.version >= new.version);
        if let Some(before) = before {
            return before.since;
        }
        let since = new.since;
        known.insert(key, new);
        since
    }
}

impl Freshness {
    /// Invalidates here what the committed change `revision` touched, before anything can be said of it.
    pub(in crate::app) fn invalidate(
        &self,
        key: KeyId,
        (action, version): (Action, i64),
        revision: &Revision,
        now: impl FnOnce() -> Moment,
    ) -> Invalidated {
        if action.makes_a_credential() {
            self.on.absent.forget_before(revision.seq());
        }
        self.on.memory.drop_key(key, revision.seq());
        let since = now();
        self.known.note_committed(key, Known::of(revision, version, since));
        Invalidated { since }
    }

    /// Waits for a poll that began after what is `unproved` was read; none if there is none by `until`.
    pub(super) async fn prove(&self, unproved: Unproved, until: Instant) -> Option<Invalidated> {
        let Unproved { key, version, revision, begun, read } = unproved;
        let mut confirmed = self.confirmed.subscribe();
        self.poke();
        let confirmed = confirmed.wait_for(|number| *number > begun);
        tokio::time::timeout_at(until, confirmed).await.ok()?.ok()?;
        // The poll has shown every change up to the read; one that it had no need to show is known since the read.
        let since = self.known.note_unless_known(key, Known::of(&revision, version, read));
        Some(Invalidated { since })
    }
}

impl App {
    /// Now, by both clocks.
    pub(in crate::app) fn known_now(&self) -> Moment {
        Moment::now(&*self.clock)
    }

    /// To be called after a read that showed `key` at `revision`.
    pub(in crate::app) fn unproved(&self, key: &ApiKey, revision: Revision) -> Unproved {
        Unproved {
            key: key.id,
            version: key.version,
            revision,
            begun: self.freshness.polls_begun(),
            read: self.known_now(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn moment(seconds: u64) -> Moment {
        Moment { uptime: Uptime::new(Duration::from_secs(seconds)), time: Time::from_micros(0) }
    }

    fn seconds(moment: Moment) -> u64 {
        moment.uptime.since(Uptime::default()).as_secs()
    }

    #[test]
    fn a_change_keeps_the_moment_since_when_it_is_known_and_a_later_one_has_its_own() {
        let (changes, key) = (KnownChanges::default(), KeyId::from_bytes([1; 16]));
        let (here, elsewhere) = (Revision::new("a", 7), Revision::new("b", 7));
        let noted = |revision: &Revision, version, at| {
            seconds(changes.note_unless_known(key, Known::of(revision, version, moment(at))))
        };
        assert_eq!(noted(&here, 2, 10), 10);
        assert_eq!(noted(&here, 2, 20), 10, "a repeat continues the wait");
        assert_eq!(noted(&here, 3, 30), 30, "what is not known waits in full");
        assert_eq!(noted(&here, 2, 40), 30, "who knows the later change may wait for it");
        assert_eq!(noted(&elsewhere, 3, 50), 50, "another history tells nothing of this one");
        changes.forget_everything();
        assert_eq!(noted(&elsewhere, 3, 60), 60);
    }
}
