//! Rotate ("regenerate"): a new secret for a key that otherwise stays what it is.

use std::{sync::Arc, time::Duration};

use super::{
    Answer, App, Patience, Target,
    hashing::Behalf,
    manage::{actor, changes, require_etag},
    mutation::{Mutation, Proposal, Step},
    request_ids::Meaning,
    share_of,
};
use crate::{
    admission::{Share, Urgency},
    domain::{
        ApiKey, Caller, DeleteReason, Error, RequestId, Result, State, Time,
        api_key::Retiring,
        audit_event::{Action, AuditEvent},
        caller::guarded,
        error::Precondition,
        key_string::KeyString,
        scope,
        secret_hash::Owner,
    },
    store::{Credential, RequestKey, Tx},
};

/// The longest overlap.
pub const MAX_OVERLAP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The shortest overlap for a key that rotates itself.
pub const LEAST_OWN_OVERLAP: Duration = Duration::from_secs(15 * 60);

/// What is to be rotated, and how.
#[derive(Clone)]
pub struct Rotation {
    /// Which key.
    pub target: Target,
    /// For how long the old secret is accepted beside the new one; at most [`MAX_OVERLAP`].
    pub overlap: Duration,
    /// Makes a retry safe.
    pub request_id: Option<RequestId>,
    /// How long to wait until the old secret is refused everywhere, or its end known.
    pub patience: Patience,
}

struct Rotate {
    target: Target,
    overlap: Duration,
    credential: Credential,
    shown: Arc<KeyString>,
    request: Option<RequestKey>,
    fingerprint: [u8; 32],
}

impl App {
    /// Gives a key a new secret.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `EtagMismatch`, the preconditions of the API's documentation and of `request_id`.
    pub async fn rotate(self: &Arc<Self>, caller: &Caller, rotation: Rotation) -> Result<Answer> {
        let Rotation { target, overlap, request_id, patience } = rotation;
        let reach = guarded(caller.require(scope::KEYS_WRITE)?, target.merchant.as_ref())?;
        // Hashing takes long, so it is done before the transaction, for a key that the caller may change.
        let key = self.store.api_key_find_even_deleted(&reach, target.id).await?.ok_or(Error::NotFound)?;
        caller.require_change_of(&key)?;
        let fingerprint = Meaning::of("Rotate")
            .with(target.id.as_bytes())
            .with_number(i128::try_from(overlap.as_nanos()).ok())
            .fingerprint();
        let request = request_id.map(|request_id| RequestKey { caller: caller.key_id(), request_id });
        let mut attempt = 1;
        loop {
            let (target, request) = (target.clone(), request.clone());
            let (credential, shown) = self.mint_secret(&key, share_of(caller)).await?;
            let rotate = Rotate { target, overlap, credential, shown, request, fingerprint };
            let outcome = self.change(caller, patience.clone(), rotate).await;
            if !self.may_make_again(&outcome, attempt).await {
                return outcome;
            }
            attempt += 1;
        }
    }

    /// Makes a further secret for `key`, without storing it.
    async fn mint_secret(&self, key: &ApiKey, caller: Share) -> Result<(Credential, Arc<KeyString>)> {
        let ring = self.ring();
        let shown = self.settings.key_format.mint(ring.active()?, &mut crate::seeded::minting_random());
        let shown = Arc::new(shown.map_err(Error::fault)?);
        let owner = Owner::new(key.id, shown.credential_id(), &key.merchant);
        let behalf = Behalf { caller, merchant: key.merchant.clone() };
        let phc = self.hash(&shown, owner, &ring, behalf).await?;
        Ok((Credential::new(shown.credential_id(), shown.root(), self.settings.profile, phc, self.now()), shown))
    }
}

impl Rotate {
    /// What keeps a key that rotates itself from locking its holder out. Judged under the lock of the row, and only when
    /// there is nothing to replay: the secret that this very rotation retires may ask for its answer again.
    fn require_own(&self, caller: &Caller, key: &ApiKey, now: Time) -> Result<()> {
        if caller.credential_id() != key.current {
            return Err(Precondition::SecretNotCurrent.into());
        }
        if self.overlap < LEAST_OWN_OVERLAP {
            return Err(Precondition::OverlapRequired.into());
        }
        let is_young = key.retiring.as_ref().is_some_and(|retiring| now < retiring.expire_time)
            && key.rotate_time.is_some_and(|began| now < began.saturating_add(LEAST_OWN_OVERLAP));
        if is_young { Err(Precondition::OverlapTooYoung.into()) } else { Ok(()) }
    }
}

impl Mutation for Rotate {
    fn urgency(&self) -> Urgency {
        if self.overlap.is_zero() { Urgency::Rotation } else { Urgency::Change }
    }

    fn require(&self, caller: &Caller, before: Option<&ApiKey>, after: &ApiKey) -> Result<()> {
        let key = before.unwrap_or(after);
        let reach = caller.require(scope::KEYS_WRITE)?;
        if reach.covers(&key.merchant) { caller.require_change_of(key) } else { Err(Error::NotFound) }
    }

    async fn attempt(&self, app: &App, caller: &Caller, tx: &Tx, now: Time) -> Result<Step> {
        let reach = guarded(caller.require(scope::KEYS_WRITE)?, self.target.merchant.as_ref())?;
        let before = tx.api_key_find_even_deleted(&reach, self.target.id).await?.ok_or(Error::NotFound)?;
        self.require(caller, Some(&before), &before)?;
        if let Some(request) = &self.request
            && let Some((replay, key)) =
                app.find_replay(tx, request, &caller.require(scope::KEYS_WRITE)?, caller).await?
        {
            return app.replay(request, &replay, self.fingerprint, key, now);
        }
        require_etag(&self.target, &before)?;
        match before.state(now) {
            State::Deleted => return Err(Precondition::KeyDeleted.into()),
            State::Expired => return Err(Precondition::KeyExpired.into()),
            State::Disabled if before.expire_time.is_some_and(|end| now >= end) => {
                return Err(Precondition::KeyExpired.into());
            }
            State::Disabled | State::NotYetValid | State::Active => {}
        }
        if self.target.id == caller.key_id() {
            self.require_own(caller, &before, now)?;
        }
        let retiring = (!self.overlap.is_zero())
            .then(|| Retiring { credential_id: before.current, expire_time: now.saturating_add(self.overlap) });
        let after = ApiKey {
            current: self.credential.id,
            prefix: self.shown.prefix().to_owned(),
            retiring,
            rotate_time: Some(now),
            update_time: now,
            version: before.version + 1,
            ..before.clone()
        };
        tx.credential_insert(after.id, &self.credential).await?;
        tx.api_key_save(&after).await?;
        if let Some(request) = &self.request {
            app.remember(tx, request, self.fingerprint, &after, &self.shown, now).await?;
        }
        let event = AuditEvent {
            time: now,
            actor: actor(caller),
            action: Action::Rotate,
            key_id: after.id,
            merchant: after.merchant.clone(),
            version: after.version,
            changes: changes(Some(&before), &after, now),
            reason: DeleteReason::Unspecified,
            note: String::new(),
        };
        let key = Some(Arc::clone(&self.shown));
        Ok(Step::Change(Box::new(Proposal { before: Some(before), after, key, event })))
    }
}
