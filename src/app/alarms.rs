//! What an operator has to look at: logged as an error with the field `alarm`, and counted.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::{CredentialId, error::Poisoned};

/// Counts the alarms raised, by kind.
#[derive(Debug, Default)]
pub struct Alarms {
    record_poisoned: AtomicU64,
    hash_mismatch: AtomicU64,
}

impl Alarms {
    /// How often a stored record could not be read.
    pub fn record_poisoned(&self) -> u64 {
        self.record_poisoned.load(Ordering::Relaxed)
    }

    /// How often a secret with a right tag did not match its hash.
    pub fn hash_mismatch(&self) -> u64 {
        self.hash_mismatch.load(Ordering::Relaxed)
    }

    pub(super) fn raise_record_poisoned(&self, poisoned: Poisoned) {
        self.record_poisoned.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            alarm = "record_poisoned",
            key_id = %poisoned.key_id,
            what = poisoned.what,
            "a stored record cannot be read; its key is refused"
        );
    }

    /// Whoever can make a right tag has the root secret, or a hash was tampered with.
    pub(super) fn raise_hash_mismatch(&self, credential_id: CredentialId) {
        self.hash_mismatch.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            alarm = "hash_mismatch",
            %credential_id,
            "a key string with a right tag does not match the stored hash: forged with the root secret, or the row was \
             changed by hand"
        );
    }
}
