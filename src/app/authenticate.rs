//! Who calls: the key of a caller of ours, judged as by Validate.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;

use super::{
    App,
    freshness::{Generation, Leased},
    validate::{Known, Proved, Recalled, Wanted, ours},
};
use crate::clock::Uptime;
use crate::domain::{
    Caller, CredentialId, Error, Reach, Result, Time,
    decision::{Finding, judge},
    error::{Denial, Unavailable},
    ip_rules::CallerIp,
    key_ring::{Found, KeyRing},
    pass::Pass,
    root_secret::RootId,
    scope,
};

/// Where the rights of a caller may come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// From memory under the lease: to validate.
    Remembered,
    /// From the database, now: to manage.
    Read,
}

/// How long a call may be worked on until what it was evaluated by has to be evaluated again.
const EVALUATION_LASTS: Duration = Duration::from_secs(1);

/// When an evaluation began.
#[derive(Clone, Copy, Debug)]
pub struct EvaluationTime(Uptime);

/// A caller who was let in from memory, for whoever is going to ask for it again.
pub struct Guest {
    caller: Caller,
    root: RootId,
    since: Generation,
}

impl Guest {
    /// Who it is.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl App {
    /// Judges the key that a caller of ours showed, its address rules against the connection's `peer`.
    ///
    /// # Errors
    /// [`Denial::PeerNotAllowed`], [`Error::CredentialsInvalid`] for any other refusal, and `Unavailable` or
    /// [`Error::Overloaded`] if nothing can be decided.
    pub async fn authenticate(self: &Arc<Self>, key: &str, peer: CallerIp, rights: Rights) -> Result<Caller> {
        let caller = self.evaluate_caller(key, peer, rights).await?;
        self.usage.note(caller.pass(), self.now(), Some(peer));
        Ok(caller)
    }

    /// The same under the lease for a stream on which nothing is asked: that counts as no use.
    ///
    /// # Errors
    /// As [`App::authenticate`].
    pub async fn evaluate_unused(self: &Arc<Self>, key: &str, peer: CallerIp) -> Result<Caller> {
        self.evaluate_caller(key, peer, Rights::Remembered).await
    }

    async fn evaluate_caller(self: &Arc<Self>, key: &str, peer: CallerIp, rights: Rights) -> Result<Caller> {
        let reach = Reach::everything();
        let wanted = Wanted { reach: &reach, rights, min_revision: None, caller: None };
        let proved = self.prove(key, wanted).await.map_err(undecided)?;
        self.let_in(proved, peer)
    }

    /// Lets a caller in whose key string bears our tag, from memory alone, as nearly all are; none if that cannot be, and
    /// [`App::authenticate`] has to judge. That the tag is ours needs no second look, and all else is looked at anew.
    pub fn authenticate_at_once(&self, known: &Known, peer: CallerIp) -> Option<Guest> {
        let leased = self.accepts_root(known.root)?;
        // Before memory is asked: what is dropped from it afterwards may be what it says.
        let since = self.freshness.memory().generation();
        let reach = Reach::everything();
        let wanted = Wanted { reach: &reach, rights: Rights::Remembered, min_revision: None, caller: None };
        let recalled = self.recall(leased, known, &wanted, self.freshness.polls_begun()).now_or_never()?;
        let Recalled::Answer(Proved::Key(key, shown, _)) = recalled else { return None };
        let now = self.now();
        let caller = admit(&key, shown, peer, now).ok()?;
        self.usage.note(&key, now, Some(peer));
        Some(Guest { caller, root: known.root, since })
    }

    /// Whether the cache says under the lease that this caller may validate now. An idle stream asks; it counts as no use.
    pub fn may_still_validate(&self, known: &Known, peer: CallerIp) -> bool {
        let row = self.accepts_root(known.root).and_then(|leased| self.recall_row(leased, known));
        row.is_some_and(|row| {
            let caller = admit(&row, known.credential_id(), peer, self.now());
            caller.is_ok_and(|caller| caller.require(scope::VALIDATE).is_ok())
        })
    }

    /// The lease under which key strings that were made under this root secret are accepted here; none if they are not.
    fn accepts_root(&self, root: RootId) -> Option<Leased> {
        let is_mounted = |ring: &KeyRing| matches!(ring.find(root), Found::Mounted(_));
        let (leased, is_mounted) = self.freshness.ask_ring(&*self.clock, is_mounted).now_or_never()?;
        is_mounted.then_some(leased)
    }

    /// When an evaluation begins that [`App::is_outdated`] is to be asked about.
    pub fn evaluation_begins(&self) -> EvaluationTime {
        EvaluationTime(self.clock.uptime())
    }

    /// Whether what was evaluated then has waited for longer than a second since, for hashing or for the database: caller
    /// and key are then evaluated again before the call is answered.
    pub fn is_outdated(&self, began: EvaluationTime) -> bool {
        self.clock.uptime().since(began.0) > EVALUATION_LASTS
    }

    /// Whether a guest may be let in once more: all is judged anew, but it need not be looked up.
    pub fn lets_in_again(&self, guest: &Guest) -> bool {
        let Guest { caller, root, since } = guest;
        let Some(leased) = self.accepts_root(*root) else { return false };
        if self.freshness.still_stands(&*self.clock, leased, *since).now_or_never() != Some(true) {
            return false;
        }
        let (pass, peer, now) = (caller.pass(), Some(caller.peer()), self.now());
        let is_good = matches!(judge(pass, caller.credential_id(), peer, &[], now), Ok(Ok(_)));
        if is_good {
            self.freshness.count_from_memory();
            self.usage.note(pass, now, peer);
        }
        is_good
    }

    /// What stays true of a key string for as long as its root secret is accepted; none if it is no key string of ours.
    pub fn know(&self, text: &str) -> Option<Known> {
        let (_, tagged) = self.tagged(text).now_or_never()?.ok()??;
        Some(Known::of(&tagged))
    }

    /// What can be said against a caller as soon as it presents its key string, from the tag and the cache alone. It can
    /// reject a caller and never permits one.
    ///
    /// # Errors
    /// [`Error::CredentialsInvalid`] if the tag does not verify, or if the cache knows under the lease that the credential
    /// is deleted or retired; `Unavailable` if its root secret is not mounted here.
    pub fn verify_presented(&self, text: &str) -> Result<Known> {
        let unproved = self.settings.key_format.parse(text).map_err(|_| Error::CredentialsInvalid)?;
        let (leased, proof) = self.freshness.ask_ring_at_once(&*self.clock, |ring| unproved.prove(ring));
        let tagged = ours(&leased, proof).map_err(undecided)?;
        let known = tagged.map(|tagged| Known::of(&tagged)).ok_or(Error::CredentialsInvalid)?;
        if let Some(row) = self.recall_row(leased, &known) {
            let is_revoked = |finding| matches!(finding, Finding::Deleted | Finding::SecretRetired);
            let found = judge(&row, known.credential_id(), None, &[], self.now());
            if found.is_ok_and(|found| found.is_err_and(is_revoked)) {
                return Err(Error::CredentialsInvalid);
            }
        }
        Ok(known)
    }

    fn let_in(self: &Arc<Self>, proved: Proved, peer: CallerIp) -> Result<Caller> {
        match proved {
            Proved::Malformed | Proved::NotFound(_) | Proved::Revoked(..) => Err(Error::CredentialsInvalid),
            Proved::Key(key, shown, _) => {
                let now = self.now();
                let admitted = admit(&key, shown, peer, now).map_err(|error| match error {
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
                Ok(admitted)
            }
        }
    }
}

/// Lets a caller in whose secret was proved, if its key is good now and here.
pub(super) fn admit(key: &Arc<Pass>, shown: CredentialId, peer: CallerIp, now: Time) -> Result<Caller> {
    match judge(key, shown, Some(peer), &[], now)? {
        Ok(_) => Caller::new(key, shown, peer),
        Err(Finding::IpNotAllowed | Finding::CallerIpRequired) => Err(Denial::PeerNotAllowed.into()),
        Err(_) => Err(Error::CredentialsInvalid),
    }
}

/// What an error means for a caller whose key could not be judged.
fn undecided(error: Error) -> Error {
    match error {
        Error::Unavailable(_) | Error::Overloaded { .. } => error,
        other => Error::Unavailable(Unavailable::CallerUndecided(other.into())),
    }
}
