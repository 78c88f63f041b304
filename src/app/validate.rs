//! Validate: whether a key string opens the door; and the same question about our own callers.

use std::sync::Arc;

use super::{App, counts::code};
use crate::{
    domain::{
        ApiKey, Caller, CredentialId, Error, Reach, Result, Scope,
        decision::{Decision, Finding, Refusal, decide},
        error::{Denial, Unavailable},
        ip_rules::CallerIp,
        key_string::Proof,
        scope,
    },
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
}

/// The answer.
pub struct Verdict {
    /// Whether the door opens.
    pub decision: Decision,
    /// The state of the database it rests on; none if the database was not asked.
    pub revision: Option<Revision>,
}

/// A credential whose secret was proved, or why not.
enum Proved {
    Malformed,
    NotFound(Revision),
    Key(Box<ApiKey>, CredentialId, Revision),
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
        let verdict = match self.prove(question.key, &reach).await? {
            Proved::Malformed => refused(Refusal::Malformed, None),
            Proved::NotFound(revision) => refused(Refusal::NotFound, Some(revision)),
            Proved::Key(key, shown, revision) => {
                let decision = decide(&key, shown, question.caller_ip, &question.required_scopes, self.now())
                    .inspect_err(|poisoned| self.alarms.raise_record_poisoned(*poisoned))?;
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
    pub async fn authenticate(self: &Arc<Self>, key: &str, peer: CallerIp) -> Result<Caller> {
        let undecided = |error: Error| match error {
            Error::Unavailable(_) | Error::Overloaded { .. } => error,
            other => Error::Unavailable(Unavailable::CallerUndecided(other.into())),
        };
        match self.prove(key, &Reach::everything()).await.map_err(undecided)? {
            Proved::Malformed | Proved::NotFound(_) => Err(Error::CredentialsInvalid),
            Proved::Key(key, shown, _) => self.admit(&key, shown, peer).map_err(|error| match error {
                Error::Poisoned(poisoned) => {
                    self.alarms.raise_record_poisoned(poisoned);
                    undecided(poisoned.into())
                }
                Error::Denied(Denial::PeerNotAllowed) => {
                    // A proved key from a wrong address may be a stolen one.
                    tracing::warn!(key_id = %key.id, %peer, "a caller's key was used from an address it is not allowed from");
                    if let Ok(caller) = Caller::new(&key, shown, peer) {
                        self.note_refusal(&caller, "(any)", "PEER_NOT_ALLOWED");
                    }
                    error
                }
                other => other,
            }),
        }
    }

    /// Lets a caller in whose secret was proved, if its key is good now and here.
    pub(super) fn admit(&self, key: &ApiKey, shown: CredentialId, peer: CallerIp) -> Result<Caller> {
        match decide(key, shown, Some(peer), &[], self.now())? {
            Decision::Valid(_) => Caller::new(key, shown, peer),
            Decision::Refused(Refusal::Proved(_, Finding::IpNotAllowed | Finding::CallerIpRequired)) => {
                Err(Denial::PeerNotAllowed.into())
            }
            Decision::Refused(_) => Err(Error::CredentialsInvalid),
        }
    }

    /// From text to a proved credential: the form, the tag, one read, one hash at most.
    async fn prove(self: &Arc<Self>, text: &str, reach: &Reach) -> Result<Proved> {
        let Ok(unproved) = self.settings.key_format.parse(text) else { return Ok(Proved::Malformed) };
        let shown = match unproved.prove(&*self.ring().await) {
            Proof::Ours(shown) => Arc::new(shown),
            Proof::Forged => return Ok(Proved::Malformed),
            Proof::RootNotMounted(root) => return Err(Error::Unavailable(Unavailable::RootSecret(root.as_char()))),
        };
        let read = self.store.validation_read_even_deleted(shown.credential_id()).await.inspect_err(|error| {
            if let Error::Poisoned(poisoned) = error {
                self.alarms.raise_record_poisoned(*poisoned);
            }
        })?;
        let Some((credential, key)) = read.found.filter(|(_, key)| reach.covers(&key.merchant)) else {
            return Ok(Proved::NotFound(read.revision));
        };
        let matches = self.secret_matches(&shown, &credential, &key).await.inspect_err(|error| {
            if let Error::Poisoned(poisoned) = error {
                self.alarms.raise_record_poisoned(*poisoned);
            }
        })?;
        if matches {
            Ok(Proved::Key(Box::new(key), credential.id, read.revision))
        } else {
            Ok(Proved::NotFound(read.revision))
        }
    }
}
