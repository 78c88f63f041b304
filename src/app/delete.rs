//! Delete: the end of a key. Its record stays until it is purged.

use std::sync::Arc;

use super::{
    Answer, App, Patience, Target,
    manage::{actor, changes, require_etag},
    mutation::{Mutation, Proposal, Step},
};
use crate::{
    admission::Urgency,
    domain::{
        ApiKey, Caller, DeleteReason, Error, Reach, Result, Time,
        api_key::Deletion,
        audit_event::{Action, AuditEvent},
        caller::guarded,
        scope,
    },
    store::Tx,
};

/// What is to be deleted, and why.
#[derive(Clone)]
pub struct Revocation {
    /// Which key.
    pub target: Target,
    /// Why.
    pub reason: DeleteReason,
    /// For the audit log.
    pub note: String,
    /// How long to wait until the key is refused everywhere.
    pub patience: Patience,
}

impl App {
    /// Deletes a key. Deleting a deleted one is fine, and may raise the reason to compromised.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `EtagMismatch`, and the precondition that an administrator is left.
    pub async fn delete(self: &Arc<Self>, caller: &Caller, revocation: Revocation) -> Result<Answer> {
        caller.require_unless_own(scope::KEYS_WRITE, revocation.target.id)?;
        let patience = revocation.patience.clone();
        self.change(caller, patience, revocation).await
    }
}

impl Revocation {
    /// How the key ends, if it may be deleted by `caller` as it is.
    fn deletion(&self, caller: &Caller, before: &ApiKey, app: &App, now: Time) -> Result<Deletion> {
        self.require(caller, Some(before), before)?;
        if let Some(deletion) = before.deletion {
            return Ok(Deletion { reason: deletion.reason.raised_to(self.reason), ..deletion });
        }
        require_etag(&self.target, before)?;
        let purge_time = now.saturating_add(app.settings.purge_after);
        Ok(Deletion { delete_time: now, purge_time, reason: self.reason })
    }

    fn reach(&self, caller: &Caller) -> Result<Reach> {
        guarded(caller.require_unless_own(scope::KEYS_WRITE, self.target.id)?, self.target.merchant.as_ref())
    }
}

impl Mutation for Revocation {
    fn urgency(&self) -> Urgency {
        Urgency::Revocation
    }

    async fn needless(&self, app: &App, caller: &Caller) -> Result<Option<ApiKey>> {
        let key = app.store.api_key_find_even_deleted(&self.reach(caller)?, self.target.id).await?;
        let key = key.ok_or(Error::NotFound)?;
        let deletion = self.deletion(caller, &key, app, app.now())?;
        Ok((key.deletion == Some(deletion)).then_some(key))
    }

    fn require(&self, caller: &Caller, before: Option<&ApiKey>, after: &ApiKey) -> Result<()> {
        let key = before.unwrap_or(after);
        let reach = caller.require_unless_own(scope::KEYS_WRITE, key.id)?;
        if reach.covers(&key.merchant) { caller.require_change_of(key) } else { Err(Error::NotFound) }
    }

    async fn attempt(&self, app: &App, caller: &Caller, tx: &Tx, now: Time) -> Result<Step> {
        let before =
            tx.api_key_find_even_deleted(&self.reach(caller)?, self.target.id).await?.ok_or(Error::NotFound)?;
        let deletion = self.deletion(caller, &before, app, now)?;
        if before.deletion == Some(deletion) {
            return Ok(Step::unchanged(before));
        }
        let after =
            ApiKey { deletion: Some(deletion), update_time: now, version: before.version + 1, ..before.clone() };
        tx.api_key_save(&after).await?;
        let event = AuditEvent {
            time: now,
            actor: actor(caller),
            action: Action::Delete,
            key_id: after.id,
            merchant: after.merchant.clone(),
            version: after.version,
            changes: changes(Some(&before), &after, now),
            reason: deletion.reason,
            note: self.note.clone(),
        };
        Ok(Step::Change(Box::new(Proposal { before: Some(before), after, key: None, event })))
    }
}
