//! Validate: whether a key string opens the door.

use std::sync::Arc;

use futures_util::FutureExt as _;

use super::{
    App,
    alarms::Alarm,
    authenticate::Rights,
    counts::code,
    freshness::{Found, Leased},
    proof::Shown,
    share_of,
};
use crate::{
    domain::{
        Caller, CredentialId, Error, KeyId, Reach, Result, Scope,
        decision::{Decision, Finding, Refusal, decide},
        error::{Poisoned, Precondition, Unavailable},
        ip_rules::CallerIp,
        key_ring::Found as RootFound,
        key_string::{Digest, Proof, Tagged},
        pass::Pass,
        root_secret::RootId,
        scope,
    },
    seeded,
    store::Revision,
    trace,
};

/// What is asked about a key string.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The text that was shown as a key string.
    pub key: &'a str,
    /// Where it was used from, if that is known.
    pub caller_ip: Option<CallerIp>,
    /// What it has to hold.
    pub required_scopes: &'a [Scope],
    /// The state of the database that the decision must not be older than.
    pub min_revision: Option<&'a Revision>,
}

/// The answer.
pub struct Verdict {
    /// Whether the door opens.
    pub decision: Decision,
    /// The state of the database it rests on; none if the database was not asked.
    pub revision: Option<Revision>,
}

/// A credential whose secret was proved, or why not.
pub(super) enum Proved {
    Malformed,
    NotFound(Revision),
    /// What the database says is good was seen revoked before.
    Revoked(KeyId, Finding, Revision),
    Key(Arc<Pass>, CredentialId, Revision),
}

/// A key string that bears our tag, without its secret.
pub struct Known {
    credential: CredentialId,
    digest: Digest,
    pub(super) root: RootId,
}

impl Known {
    pub(super) fn of(tagged: &Tagged<'_>) -> Self {
        Self { credential: tagged.credential_id(), digest: tagged.digest(), root: tagged.root() }
    }

    /// The lookup key of its credential.
    pub fn credential_id(&self) -> CredentialId {
        self.credential
    }
}

/// What a proof may rest on.
pub(super) struct Wanted<'a> {
    pub(super) reach: &'a Reach,
    pub(super) rights: Rights,
    pub(super) min_revision: Option<&'a Revision>,
    /// Who asks; none if the key string is the caller's own.
    pub(super) caller: Option<&'a Caller>,
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
        let wanted = Wanted {
            reach: &reach,
            rights: Rights::Remembered,
            min_revision: question.min_revision,
            caller: Some(caller),
        };
        let proved = self.prove(question.key, wanted).await?;
        self.judge(proved, &question).map_err(|poisoned| {
            self.alarms.raise_record_poisoned(poisoned);
            poisoned.into()
        })
    }

    /// The same from memory alone, as nearly all calls are answered; none if that cannot be, and [`App::validate`] has to
    /// answer, or to say why not.
    pub fn validate_at_once(&self, caller: &Caller, question: &Question<'_>) -> Option<Verdict> {
        let reach = caller.require(scope::VALIDATE).ok()?;
        let wanted = Wanted {
            reach: &reach,
            rights: Rights::Remembered,
            min_revision: question.min_revision,
            caller: Some(caller),
        };
        let proved = match self.tagged(question.key).now_or_never()?.ok()? {
            Some((leased, shown)) => {
                let begun = self.freshness.polls_begun();
                match self.recall(leased, &Known::of(&shown), &wanted, begun).now_or_never()? {
                    Recalled::Answer(proved) => proved,
                    Recalled::Unknown { .. } => return None,
                }
            }
            None => Proved::Malformed,
        };
        self.judge(proved, question).ok()
    }

    /// What is left to decide once a secret was proved, or not.
    fn judge(&self, proved: Proved, question: &Question<'_>) -> Result<Verdict, Poisoned> {
        let refused = |refusal, revision| Verdict { decision: Decision::Refused(refusal), revision };
        let verdict = match proved {
            Proved::Malformed => refused(Refusal::Malformed, None),
            Proved::NotFound(revision) => refused(Refusal::NotFound, Some(revision)),
            Proved::Revoked(key_id, finding, revision) => refused(Refusal::Proved(key_id, finding), Some(revision)),
            Proved::Key(key, shown, revision) => {
                let now = self.now();
                let decision = decide(key, shown, question.caller_ip, question.required_scopes, now)?;
                if let Decision::Valid(valid) = &decision {
                    self.usage.note(&valid.pass, now, question.caller_ip);
                }
                Verdict { decision, revision: Some(revision) }
            }
        };
        self.counts.decided(&verdict.decision);
        trace::note("claviger.decision", code(&verdict.decision));
        Ok(verdict)
    }

    /// What bears our tag, with the lease under which its root secret is accepted; none for all else.
    ///
    /// # Errors
    /// `Unavailable` if a root secret that is not mounted here, or not known and there is no lease, would have to decide.
    pub(super) async fn tagged<'a>(&self, text: &'a str) -> Result<Option<(Leased, Tagged<'a>)>> {
        let Ok(unproved) = self.settings.key_format.parse(text) else { return Ok(None) };
        let (leased, proof) = self.freshness.ask_ring(&*self.clock, |ring| unproved.prove(ring)).await;
        Ok(ours(&leased, proof)?.map(|shown| (leased, shown)))
    }

    /// From text to a proved credential: the form and the tag; memory, if it may be believed; else one read, and one hash
    /// at most.
    pub(super) async fn prove(self: &Arc<Self>, text: &str, wanted: Wanted<'_>) -> Result<Proved> {
        let Some((leased, shown)) = self.tagged(text).await? else { return Ok(Proved::Malformed) };
        let begun = self.freshness.polls_begun();
        let mut is_fresh = true;
        if wanted.rights == Rights::Remembered {
            is_fresh = match self.recall(leased, &Known::of(&shown), &wanted, begun).await {
                Recalled::Answer(proved) => return Ok(proved),
                Recalled::Unknown { is_fresh } => is_fresh,
            };
        }
        let Some(key) = shown.key_string() else { return Ok(Proved::Malformed) };
        let shown = Shown { key: Arc::new(key), digest: shown.digest() };
        // In a place of its own: the way through memory, which nearly all calls take, has no use for so much room.
        Box::pin(self.prove_by_reading(shown, &wanted, is_fresh)).await
    }

    /// The row that the cache has for a key string under the lease, if it has one. Counts as no lookup.
    pub(super) fn recall_row(&self, leased: Leased, known: &Known) -> Option<Arc<Pass>> {
        let recalled = self.freshness.recall(&*self.clock, leased, known.credential, &known.digest).now_or_never()?;
        recalled.position?;
        Some(recalled.found?.row)
    }

    /// What memory says (steps 4 and 9 of the argument).
    pub(super) async fn recall(&self, leased: Leased, known: &Known, wanted: &Wanted<'_>, begun: u64) -> Recalled {
        let shown = known.credential;
        let recalled = self.freshness.recall(&*self.clock, leased, shown, &known.digest).await;
        let Some(position) = recalled.position else { return Recalled::Unknown { is_fresh: false } };
        let reaches = |revision: &Revision| {
            wanted.min_revision.is_none_or(|least| least.epoch() == revision.epoch() && least.seq() <= revision.seq())
        };
        if let Some(found) = recalled.found {
            let revision = position.or_after(found.as_of);
            if reaches(&revision) {
                self.freshness.count_from_memory();
                return Recalled::Answer(if wanted.reach.covers_name(found.row.merchant()) {
                    Proved::Key(found.row, shown, revision)
                } else {
                    Proved::NotFound(revision)
                });
            }
        } else if self.freshness.absent().find(shown).is_some()
            // As below: nearly no call needs the room that this takes.
            && let Some(revision) = Box::pin(self.freshness.confirmed_absent(shown, begun)).await
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
        // The read returns the states of the root secrets, too, and is evaluated by them.
        let ring = self.freshness.ring_as_of(&fetched.root_states);
        match ring.find(shown.key.root()) {
            RootFound::Mounted(_) => {}
            RootFound::NotMounted => {
                return Err(Error::Unavailable(Unavailable::RootSecret(shown.key.root().as_char())));
            }
            RootFound::Removed | RootFound::Unknown => return Ok(Proved::Malformed),
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
        let asks = wanted.caller.map(share_of);
        let Some(stored) =
            self.prove_secret(&shown, credential, key, &ring, asks.as_ref()).await.inspect_err(poisoned)?
        else {
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

/// What is ours by a proof that rests on the key ring under `leased`.
///
/// # Errors
/// As [`App::tagged`].
pub(super) fn ours<'a>(leased: &Leased, proof: Proof<'a>) -> Result<Option<Tagged<'a>>> {
    match proof {
        Proof::Ours(shown) => Ok(Some(shown)),
        Proof::RootNotMounted(root) => Err(Error::Unavailable(Unavailable::RootSecret(root.as_char()))),
        // Without a lease it may have been activated since the last poll.
        Proof::RootUnknown(root) if leased.position().is_none() => {
            Err(Error::Unavailable(Unavailable::RootSecretUnknown(root.as_char())))
        }
        Proof::Forged | Proof::RootUnknown(_) => Ok(None),
    }
}

/// What came of asking memory.
pub(super) enum Recalled {
    Answer(Proved),
    Unknown { is_fresh: bool },
}
