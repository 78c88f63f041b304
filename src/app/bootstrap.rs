//! The first administrator, and another one when all were lost.

use std::sync::Arc;

use rand::rngs::SysRng;

use super::{App, NewKey, manage::changes};
use crate::{
    admission::Share,
    domain::{
        ApiKey, DeleteReason, Error, Merchant, Result, Scope,
        audit_event::{Action, Actor, AuditEvent},
        error::Unavailable,
        key_string::{KeyFormat, KeyString, Proof},
        root_secret::RootSecret,
        scope,
    },
    store::Credential,
};

impl App {
    /// Makes the first administrator of this database, unless one was made before, whatever became of it. Its key
    /// string is handed to `keep` before the commit; if that fails, nothing was made. True if it was made now.
    ///
    /// # Errors
    /// `Unavailable`, or what `keep` said.
    pub async fn bootstrap_first(self: &Arc<Self>, keep: impl Fn(&KeyString) -> Result<()>) -> Result<bool> {
        if self.store.bootstrap_is_done().await? {
            return Ok(false);
        }
        let (key, credential, shown) = self.mint(administrator(), Merchant::claviger(), Share::Unlearned).await?;
        self.insert_first(key, credential, || keep(&shown)).await
    }

    /// As [`App::bootstrap_first`], with a key string that `claviger bootstrap --offline` made.
    ///
    /// # Errors
    /// `Unavailable`; `Invalid` if `text` is no key string of this deployment.
    pub async fn bootstrap_from(self: &Arc<Self>, text: &str) -> Result<bool> {
        if self.store.bootstrap_is_done().await? {
            return Ok(false);
        }
        let not_ours = || {
            Error::field(
                "CLAVIGER_BOOTSTRAP_KEY_FILE",
                "holds no key string made under a root secret of this deployment; make one with `claviger bootstrap \
                 --offline`",
            )
        };
        let unproved = self.settings.key_format.parse(text).map_err(|_| not_ours())?;
        let Proof::Ours(shown) = unproved.prove(&self.ring()) else { return Err(not_ours()) };
        let shown = shown.key_string().ok_or_else(not_ours)?;
        let (key, credential, _) = self.dress(administrator(), Merchant::claviger(), shown, Share::Unlearned).await?;
        self.insert_first(key, credential, || Ok(())).await
    }

    /// Makes another administrator, for whoever has access to the database.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn bootstrap_recover(self: &Arc<Self>) -> Result<Arc<KeyString>> {
        let (key, credential, shown) = self.mint(administrator(), Merchant::claviger(), Share::Unlearned).await?;
        let tx = self.store.begin().await?;
        tx.api_key_insert(&key, &credential).await?;
        let event = self.event(&key, Actor::Recovery);
        let numbered = tx.number().await?;
        self.commit(numbered, event).await?;
        Ok(shown)
    }

    async fn insert_first(
        &self,
        key: ApiKey,
        credential: Credential,
        before_commit: impl Fn() -> Result<()>,
    ) -> Result<bool> {
        let tx = self.store.begin().await?;
        match tx.bootstrap_insert(credential.id, self.now()).await {
            Ok(()) => {}
            // Another replica was first, or will be: then its row is there.
            Err(Error::Unavailable(Unavailable::Contended(cause))) => {
                tx.rollback().await?;
                let done = self.store.bootstrap_is_done().await?;
                return if done { Ok(false) } else { Err(Error::Unavailable(Unavailable::Contended(cause))) };
            }
            Err(error) => return Err(error),
        }
        tx.api_key_insert(&key, &credential).await?;
        let numbered = tx.number().await?;
        before_commit()?;
        let event = self.event(&key, Actor::Bootstrap);
        self.commit(numbered, event).await?;
        Ok(true)
    }

    fn event(&self, key: &ApiKey, actor: Actor) -> AuditEvent {
        let now = self.now();
        AuditEvent {
            time: now,
            actor,
            action: Action::Create,
            key_id: key.id,
            merchant: key.merchant.clone(),
            version: key.version,
            changes: changes(None, key, now),
            reason: DeleteReason::Unspecified,
            note: String::new(),
        }
    }
}

/// A key string made from a root secret alone, for a database that is out of reach.
///
/// # Errors
/// Those of the random generator.
pub fn offline_key(format: &KeyFormat, root: &RootSecret) -> Result<KeyString> {
    format.mint(root, &mut SysRng).map_err(Error::fault)
}

fn administrator() -> NewKey {
    NewKey {
        display_name: "administrator".to_owned(),
        scopes: vec![Scope::reserved(scope::ADMIN), Scope::reserved(scope::ALL_MERCHANTS)],
        ..NewKey::default()
    }
}
