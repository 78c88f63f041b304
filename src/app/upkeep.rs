//! What Claviger does in its own time: forgetting what is due, erasing what may not be shown again, lowering a wait that no
//! lease needs any more. The server calls it every few seconds; doing it late is never wrong.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::{App, SHOWN_AGAIN_FOR};
use crate::clock::Uptime;
use crate::domain::{
    DeleteReason, KeyId, Reach, Result, Time,
    audit_event::{Action, Actor, AuditEvent},
};
use crate::store::wait_for;

/// Keys purged in one round, each in a transaction of its own, so that changes by people get their turn between.
const PURGED_AT_ONCE: u64 = 100;
/// How long refused acts are kept.
const REFUSALS_KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Since when a wait is seen that is longer than the lease needs.
#[derive(Debug, Default)]
pub(super) struct LongerWait(Mutex<Option<(i64, Uptime)>>);

impl LongerWait {
    /// For how long it is seen at `now`, with this number of changes of the lease.
    fn seen_for(&self, lease_changes: i64, now: Uptime) -> Duration {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, since) = *seen.filter(|(changes, _)| *changes == lease_changes).get_or_insert((lease_changes, now));
        *seen = Some((lease_changes, since));
        now.since(since)
    }

    fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl App {
    /// One round of upkeep.
    ///
    /// # Errors
    /// The first that occurred; the other parts were tried all the same.
    pub async fn upkeep(self: &Arc<Self>) -> Result<()> {
        let now = self.now();
        let outcomes = [
            self.erase_sealed(now).await,
            self.purge_due(now).await,
            self.lower_wait().await,
            self.store.refusal_forget_before(now.saturating_sub(REFUSALS_KEPT)).await,
        ];
        outcomes.into_iter().collect()
    }

    /// Counts the keys of each state, for [`App::census`]. A database of a million keys works on it for part of a second.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn take_census(&self) -> Result<()> {
        self.store.api_key_count_by_state(self.now()).await.map(|counts| self.census.note(counts))
    }

    /// Lowers a wait that is longer than the lease needs, as the migration from longer leases or a `feed lease` that was cut
    /// off leave it, once it has passed since this process saw it first: then no longer lease is left.
    async fn lower_wait(&self) -> Result<()> {
        let head = self.store.feed_state().await?;
        let wanted = wait_for(head.lease);
        if !head.is_lease_valid || head.wait <= wanted {
            self.longer_wait.clear();
            return Ok(());
        }
        if self.longer_wait.seen_for(head.lease_changes, self.clock.uptime()) >= head.wait
            && self.store.feed_sink_wait(&head, wanted).await?
        {
            tracing::info!(wait_ms = wanted.as_millis(), "lowered the wait for enforcement to what the lease needs");
        }
        Ok(())
    }

    async fn erase_sealed(&self, now: Time) -> Result<()> {
        // A turn for each part, so that a change waits for no more than that.
        loop {
            let _turn = self.changes.background().await;
            if self.store.sealed_replay_erase_before(now.saturating_sub(SHOWN_AGAIN_FOR)).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn purge_due(&self, now: Time) -> Result<()> {
        if !self.clock_is_plausible(now).await? {
            return Ok(());
        }
        let mut outcomes = Vec::new();
        // One that fails must not hold up those after it.
        for id in self.store.api_key_list_due_for_purge(now, PURGED_AT_ONCE).await? {
            outcomes.push(self.purge(id, now).await);
        }
        outcomes.into_iter().collect()
    }

    /// Forgets one key, unless it is no longer due once its lock is held.
    async fn purge(&self, id: KeyId, now: Time) -> Result<()> {
        let _turn = self.changes.background().await;
        let tx = self.store.begin().await?;
        let key = tx.api_key_find_even_deleted(&Reach::everything(), id).await?;
        let Some(key) = key.filter(|key| key.deletion.is_some_and(|deletion| deletion.purge_time <= now)) else {
            return tx.rollback().await;
        };
        tx.api_key_purge(id).await?;
        let event = AuditEvent {
            time: now,
            actor: Actor::Upkeep,
            action: Action::Purge,
            key_id: id,
            merchant: key.merchant,
            version: key.version,
            changes: Vec::new(),
            reason: key.deletion.map_or(DeleteReason::Unspecified, |deletion| deletion.reason),
            note: String::new(),
        };
        let numbered = tx.number().await?;
        self.commit(numbered, event).await.map(drop)
    }
}
