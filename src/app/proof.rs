//! Proving that a key string is the secret in a row, and remembering that it was.
//!
//! What is remembered is a digest, under a key of this process, of the key string together with the stored hash and
//! whose it is: *these bytes match this credential as it is stored now*. The secret is not in it, and a row that was
//! changed matches nothing remembered. Nothing else is remembered: state, times, addresses and scopes are judged on
//! every call.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use moka::future::Cache;
use rand::TryCryptoRng;
use sha2::Sha256;
use tokio::sync::Semaphore;

use super::{App, freshness};
use crate::{
    domain::{
        ApiKey, Error, Result,
        error::{Poisoned, Unavailable},
        key_string::KeyString,
        root_secret::{Found, KeyRing, RootId},
        secret_hash::{Owner, Profile, SALT_LENGTH, StoredHash},
    },
    store::Credential,
};

type Digest = [u8; 32];

/// Renewals that may wait for their turn; more are left undone.
const RENEWALS_WAITING: usize = 64;

/// The proofs that this process remembers.
pub(super) struct Proofs {
    key: Hmac<Sha256>,
    /// What came of each proof: a mismatch is as final as a match, for as long as the row is what it is.
    proved: Cache<Digest, bool>,
    /// Hashes are renewed one at a time, so that they never crowd out proofs, and few wait for their turn.
    renewal: Semaphore,
    renewals_waiting: Arc<Semaphore>,
}

impl Proofs {
    /// Remembers at most `most` proofs, under a fresh key.
    pub(super) fn new<R: TryCryptoRng>(most: u64, random: &mut R) -> Result<Self, R::Error> {
        let mut key = [0; 64];
        random.try_fill_bytes(&mut key)?;
        Ok(Self {
            key: Hmac::new(&key.into()),
            proved: Cache::new(most),
            renewal: Semaphore::new(1),
            renewals_waiting: Arc::new(Semaphore::new(RENEWALS_WAITING)),
        })
    }

    /// A digest of what was shown, by which a proof is found again without the row.
    pub(super) fn of_shown(&self, key: &KeyString) -> freshness::Digest {
        let mut mac = self.key.clone();
        mac.update(key.reveal().as_bytes());
        mac.finalize().into_bytes().into()
    }

    fn digest(&self, key: &KeyString, credential: &Credential, owner: &Owner) -> Digest {
        let mut mac = self.key.clone();
        let pepper = credential.pepper_root.map(|root| root.to_string()).unwrap_or_default();
        let Credential { phc, profile, .. } = credential;
        for part in [key.reveal().as_bytes(), phc.as_bytes(), profile.as_bytes(), pepper.as_bytes(), owner.as_bytes()] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// Why a proof failed. Shared by all who waited for it, so it can be cloned.
#[derive(Clone, Debug)]
enum Failed {
    Poisoned(Poisoned),
    RootNotMounted(RootId),
    Overloaded(std::time::Duration),
    Fault(String),
}

impl App {
    /// Whether `shown` is the secret in `credential` of `key`. Runs argon2 once for each credential and process, however
    /// many ask at once.
    pub(super) async fn secret_matches(
        self: &Arc<Self>,
        shown: &Arc<KeyString>,
        credential: &Credential,
        key: &ApiKey,
    ) -> Result<bool> {
        let owner = Owner::new(key.id, credential.id, &key.merchant);
        let digest = self.proofs.digest(shown, credential, &owner);
        let proving = self.run_proof(shown, credential, key, owner);
        self.counts.proof_asked();
        let failed = match self.proofs.proved.try_get_with(digest, proving).await {
            Ok(true) => return Ok(true),
            Ok(false) => {
                self.alarms.raise_hash_mismatch(credential.id);
                return Ok(false);
            }
            Err(failed) => failed,
        };
        match Failed::clone(&failed) {
            Failed::Poisoned(poisoned) => Err(poisoned.into()),
            Failed::RootNotMounted(root) => Err(Error::Unavailable(Unavailable::RootSecret(root.as_char()))),
            Failed::Overloaded(retry_after) => Err(Error::Overloaded { retry_after }),
            Failed::Fault(cause) => Err(Error::fault(cause)),
        }
    }

    async fn run_proof(
        self: &Arc<Self>,
        shown: &Arc<KeyString>,
        credential: &Credential,
        key: &ApiKey,
        owner: Owner,
    ) -> Result<bool, Failed> {
        self.counts.proof_missed();
        let poisoned = |what| Failed::Poisoned(Poisoned { key_id: key.id, what });
        Profile::named(&credential.profile).ok_or(poisoned("profile"))?;
        let stored = StoredHash::parse(&credential.phc).map_err(|_| poisoned("hash"))?;
        let pepper_root = credential.pepper_root.ok_or(poisoned("pepper_root"))?;
        let ring = self.ring().await;
        match ring.find(pepper_root) {
            Found::Mounted(_) => {}
            Found::NotMounted => return Err(Failed::RootNotMounted(pepper_root)),
            Found::Unknown => return Err(poisoned("pepper_root")),
        }
        let wanted = self.settings.profile;
        // What cannot be hashed anew here stays as it is.
        let outdated = ring.active().is_ok_and(|active| stored.is_cheaper_than(wanted) || pepper_root != active.id());
        let matches = self
            .hashing
            .run({
                let (shown, ring) = (Arc::clone(shown), Arc::clone(&ring));
                move |hasher, memory| match ring.find(pepper_root) {
                    Found::Mounted(root) => hasher.matches(&shown, &owner, root, &stored, memory),
                    Found::NotMounted | Found::Unknown => Ok(false),
                }
            })
            .await
            .map_err(|error| match error {
                Error::Overloaded { retry_after } => Failed::Overloaded(retry_after),
                other => Failed::Fault(format!("{other:?}")),
            })?
            .map_err(|_| poisoned("hash"))?;
        if matches && outdated {
            self.renew_hash(Arc::clone(shown), credential.clone(), owner, ring);
        }
        Ok(matches)
    }

    /// Hashes a proved secret anew, under the active root secret and with the wanted profile, off the way of the call.
    /// If too many wait for their turn, this one is left to the next process that proves the secret.
    fn renew_hash(self: &Arc<Self>, shown: Arc<KeyString>, old: Credential, owner: Owner, ring: Arc<KeyRing>) {
        let Ok(place) = Arc::clone(&self.proofs.renewals_waiting).try_acquire_owned() else { return };
        let app = Arc::clone(self);
        self.mutations.spawn(async move {
            let _place = place;
            let renewed = async {
                let _turn = app.proofs.renewal.acquire().await.map_err(Error::fault)?;
                let phc = app.hash(&shown, owner, &ring).await?;
                let new = Credential::new(old.id, ring.active()?.id(), app.settings.profile, phc, old.create_time);
                app.store.credential_renew_hash(old.id, &old.phc, &new).await?;
                let digest = app.proofs.digest(&shown, &new, &owner);
                app.proofs.proved.insert(digest, true).await;
                Ok::<_, Error>(())
            };
            if let Err(error) = renewed.await {
                tracing::warn!(credential_id = %old.id, ?error, "a hash could not be renewed; it stays as it is until its secret is proved anew");
            }
        });
    }

    /// Hashes the secret of `key` as `owner`'s, under the active root secret and with the wanted profile.
    pub(super) async fn hash(&self, key: &Arc<KeyString>, owner: Owner, ring: &Arc<KeyRing>) -> Result<String> {
        let salt = Self::random_bytes::<SALT_LENGTH>()?;
        let (key, ring, profile) = (Arc::clone(key), Arc::clone(ring), self.settings.profile);
        self.hashing
            .run(move |hasher, memory| {
                let hashed = hasher.hash(&key, &owner, ring.active()?, profile, salt, memory);
                hashed.map_err(|_| Error::fault("argon2 refuses the cost of our own profile"))
            })
            .await?
    }
}
