//! Proving that a key string is the secret in a row, and remembering that it was.
//!
//! What is remembered is a keyed digest of the key string beside one of the stored hash and whose it is: *these bytes
//! match this credential as it is stored now*. The secret is in neither, and a row that was changed matches nothing
//! remembered. A proof that holds is remembered beside its key, in [`super::freshness`]; here is what was proved or refuted
//! lately, so that many who ask at once cost one run, and a secret that does not match costs no second one.

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use moka::future::Cache;
use rand::TryCryptoRng;
use sha2::Sha256;
use tokio::sync::Semaphore;

use super::{App, freshness::Stored, hashing::Behalf, share_of_key};
use crate::{
    admission::Share,
    domain::{
        ApiKey, Error, Result,
        error::{Poisoned, Unavailable},
        key_ring::{Found, KeyRing},
        key_string::{Digest, KeyString},
        root_secret::RootId,
        secret_hash::{Hasher, Memory, Owner, Profile, SALT_LENGTH, StoredHash},
    },
    store::Credential,
};

/// What was shown, and what is stored.
type Subject = ([u64; 3], Stored);

/// Proofs and refutations kept here.
const RECENT: u64 = 4_096;

/// Renewals that may wait for their turn; more are left undone.
const RENEWALS_WAITING: usize = 64;

/// The proofs that this process remembers.
pub(super) struct Proofs {
    key: Hmac<Sha256>,
    /// What came of each proof: a mismatch is as final as a match, for as long as the row is what it is.
    proved: Cache<Subject, bool>,
    /// Hashes are renewed one at a time, so that they never crowd out proofs, and few wait for their turn.
    renewal: Semaphore,
    renewals_waiting: Arc<Semaphore>,
}

impl Proofs {
    /// Remembers nothing yet, and all under a fresh key.
    pub(super) fn new<R: TryCryptoRng>(random: &mut R) -> Result<Self, R::Error> {
        let mut key = [0; 64];
        random.try_fill_bytes(&mut key)?;
        Ok(Self {
            key: Hmac::new(&key.into()),
            proved: Cache::new(RECENT),
            renewal: Semaphore::new(1),
            renewals_waiting: Arc::new(Semaphore::new(RENEWALS_WAITING)),
        })
    }

    /// A digest of a credential as it is stored, and of whose it is.
    pub(super) fn stored(&self, credential: &Credential, owner: &Owner) -> Stored {
        let mut mac = self.key.clone();
        let pepper = credential.pepper_root.map(|root| root.to_string()).unwrap_or_default();
        let Credential { phc, profile, .. } = credential;
        for part in [phc.as_bytes(), profile.as_bytes(), pepper.as_bytes(), owner.as_bytes()] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().iter().take(8).fold(0, |word, byte| word << 8 | Stored::from(*byte))
    }
}

/// A key string as it was shown, and the digest it is remembered by.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) key: Arc<KeyString>,
    pub(super) digest: Digest,
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
    /// By which stored state `shown` is the secret in `credential` of `key`; none if it is not. Runs argon2 once for each
    /// credential and process, however many ask at once.
    pub(super) async fn prove_secret(
        self: &Arc<Self>,
        shown: &Shown,
        credential: &Credential,
        key: &ApiKey,
        ring: &Arc<KeyRing>,
        caller: Option<&Share>,
    ) -> Result<Option<Stored>> {
        let owner = Owner::new(key.id, credential.id, &key.merchant);
        let stored = self.proofs.stored(credential, &owner);
        self.counts.proof_asked();
        if self.freshness.memory().is_proved(credential.id, &shown.digest, stored) {
            return Ok(Some(stored));
        }
        let subject = (shown.digest.words(), stored);
        // A caller that authenticates is known by its key alone.
        let behalf =
            || Behalf { caller: caller.cloned().unwrap_or_else(|| share_of_key(key)), merchant: key.merchant.clone() };
        let proving = async { self.run_proof(shown, credential, key, owner, ring, behalf()).await };
        let failed = match self.proofs.proved.try_get_with(subject, proving).await {
            Ok(true) => return Ok(Some(stored)),
            Ok(false) => {
                self.alarms.raise_hash_mismatch(credential.id);
                return Ok(None);
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
        shown: &Shown,
        credential: &Credential,
        key: &ApiKey,
        owner: Owner,
        ring: &Arc<KeyRing>,
        behalf: Behalf,
    ) -> Result<bool, Failed> {
        self.counts.proof_missed();
        let poisoned = |what| Failed::Poisoned(Poisoned { key_id: key.id, what });
        Profile::named(&credential.profile).ok_or(poisoned("profile"))?;
        let stored = StoredHash::parse(&credential.phc).map_err(|_| poisoned("hash"))?;
        let pepper_root = credential.pepper_root.ok_or(poisoned("pepper_root"))?;
        match ring.find(pepper_root) {
            Found::Mounted(_) => {}
            Found::NotMounted => return Err(Failed::RootNotMounted(pepper_root)),
            Found::Removed | Found::Unknown => return Err(poisoned("pepper_root")),
        }
        let wanted = self.settings.profile;
        // What cannot be hashed anew here stays as it is.
        let outdated = ring.active().is_ok_and(|active| stored.is_cheaper_than(wanted) || pepper_root != active.id());
        let job = {
            let (shown, ring) = (Arc::clone(&shown.key), Arc::clone(ring));
            move |hasher: &Hasher, memory: &mut Memory| match ring.find(pepper_root) {
                Found::Mounted(root) => hasher.matches(&shown, &owner, root, &stored, memory),
                Found::NotMounted | Found::Removed | Found::Unknown => Ok(false),
            }
        };
        let matches = self
            .hashing
            .run(behalf.clone(), job)
            .await
            .map_err(|error| match error {
                Error::Overloaded { retry_after } => Failed::Overloaded(retry_after),
                other => Failed::Fault(format!("{other:?}")),
            })?
            .map_err(|_| poisoned("hash"))?;
        if matches && outdated {
            self.renew_hash(shown.clone(), credential.clone(), owner, Arc::clone(ring), behalf);
        }
        Ok(matches)
    }

    /// Hashes a proved secret anew, under the active root secret and with the wanted profile, off the way of the call.
    /// If too many wait for their turn, this one is left to the next process that proves the secret.
    fn renew_hash(self: &Arc<Self>, shown: Shown, old: Credential, owner: Owner, ring: Arc<KeyRing>, behalf: Behalf) {
        let Ok(place) = Arc::clone(&self.proofs.renewals_waiting).try_acquire_owned() else { return };
        let app = Arc::clone(self);
        self.mutations.spawn(async move {
            let _place = place;
            let renewed = async {
                let _turn = app.proofs.renewal.acquire().await.map_err(Error::fault)?;
                let phc = app.hash(&shown.key, owner, &ring, behalf).await?;
                let new = Credential::new(old.id, ring.active()?.id(), app.settings.profile, phc, old.create_time);
                let _turn = app.changes.background().await;
                app.store.credential_renew_hash(old.id, &old.phc, &new).await?;
                let subject = (shown.digest.words(), app.proofs.stored(&new, &owner));
                app.proofs.proved.insert(subject, true).await;
                Ok::<_, Error>(())
            };
            if let Err(error) = renewed.await {
                tracing::warn!(credential_id = %old.id, ?error, "a hash could not be renewed; it stays as it is until its secret is proved anew");
            }
        });
    }

    /// Hashes the secret of `key` as `owner`'s, under the active root secret and with the wanted profile.
    pub(super) async fn hash(
        &self,
        key: &Arc<KeyString>,
        owner: Owner,
        ring: &Arc<KeyRing>,
        behalf: Behalf,
    ) -> Result<String> {
        let salt = Self::random_bytes::<SALT_LENGTH>()?;
        let (key, ring, profile) = (Arc::clone(key), Arc::clone(ring), self.settings.profile);
        self.hashing
            .run(behalf, move |hasher, memory| {
                let hashed = hasher.hash(&key, &owner, ring.active()?, profile, salt, memory);
                hashed.map_err(|_| Error::fault("argon2 refuses the cost of our own profile"))
            })
            .await?
    }
}
