//! Validate: whether a key string opens the door; and the same question about our own callers.

use std::sync::Arc;

use super::{App, alarms::Alarm, counts::code, freshness::Found, proof::Shown};
use crate::{
    domain::{
        Caller, CredentialId, Error, KeyId, Reach, Result, Scope,
        decision::{Decision, Finding, Refusal, decide},
        error::{Denial, Precondition, Unavailable},
        ip_rules::CallerIp,
        key_string::{Proof, Tagged},
        pass::Pass,
        scope,
    },
    seeded,
    store::Revision,
    trace,
};

/// What is asked about a key string.
pub struct Question<'a> {
    /// The text that was shown as a key string.
    pub key: &'a str,
    /// Where it was used from, if that is known.
    pub caller_ip: Option<CallerIp>,
    /// What it has to hold.
    pub required_scopes: Vec<Scope>,
    /// The state of the database that the decision must not be older than.
    pub min_revision: Option<Revision>,
}

/// The answer.
pub struct Verdict {
    /// Whether the door opens.
    pub decision: Decision,
    /// The state of the database it rests on; none if the database was not asked.
    pub revision: Option<Revision>,
}

/// Where the rights of a caller may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// From memory under the lease: to validate.
    Remembered,
    /// From the database, now: to manage.
    Read,
}

/// A credential whose secret was proved, or why not.
enum Proved {
    Malformed,
    NotFound(Revision),
    /// What the database says is good was seen revoked before.
    Revoked(KeyId, Finding, Revision),
    Key(Arc<Pass>, CredentialId, Revision),
}

/// What a proof may rest on.
struct Wanted<'a> {
    reach: &'a Reach,
    rights: Rights,
    min_revision: Option<&'a Revision>,
}

impl App {
    /// Decides whether a key string, used from an address, opens the door now.
    ///
    /// A refusal is an answer, not an error.
    ///
    /// # Errors
    /// Only when nothing can be decided; whoever asked must then refuse.
    pub async fn validate(self: &Arc<Self>, caller: &Caller, question: Question<'_>) -> Result<Verdict> {
        let reach = caller.require(scope::VALIDATE)?;
        let refused = |refusal, revision| Verdict { decision: Decision::Refused(refusal), revision };
        let min_revision = question.min_revision.as_ref();
        let wanted = Wanted { reach: &reach, rights: Rights::Remembered, min_revision };
        let verdict = match self.prove(question.key, wanted).await? {
            Proved::Malformed => refused(Refusal::Malformed, None),
            Proved::NotFound(revision) => refused(Refusal::NotFound, Some(revision)),
            Proved::Revoked(key_id, finding, revision) => refused(Refusal::Proved(key_id, finding), Some(revision)),
            Proved::Key(key, shown, revision) => {
                let now = self.now();
                let decision = decide(&key, shown, question.caller_ip, &question.required_scopes, now)
                    .inspect_err(|poisoned| self.alarms.raise_record_poisoned(*poisoned))?;
                if matches!(decision, Decision::Valid(_)) {
                    self.usage.note(key.id(), now, question.caller_ip);
                }
                Verdict { decision, revision: Some(revision) }
            }
        };
        self.counts.decided(&verdict.decision);
        trace::note("claviger.decision", code(&verdict.decision));
        Ok(verdict)
    }

    /// Judges the key that a caller of ours showed, its address rules against the connection's `peer`.
    ///
    /// # Errors
    /// [`Denial::PeerNotAllowed`], [`Error::CredentialsInvalid`] for any other refusal, and `Unavailable` or
    /// [`Error::Overloaded`] if nothing can be decided.
    pub async fn authenticate(self: &Arc<Self>, key: &str, peer: CallerIp, rights: Rights) -> Result<Caller> {
        let undecided = |error: Error| match error {
            Error::Unavailable(_) | Error::Overloaded { .. } => error,
            other => Error::Unavailable(Unavailable::CallerUndecided(other.into())),
        };
        let reach = Reach::everything();
        let wanted = Wanted { reach: &reach, rights, min_revision: None };
        match self.prove(key, wanted).await.map_err(undecided)? {
            Proved::Malformed | Proved::NotFound(_) | Proved::Revoked(..) => Err(Error::CredentialsInvalid),
            Proved::Key(key, shown, _) => {
                let admitted = self.admit(&key, shown, peer).map_err(|error| match error {
                    Error::Poisoned(poisoned) => {
                        self.alarms.raise_record_poisoned(poisoned);
                        undecided(poisoned.into())
                    }
                    Error::Denied(Denial::PeerNotAllowed) => {
                        // A proved key from a wrong address may be a stolen one.
                        tracing::warn!(key_id = %key.id(), %peer, "a caller's key was used from an address it is not allowed from");
                        if let Ok(caller) = Caller::new(&key, shown, peer) {
                            self.note_refusal(&caller, "(any)", "PEER_NOT_ALLOWED");
                        }
                        error
                    }
                    other => other,
                })?;
                self.usage.note(key.id(), self.now(), Some(peer));
                Ok(admitted)
            }
        }
    }

    /// Lets a caller in whose secret was proved, if its key is good now and here.
    pub(super) fn admit(&self, key: &Arc<Pass>, shown: CredentialId, peer: CallerIp) -> Result<Caller> {
        match decide(key, shown, Some(peer), &[], self.now())? {
            Decision::Valid(_) => Caller::new(key, shown, peer),
            Decision::Refused(Refusal::Proved(_, Finding::IpNotAllowed | Finding::CallerIpRequired)) => {
                Err(Denial::PeerNotAllowed.into())
            }
            Decision::Refused(_) => Err(Error::CredentialsInvalid),
        }
    }

    /// From text to a proved credential: the form and the tag; memory, if it may be believed; else one read, and one hash
    /// at most.
    async fn prove(self: &Arc<Self>, text: &str, wanted: Wanted<'_>) -> Result<Proved> {
        let Ok(unproved) = self.settings.key_format.parse(text) else { return Ok(Proved::Malformed) };
        let shown = match unproved.prove(&self.ring()) {
            Proof::Ours(shown) => shown,
            Proof::Forged => return Ok(Proved::Malformed),
            Proof::RootNotMounted(root) => return Err(Error::Unavailable(Unavailable::RootSecret(root.as_char()))),
        };
        let begun = self.freshness.polls_begun();
        let mut is_fresh = true;
        if wanted.rights == Rights::Remembered {
            is_fresh = match self.recall(&shown, &wanted, begun).await {
                Recalled::Answer(proved) => return Ok(proved),
                Recalled::Unknown { is_fresh } => is_fresh,
            };
        }
        let Some(key) = shown.key_string() else { return Ok(Proved::Malformed) };
        let shown = Shown { key: Arc::new(key), digest: shown.digest() };
        // In a place of its own: the way through memory, which nearly all calls take, has no use for so much room.
        Box::pin(self.prove_by_reading(shown, &wanted, is_fresh)).await
    }

    /// What memory says (steps 4 and 9 of the argument).
    async fn recall(&self, shown: &Tagged<'_>, wanted: &Wanted<'_>, begun: u64) -> Recalled {
        let (digest, shown) = (shown.digest(), shown.credential_id());
        let recalled = self.freshness.recall(&*self.clock, shown, &digest).await;
        let Some(position) = recalled.position else { return Recalled::Unknown { is_fresh: false } };
        let reaches = |revision: &Revision| {
            wanted.min_revision.is_none_or(|least| least.epoch() == revision.epoch() && least.seq() <= revision.seq())
        };
        if let Some(found) = recalled.found {
            let revision = Revision::new(Arc::clone(position.epoch()), position.seq().max(found.as_of));
            if reaches(&revision) {
                self.freshness.count_from_memory();
                return Recalled::Answer(if wanted.reach.covers_name(found.row.merchant()) {
                    Proved::Key(found.row, shown, revision)
                } else {
                    Proved::NotFound(revision)
                });
            }
        } else if let Some(revision) = self.freshness.confirmed_absent(shown, begun).await
            && reaches(&revision)
        {
            self.freshness.count_from_memory();
            return Recalled::Answer(Proved::NotFound(revision));
        }
        Recalled::Unknown { is_fresh: true }
    }

    /// What the database says, by a read that begins now at the earliest (step 10).
    async fn prove_by_reading(self: &Arc<Self>, shown: Shown, wanted: &Wanted<'_>, is_fresh: bool) -> Result<Proved> {
        let poisoned = |error: &Error| {
            if let Error::Poisoned(poisoned) = error {
                self.alarms.raise_record_poisoned(*poisoned);
            }
        };
        let patience = self.freshness.patience(is_fresh);
        let fetched = self.fetch(shown.key.credential_id(), patience).await.inspect_err(poisoned)?;
        let revision = fetched.revision.clone();
        if let Some(least) = wanted.min_revision {
            if least.epoch() != revision.epoch() {
                return Err(Precondition::RevisionOfAnotherHistory.into());
            }
            if least.seq() > revision.seq() {
                return Err(Precondition::RevisionAhead.into());
            }
        }
        let Some((credential, key)) = &fetched.found else {
            if let Some(generation) = fetched.generation {
                self.freshness.absent().keep(generation, shown.key.credential_id(), revision.seq());
            }
            return Ok(Proved::NotFound(revision));
        };
        if !wanted.reach.covers(&key.merchant) {
            return Ok(Proved::NotFound(revision));
        }
        let Some(stored) = self.prove_secret(&shown, credential, key).await.inspect_err(poisoned)? else {
            return Ok(Proved::NotFound(revision));
        };
        if let Some(stands) = self.freshness.revoked().judge(&revision, key, credential.id, self.now()) {
            if !stands.is_late {
                self.freshness.count_revoked_again();
                self.alarms.count(Alarm::RevokedKeyCameBack);
                tracing::error!(
                    alarm = Alarm::RevokedKeyCameBack.name(),
                    key_id = %key.id,
                    "the database says that this key is good, and it was seen revoked: it stays refused until `claviger \
                     feed accept`"
                );
            }
            return Ok(Proved::Revoked(key.id, stands.finding, revision));
        }
        seeded::race("fill: judged, not kept").await;
        let pass = Arc::new(Pass::of(key));
        if let Some(generation) = fetched.generation {
            let (credential, row, as_of) = (credential.id, Arc::clone(&pass), revision.seq());
            let found = Found { credential, digest: shown.digest, stored, key: key.id, row, as_of };
            self.freshness.memory().keep(generation, found);
        }
        Ok(Proved::Key(pass, credential.id, revision))
    }
}

/// What came of asking memory.
enum Recalled {
    Answer(Proved),
    Unknown { is_fresh: bool },
}
