//! Update: new settings for a key.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Answer, App, Patience, Target,
    manage::{actor, changes, require_etag},
    mutation::{Mutation, Proposal, Step},
};
use crate::{
    admission::Urgency,
    domain::{
        ApiKey, Caller, DeleteReason, Error, Result, Scope, Time, WebhookFormat,
        api_key::Retiring,
        audit_event::{Action, AuditEvent},
        caller::guarded,
        error::Precondition,
        ip_rules::IpBlock,
        scope,
    },
    store::Tx,
};

/// The settings that are to change; what is none stays. An inner none clears.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Patch {
    /// A name for people.
    pub display_name: Option<String>,
    /// From where.
    pub allowed_ips: Option<Vec<IpBlock>>,
    /// From where not.
    pub denied_ips: Option<Vec<IpBlock>>,
    /// How webhooks are written.
    pub webhook_format: Option<WebhookFormat>,
    /// For what.
    pub scopes: Option<Vec<Scope>>,
    /// The merchant's notes.
    pub labels: Option<BTreeMap<String, String>>,
    /// Off or on.
    pub disabled: Option<bool>,
    /// Refused before.
    pub not_before_time: Option<Option<Time>>,
    /// When it ends, with the path of the field that said so.
    pub expire_time: Option<(Option<Time>, &'static str)>,
    /// When the secret before the current one ends; none: now.
    pub previous_secret_expire_time: Option<Option<Time>>,
}

struct Update {
    target: Target,
    patch: Patch,
}

impl App {
    /// Changes settings of a key.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `EtagMismatch`, `Invalid` if the new settings do not fit the old ones, and the
    /// preconditions of the API's documentation.
    pub async fn update(
        self: &Arc<Self>,
        caller: &Caller,
        target: Target,
        patch: Patch,
        patience: Patience,
    ) -> Result<Answer> {
        caller.require(scope::KEYS_WRITE)?;
        self.change(caller, patience, Update { target, patch }).await
    }
}

impl Patch {
    /// Whether it does nothing but disable.
    fn is_revocation(&self) -> bool {
        let rest = Self { disabled: None, ..self.clone() };
        self.disabled == Some(true) && rest == Self::default()
    }
}

impl Mutation for Update {
    fn urgency(&self) -> Urgency {
        if self.patch.is_revocation() { Urgency::Revocation } else { Urgency::Change }
    }

    async fn needless(&self, app: &App, caller: &Caller) -> Result<Option<ApiKey>> {
        if !self.patch.is_revocation() {
            return Ok(None);
        }
        let reach = guarded(caller.require(scope::KEYS_WRITE)?, self.target.merchant.as_ref())?;
        let key = app.store.api_key_find_even_deleted(&reach, self.target.id).await?.ok_or(Error::NotFound)?;
        caller.require_change_of(&key)?;
        if key.deletion.is_some() {
            return Err(Precondition::KeyDeleted.into());
        }
        require_etag(&self.target, &key)?;
        Ok(key.disabled.then_some(key))
    }

    fn require(&self, caller: &Caller, before: Option<&ApiKey>, after: &ApiKey) -> Result<()> {
        let before = before.unwrap_or(after);
        if !caller.require(scope::KEYS_WRITE)?.covers(&before.merchant) {
            return Err(Error::NotFound);
        }
        caller.require_change_of(before)?;
        caller.require_change_of(after)
    }

    async fn attempt(&self, app: &App, caller: &Caller, tx: &Tx, now: Time) -> Result<Step> {
        let reach = guarded(caller.require(scope::KEYS_WRITE)?, self.target.merchant.as_ref())?;
        let before = tx.api_key_find_even_deleted(&reach, self.target.id).await?.ok_or(Error::NotFound)?;
        caller.require_change_of(&before)?;
        if before.deletion.is_some() {
            return Err(Precondition::KeyDeleted.into());
        }
        require_etag(&self.target, &before)?;
        let mut after = self.patch.applied_to(&before, now).inspect_err(|error| {
            if let Error::Poisoned(poisoned) = error {
                app.alarms.raise_record_poisoned(*poisoned);
            }
        })?;
        self.require(caller, Some(&before), &after)?;
        if after == before {
            return Ok(Step::unchanged(before));
        }
        after.update_time = now;
        after.version += 1;
        tx.api_key_save(&after).await?;
        let event = AuditEvent {
            time: now,
            actor: actor(caller),
            action: Action::Update,
            key_id: after.id,
            merchant: after.merchant.clone(),
            version: after.version,
            changes: changes(Some(&before), &after, now),
            reason: DeleteReason::Unspecified,
            note: String::new(),
        };
        Ok(Step::Change(Box::new(Proposal { before: Some(before), after, key: None, event })))
    }
}

impl Patch {
    fn applied_to(&self, before: &ApiKey, now: Time) -> Result<ApiKey> {
        let mut after = before.clone();
        let mut terms = before.terms.clone()?;
        set(&mut after.display_name, self.display_name.as_ref());
        set(&mut terms.ip_rules.allowed, self.allowed_ips.as_ref());
        set(&mut terms.ip_rules.denied, self.denied_ips.as_ref());
        set(&mut terms.webhook_format, self.webhook_format.as_ref());
        set(&mut terms.scopes, self.scopes.as_ref());
        set(&mut terms.labels, self.labels.as_ref());
        set(&mut after.disabled, self.disabled.as_ref());
        set(&mut after.not_before_time, self.not_before_time.as_ref());
        set(&mut after.expire_time, self.expire_time.as_ref().map(|(time, _)| time));
        after.terms = Ok(terms);
        self.check_times(&after)?;
        if let Some(end) = self.previous_secret_expire_time {
            after.retiring = ended_earlier(before.retiring, end, now)?;
        }
        Ok(after)
    }

    fn check_times(&self, after: &ApiKey) -> Result<()> {
        let field = match (&self.expire_time, &self.not_before_time) {
            (Some((_, field)), _) => field,
            (None, Some(_)) => "api_key.not_before_time",
            (None, None) => return Ok(()),
        };
        match (after.not_before_time, after.expire_time) {
            (Some(begin), Some(end)) if end <= begin => Err(Error::field(
                field,
                "would leave expire_time at or before not_before_time; the key has to begin before it ends",
            )),
            _ => Ok(()),
        }
    }
}

fn set<T: Clone>(value: &mut T, new: Option<&T>) {
    if let Some(new) = new {
        value.clone_from(new);
    }
}

/// The overlap with its end moved to `end`, or over if that is none. It only ever moves earlier.
fn ended_earlier(retiring: Option<Retiring>, end: Option<Time>, now: Time) -> Result<Option<Retiring>> {
    let field = "api_key.previous_secret_expire_time";
    let running = retiring.filter(|retiring| now < retiring.expire_time);
    match (running, end) {
        // Nothing runs that could end: an overlap that is over stays in the row as it is.
        (None, None) => Ok(retiring),
        (Some(_), None) => Ok(None),
        (None, Some(_)) => {
            Err(Error::field(field, "can only move an overlap earlier, and none is running; leave it out"))
        }
        (Some(running), Some(end)) if end > running.expire_time => Err(Error::field(
            field,
            "lies after the present end of the overlap; it can only move earlier, or be empty to end the overlap now",
        )),
        (Some(running), Some(expire_time)) => Ok(Some(Retiring { expire_time, ..running })),
    }
}
