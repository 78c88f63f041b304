//! What an operator has to look at: logged as an error with the field `alarm`, and counted by kind.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::{CredentialId, error::Poisoned};

/// The kinds of alarm. Their names stand in the log's field `alarm` and in the metric's label `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// A stored record cannot be read; its key is refused.
    RecordPoisoned,
    /// A secret with a right tag does not match its hash.
    HashMismatch,
    /// The database does not answer: nothing can be decided that needs it.
    DatabaseAway,
    /// The feed is not what it was: everything remembered was dropped.
    FeedAnomaly,
    /// The poller of the feed panicked and began anew.
    PollerPanicked,
    /// The database says that a key is good which was seen revoked; it stays refused.
    RevokedKeyCameBack,
    /// A changed certificate cannot be served; the one before is kept.
    CertificateUnusable,
    /// A change was cut off by the end of the process; whether it was made is not known.
    ChangeCutOff,
    /// The wall clock moved, or is far from the database server's: nothing is purged.
    ClockImplausible,
    /// Lease and wait in the database contradict each other: there is no lease.
    LeaseInvalid,
    /// The database is used in a way that this binary is too old for.
    BinaryOutdated,
    /// A connection to the database is not the session that it was when it was made.
    DatabaseSessionChanged,
}

impl Alarm {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::RecordPoisoned,
        Self::HashMismatch,
        Self::DatabaseAway,
        Self::FeedAnomaly,
        Self::PollerPanicked,
        Self::RevokedKeyCameBack,
        Self::CertificateUnusable,
        Self::ChangeCutOff,
        Self::ClockImplausible,
        Self::LeaseInvalid,
        Self::BinaryOutdated,
        Self::DatabaseSessionChanged,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RecordPoisoned => "record_poisoned",
            Self::HashMismatch => "hash_mismatch",
            Self::DatabaseAway => "database_away",
            Self::FeedAnomaly => "feed_anomaly",
            Self::PollerPanicked => "poller_panicked",
            Self::RevokedKeyCameBack => "revoked_key_came_back",
            Self::CertificateUnusable => "certificate_unusable",
            Self::ChangeCutOff => "change_cut_off",
            Self::ClockImplausible => "clock_implausible",
            Self::LeaseInvalid => "lease_invalid",
            Self::BinaryOutdated => "binary_outdated",
            Self::DatabaseSessionChanged => "database_session_changed",
        }
    }
}

/// Counts the alarms raised, by kind.
#[derive(Debug, Default)]
pub struct Alarms([AtomicU64; Alarm::ALL.len()]);

impl Alarms {
    /// How often `alarm` was raised.
    pub fn raised(&self, alarm: Alarm) -> u64 {
        self.0[alarm as usize].load(Ordering::Relaxed)
    }

    /// Counts one. Whoever raises it writes it to the log, with what is known of it.
    pub fn count(&self, alarm: Alarm) {
        self.0[alarm as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn raise_record_poisoned(&self, poisoned: Poisoned) {
        self.count(Alarm::RecordPoisoned);
        tracing::error!(
            alarm = Alarm::RecordPoisoned.name(),
            key_id = %poisoned.key_id,
            what = poisoned.what,
            "a stored record cannot be read; its key is refused"
        );
    }

    /// Whoever can make a right tag has the root secret, or a hash was tampered with.
    pub(super) fn raise_hash_mismatch(&self, credential_id: CredentialId) {
        self.count(Alarm::HashMismatch);
        tracing::error!(
            alarm = Alarm::HashMismatch.name(),
            %credential_id,
            "a key string with a right tag does not match the stored hash: forged with the root secret, or the row was \
             changed by hand"
        );
    }
}
