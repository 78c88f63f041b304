//! What this process saw revoked, kept over anomalies.
//!
//! After a restore from a backup, or a fail-over that lost a commit, the database may say that a key is good which was
//! deleted before. Whoever saw it deleted refuses it, until the same history tells of a later version of the key, or an
//! operator accepts what the database says (`claviger feed accept`).

use super::{
    bounded::Bounded,
    sync::{Arc, Mutex, PoisonError},
};
use crate::{
    domain::{ApiKey, CredentialId, KeyId, Time, api_key::CredentialState, decision::Finding},
    store::Revision,
};

/// See the module.
pub(crate) struct Revoked(Mutex<Bounded<Subject, Seen>>);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Subject {
    Key(KeyId),
    Credential(CredentialId),
}

/// Where something was seen.
#[derive(Clone)]
struct Seen {
    epoch: Arc<str>,
    seq: i64,
    version: i64,
    finding: Finding,
}

/// What was noted about a key that the database says is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stands {
    /// Why it stays refused.
    pub(crate) finding: Finding,
    /// The read is merely older than the revocation, of the same history: nothing to worry about.
    pub(crate) is_late: bool,
}

impl Revoked {
    /// Holds at most `most` keys and secrets.
    pub(crate) fn new(most: usize) -> Self {
        Self(Mutex::new(Bounded::new(most)))
    }

    /// Notes that the change `at` was the deletion that made `key` this `version`.
    pub(crate) fn saw_deletion(&self, at: &Revision, key: KeyId, version: i64) {
        self.note(Subject::Key(key), seen(at, version, Finding::Deleted));
    }

    /// Notes what `row`, read at `at`, says about its key and about the credential that was shown; or tells what was
    /// noted before, if the row does not come after it.
    pub(crate) fn judge(&self, at: &Revision, row: &ApiKey, shown: CredentialId, now: Time) -> Option<Stands> {
        let seen = |finding| seen(at, row.version, finding);
        let key =
            if row.deletion.is_some() { Some(Finding::Deleted) } else { row.disabled.then_some(Finding::Disabled) };
        let credential = match row.credential_state(shown, now) {
            CredentialState::Retired => Some(Finding::SecretRetired),
            CredentialState::Current | CredentialState::Retiring(_) => None,
        };
        let of_key = self.compare(Subject::Key(row.id), key.map(seen), at, row.version);
        let of_credential = self.compare(Subject::Credential(shown), credential.map(seen), at, row.version);
        of_key.or(of_credential)
    }

    /// Forgets everything, by an operator's word.
    pub(crate) fn accept(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn compare(&self, subject: Subject, now: Option<Seen>, at: &Revision, version: i64) -> Option<Stands> {
        if let Some(seen) = now {
            self.note(subject, seen);
            return None;
        }
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = noted.find(&subject)?;
        let is_same_history = seen.epoch == *at.epoch();
        if is_same_history && version > seen.version {
            noted.remove(&subject);
            return None;
        }
        Some(Stands { finding: seen.finding.clone(), is_late: is_same_history && at.seq() < seen.seq })
    }

    fn note(&self, subject: Subject, seen: Seen) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = noted.find(&subject).is_none_or(|old| old.epoch != seen.epoch || old.version <= seen.version);
        if newer {
            noted.insert(subject, seen);
        }
    }
}

fn seen(at: &Revision, version: i64, finding: Finding) -> Seen {
    Seen { epoch: Arc::clone(at.epoch()), seq: at.seq(), version, finding }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        DeleteReason,
        api_key::{Deletion, tests::example},
    };

    const NOW: Time = Time::MIN;

    fn deleted(version: i64) -> ApiKey {
        let deletion = Deletion { delete_time: NOW, purge_time: Time::MAX, reason: DeleteReason::Unspecified };
        ApiKey { deletion: Some(deletion), version, ..example() }
    }

    fn alive(version: i64) -> ApiKey {
        ApiKey { version, ..example() }
    }

    fn judged(revoked: &Revoked, epoch: &str, seq: i64, row: &ApiKey) -> Option<(Finding, bool)> {
        let stands = revoked.judge(&Revision::new(epoch, seq), row, example().current, NOW);
        stands.map(|stands| (stands.finding, stands.is_late))
    }

    #[test]
    fn what_was_seen_deleted_stays_so_until_a_later_version_of_the_same_history() {
        let revoked = Revoked::new(9);
        assert_eq!(judged(&revoked, "ours", 1, &alive(1)), None);
        assert_eq!(judged(&revoked, "ours", 7, &deleted(3)), None, "the row says so itself");
        assert_eq!(judged(&revoked, "ours", 6, &alive(2)), Some((Finding::Deleted, true)), "a read from before");
        assert_eq!(judged(&revoked, "ours", 8, &alive(2)), Some((Finding::Deleted, false)), "a commit was lost");
        assert_eq!(judged(&revoked, "other", 1, &alive(9)), Some((Finding::Deleted, false)), "another history");
        assert_eq!(judged(&revoked, "ours", 9, &alive(4)), None, "undeleted");
        assert_eq!(judged(&revoked, "ours", 8, &alive(2)), None);
    }

    #[test]
    fn a_deletion_that_the_feed_told_of_counts_although_its_row_was_never_read() {
        let revoked = Revoked::new(9);
        revoked.saw_deletion(&Revision::new("ours", 5), example().id, 2);
        assert_eq!(judged(&revoked, "ours", 5, &alive(1)), Some((Finding::Deleted, false)));
        revoked.accept();
        assert_eq!(judged(&revoked, "ours", 5, &alive(1)), None);
    }

    #[test]
    fn a_secret_that_was_seen_retired_does_not_come_back_by_itself() {
        let (revoked, old) = (Revoked::new(9), CredentialId::from_bytes([9; 16]));
        let judge = |row: &ApiKey| revoked.judge(&Revision::new("ours", 1), row, old, NOW).map(|stands| stands.finding);
        assert_eq!(judge(&alive(2)), None);
        assert_eq!(judge(&ApiKey { current: old, ..alive(1) }), Some(Finding::SecretRetired));
    }
}
