//! What Claviger does in its own time: forgetting what is due, erasing what may not be shown again, learning of root
//! secrets that others activated. The server calls it every few seconds; doing it late is never wrong.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{App, SHOWN_AGAIN_FOR, start};
use crate::domain::{
    DeleteReason, Error, KeyId, Reach, Result, Time,
    audit_event::{Action, Actor, AuditEvent},
};

/// Keys purged in one round, each in a transaction of its own, so that changes by people get their turn between.
const PURGED_AT_ONCE: u64 = 100;
/// How long refused acts are kept.
const REFUSALS_KEPT: Duration = Duration::from_secs(90 * 24 * 60 * 60);

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
            self.store.refusal_forget_before(now.saturating_sub(REFUSALS_KEPT)).await,
            self.refresh_ring().await,
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

    async fn erase_sealed(&self, now: Time) -> Result<()> {
        self.store.sealed_replay_erase_before(now.saturating_sub(SHOWN_AGAIN_FOR)).await.map(drop)
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

    /// Learns what other replicas did to the root secrets.
    async fn refresh_ring(&self) -> Result<()> {
        let states = start::states(&self.store.root_secret_list().await?);
        let renewed = self.ring().renewed(states);
        let renewed =
            renewed.ok_or_else(|| Error::fault("the database names no root secret, or several, as the active one"))?;
        let renewed = Arc::new(renewed);
        for ring in self.ring.iter() {
            *ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&renewed);
        }
        renewed.active().map(drop)
    }
}
