//! Create: a new key and its first secret.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Answer, App, Patience,
    hashing::Behalf,
    manage::{Expiry, actor, changes},
    mutation::{Mutation, Proposal, Step},
    request_ids::Meaning,
    share_of,
};
use crate::{
    admission::Share,
    domain::{
        ApiKey, Caller, DeleteReason, Error, KeyId, Merchant, RequestId, Result, Scope, Time, WebhookFormat,
        api_key::Terms,
        audit_event::{Action, AuditEvent},
        error::Violation,
        ip_rules::IpRules,
        key_string::KeyString,
        scope,
        secret_hash::Owner,
    },
    store::{Credential, RequestKey, Tx},
};

/// What a new key is to be.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// Whose; none: the caller's merchant.
    pub merchant: Option<Merchant>,
    /// Its name for people.
    pub display_name: String,
    /// From where.
    pub ip_rules: IpRules,
    /// How webhooks are written.
    pub webhook_format: WebhookFormat,
    /// For what.
    pub scopes: Vec<Scope>,
    /// The merchant's notes.
    pub labels: BTreeMap<String, String>,
    /// Made, but switched off.
    pub disabled: bool,
    /// Refused before.
    pub not_before_time: Option<Time>,
    /// When it ends, as a moment or as a life from now.
    pub expiry: Option<Expiry>,
    /// Makes a retry safe.
    pub request_id: Option<RequestId>,
    /// What is refused now, but may have been right when the same was asked first: looked at after `request_id`.
    pub overdue: Vec<Violation>,
}

struct Create {
    key: ApiKey,
    credential: Credential,
    shown: Arc<KeyString>,
    request: Option<RequestKey>,
    fingerprint: [u8; 32],
    overdue: Vec<Violation>,
}

impl App {
    /// Makes a key.
    ///
    /// # Errors
    /// `Denied` without the right, for a merchant out of reach, and for reserved scopes that the caller does not hold;
    /// those of `request_id`.
    pub async fn create(self: &Arc<Self>, caller: &Caller, new: NewKey) -> Result<Answer> {
        let merchant = new.merchant.clone().unwrap_or_else(|| caller.merchant());
        caller.require(scope::KEYS_WRITE)?.narrowed_to(&merchant)?;
        caller.require_held(&new.scopes)?;
        let fingerprint = meaning(&new, &merchant);
        let mut attempt = 1;
        loop {
            let request = new.request_id.clone().map(|request_id| RequestKey { caller: caller.key_id(), request_id });
            let overdue = new.overdue.clone();
            let (key, credential, shown) = self.mint(new.clone(), merchant.clone(), share_of(caller)).await?;
            let create = Create { key, credential, shown, request, fingerprint, overdue };
            let outcome = self.change(caller, Patience::default(), create).await;
            if !self.may_make_again(&outcome, attempt).await {
                return outcome;
            }
            attempt += 1;
        }
    }

    /// Makes the values of a new key, without storing any.
    pub(super) async fn mint(
        &self,
        new: NewKey,
        merchant: Merchant,
        caller: Share,
    ) -> Result<(ApiKey, Credential, Arc<KeyString>)> {
        let ring = self.ring();
        let shown = self
            .settings
            .key_format
            .mint(ring.active()?, &mut crate::seeded::minting_random())
            .map_err(Error::fault)?;
        self.dress(new, merchant, shown, caller).await
    }

    /// Makes the values of a new key around a key string that exists already.
    pub(super) async fn dress(
        &self,
        new: NewKey,
        merchant: Merchant,
        shown: KeyString,
        caller: Share,
    ) -> Result<(ApiKey, Credential, Arc<KeyString>)> {
        let (ring, shown) = (self.ring(), Arc::new(shown));
        let now = self.now();
        let id = KeyId::from_bytes(Self::random_bytes()?);
        let credential_id = shown.credential_id();
        let behalf = Behalf { caller, merchant: merchant.clone() };
        let phc = self.hash(&shown, Owner::new(id, credential_id, &merchant), &ring, behalf).await?;
        let mut credential = Credential::new(credential_id, shown.root(), self.settings.profile, phc, now);
        credential.pepper_root = Some(ring.active()?.id());
        let key = ApiKey {
            id,
            merchant,
            display_name: new.display_name,
            current: credential_id,
            prefix: shown.prefix().to_owned(),
            retiring: None,
            terms: Ok(Terms {
                ip_rules: new.ip_rules,
                scopes: new.scopes,
                webhook_format: new.webhook_format,
                labels: new.labels,
            }),
            disabled: new.disabled,
            create_time: now,
            update_time: now,
            not_before_time: new.not_before_time,
            expire_time: new.expiry.map(|expiry| expiry.time),
            rotate_time: None,
            deletion: None,
            version: 1,
        };
        Ok((key, credential, shown))
    }
}

impl Mutation for Create {
    const IS_ENFORCED: bool = false;

    fn require(&self, caller: &Caller, _before: Option<&ApiKey>, after: &ApiKey) -> Result<()> {
        caller.require(scope::KEYS_WRITE)?.narrowed_to(&after.merchant)?;
        caller.require_change_of(after)
    }

    async fn attempt(&self, app: &App, caller: &Caller, tx: &Tx, now: Time) -> Result<Step> {
        if let Some(request) = &self.request {
            let reach = caller.require(scope::KEYS_WRITE)?;
            if let Some((replay, key)) = app.find_replay(tx, request, &reach, caller).await? {
                return app.replay(request, &replay, self.fingerprint, key, now);
            }
        }
        if !self.overdue.is_empty() {
            return Err(Error::Invalid(self.overdue.clone()));
        }
        tx.api_key_insert(&self.key, &self.credential).await?;
        if let Some(request) = &self.request {
            app.remember(tx, request, self.fingerprint, &self.key, &self.shown, now).await?;
        }
        let event = AuditEvent {
            time: now,
            actor: actor(caller),
            action: Action::Create,
            key_id: self.key.id,
            merchant: self.key.merchant.clone(),
            version: self.key.version,
            changes: changes(None, &self.key, now),
            reason: DeleteReason::Unspecified,
            note: String::new(),
        };
        let (after, key) = (self.key.clone(), Some(Arc::clone(&self.shown)));
        Ok(Step::Change(Box::new(Proposal { before: None, after, key, event })))
    }
}

/// The order of addresses and scopes means nothing, nor does it matter whether the caller's own merchant was named.
fn meaning(new: &NewKey, merchant: &Merchant) -> [u8; 32] {
    Meaning::of("Create")
        .with(merchant.as_str())
        .with(&new.display_name)
        .with_set(&new.ip_rules.allowed)
        .with_set(&new.ip_rules.denied)
        .with([u8::from(new.webhook_format == WebhookFormat::MultipleJson)])
        .with_set(&new.scopes)
        .with_set(new.labels.iter().map(|(key, value)| format!("{}:{key}={value}", key.len())))
        .with([u8::from(new.disabled)])
        .with_number(new.not_before_time.map(|time| i128::from(time.micros())))
        .with_number(new.expiry.map(Expiry::meaning))
        .fingerprint()
}
