//! Why something was not done.
//!
//! A variant holds what the asker may know; a cause beside it is for the log of the server. `Display` prints the first
//! and never the second. `grpc::status` turns each into a gRPC status, in one exhaustive match.

use std::{error::Error as StdError, fmt, time::Duration};

use super::{KeyId, Scope};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What lies behind a failure; for logs, never for answers.
pub type Cause = Box<dyn StdError + Send + Sync>;

/// One field of a request that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field from the request's root, such as `api_key.allowed_ips[2]`.
    pub field: String,
    /// What is wrong, and what would be right.
    pub description: String,
}

/// Why something was not done.
#[derive(Debug)]
pub enum Error {
    /// Fields of the request are wrong: all of them, at least one.
    Invalid(Vec<Violation>),
    /// The caller showed no key, or not in the one form that is understood.
    CredentialsMissing(&'static str),
    /// The key that the caller showed is not good.
    CredentialsInvalid,
    /// The caller is known and may not.
    Denied(Denial),
    /// No such key within the caller's reach.
    NotFound,
    /// A `request_id` whose secret cannot be shown again.
    RequestIdExpired(KeyId),
    /// The key, or the deployment, is not in a state that allows it.
    Precondition(Precondition),
    /// The etag of the request is not that of the key.
    EtagMismatch,
    /// It cannot be decided or done now; nothing was changed.
    Unavailable(Unavailable),
    /// Too much work is waiting.
    Overloaded {
        /// When to come back.
        retry_after: Duration,
    },
    /// The database did not say whether it committed.
    CommitOutcomeUnknown(Cause),
    /// The stored record of a key cannot be read.
    Poisoned(Poisoned),
    /// A fault of this program.
    Fault(Cause),
}

/// What a known caller may not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The address rules of the caller's key do not let its connection in.
    PeerNotAllowed,
    /// The caller lacks this scope.
    ScopeMissing(&'static str),
    /// The caller does not reach the merchant it named.
    MerchantOutOfReach,
    /// The caller does not hold these reserved scopes, which it would grant or which the key holds.
    ReservedScopesNotHeld(Vec<Scope>),
}

/// What the state of things does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// The key is deleted.
    KeyDeleted,
    /// The key is expired.
    KeyExpired,
    /// Nobody usable would be left with reach over all merchants.
    LastAdministrator,
    /// The caller would rotate its own key with an overlap under 15 minutes.
    OverlapRequired,
    /// The caller would rotate its own key within 15 minutes of the rotation before, and end that one's overlap.
    OverlapTooYoung,
    /// The `request_id` had another meaning before.
    RequestIdReused,
    /// The secret that the `request_id` made was rotated away.
    RequestIdSuperseded,
    /// The `min_revision` is of a later state than the database is in.
    RevisionAhead,
    /// The `min_revision` is of another history of the database.
    RevisionOfAnotherHistory,
    /// The caller would rotate its own key with a secret that is being retired.
    SecretNotCurrent,
}

/// What is missing for now.
#[derive(Debug)]
pub enum Unavailable {
    /// The database does not answer.
    Database(Cause),
    /// Another transaction was in the way; the whole may be tried again.
    Contended(Cause),
    /// A root secret that is in use is not mounted here.
    RootSecret(char),
    /// A key string names a root secret that is not known here, and without a lease that decides nothing.
    RootSecretUnknown(char),
    /// A secret was made under a root secret that is not the active one; it has to be made again.
    RootSecretNotActive(char),
    /// The database names no root secret, or several, as the active one.
    NoActiveRootSecret,
    /// The caller's own key cannot be judged.
    CallerUndecided(Cause),
    /// This process is shutting down.
    Draining,
    /// A stream has come to its end.
    StreamDrained,
}

/// A stored value of one key that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Poisoned {
    /// The key.
    pub key_id: KeyId,
    /// The column.
    pub what: &'static str,
}

impl Error {
    /// A single wrong field.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation { field: field.into(), description: description.into() }])
    }

    /// A fault of this program, told in words for the log.
    pub fn fault(cause: impl Into<Cause>) -> Self {
        Self::Fault(cause.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(violations) => {
                for (position, violation) in violations.iter().enumerate() {
                    let separator = if position == 0 { "" } else { "; " };
                    write!(f, "{separator}{}: {}", violation.field, violation.description)?;
                }
                Ok(())
            }
            Self::CredentialsMissing(what) => write!(f, "{what}; send one header `authorization: Bearer <key string>`"),
            Self::CredentialsInvalid => f.write_str("the key string in `authorization` is not one that is accepted now"),
            Self::Denied(denial) => denial.fmt(f),
            Self::NotFound => f.write_str("there is no such key within the caller's reach"),
            Self::RequestIdExpired(key_id) => write!(
                f,
                "this request_id already made a secret of {key_id} which can no longer be shown (it can for 15 minutes, and \
                 not across an upgrade that erases it); Rotate that key for a new one"
            ),
            Self::Precondition(precondition) => precondition.fmt(f),
            Self::EtagMismatch => f.write_str("the key was changed since this etag was read; Get it again and decide anew"),
            Self::Unavailable(unavailable) => unavailable.fmt(f),
            Self::Overloaded { .. } => f.write_str("too much work is waiting; try again after the given delay"),
            Self::CommitOutcomeUnknown(_) => f.write_str(
                "the database did not say whether the change was made; repeat the call with the same request_id, or read \
                 the key",
            ),
            Self::Poisoned(Poisoned { key_id, what }) => {
                write!(f, "the stored {what} of {key_id} cannot be read; this key is refused until it is repaired")
            }
            Self::Fault(_) => f.write_str("a fault inside Claviger; its log tells more"),
        }
    }
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerNotAllowed => f.write_str("the caller's key may not be used from the address of this connection"),
            Self::ScopeMissing(scope) => write!(f, "the caller's key lacks the scope {scope}"),
            Self::MerchantOutOfReach => f.write_str(
                "the caller reaches the keys of its own merchant only; other merchants need the scope \
                 claviger:all-merchants",
            ),
            Self::ReservedScopesNotHeld(scopes) => {
                f.write_str(
                    "only a caller that holds these scopes itself may grant them or change a key that has them:",
                )?;
                scopes.iter().try_for_each(|scope| write!(f, " {scope}"))
            }
        }
    }
}

impl fmt::Display for Precondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyDeleted => "the key is deleted",
            Self::KeyExpired => "the key is expired; give it a later expire_time first",
            Self::LastAdministrator => {
                "this is the last key that can administer all merchants from here: it has to stay active, without end, \
                 with its scopes and usable from this address; make another one first"
            }
            Self::OverlapRequired => {
                "a key that rotates itself needs an overlap of at least 15 minutes, or a lost answer would lock its \
                 holder out"
            }
            Self::OverlapTooYoung => {
                "a key that rotates itself may not end an overlap that began less than 15 minutes ago; try again later"
            }
            Self::SecretNotCurrent => {
                "a key that rotates itself has to call with its current secret, not with the one that is being retired"
            }
            Self::RequestIdReused => {
                "this request_id was used before for a request with another meaning; choose a new one"
            }
            Self::RevisionAhead => {
                "min_revision is of a later state than the database is in: it was restored, or the revision is of another \
                 deployment"
            }
            Self::RevisionOfAnotherHistory => {
                "min_revision is of another history of the database, which has a new one since it was restored or changed \
                 by hand; ask without it, or with a revision of today"
            }
            Self::RequestIdSuperseded => {
                "the secret that this request_id made was rotated away since; choose a new request_id"
            }
        })
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(_) => {
                f.write_str("the database does not answer or takes no changes now; nothing was changed")
            }
            Self::Contended(_) => {
                f.write_str("the database is busy with other changes; nothing was changed, try again")
            }
            Self::RootSecret(k) => write!(f, "the root secret `{k}` is in use but not mounted on this replica"),
            Self::RootSecretUnknown(k) => write!(
                f,
                "the root secret `{k}` is not known to this replica, and the database does not answer to say whether it \
                 is in use"
            ),
            Self::RootSecretNotActive(k) => {
                write!(f, "the root secret `{k}` ceased to be the active one; nothing was changed, try again")
            }
            Self::NoActiveRootSecret => {
                f.write_str("the database names no root secret, or several, as the active one; nothing was changed")
            }
            Self::CallerUndecided(_) => f.write_str("the caller's own key cannot be judged now"),
            Self::Draining => f.write_str("this replica is shutting down"),
            Self::StreamDrained => {
                f.write_str("the stream has come to its end, and what was read is answered; open another one")
            }
        }
    }
}

impl fmt::Display for Poisoned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the stored {} of {} cannot be read", self.what, self.key_id)
    }
}

impl StdError for Poisoned {}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unavailable(
                Unavailable::Database(cause) | Unavailable::Contended(cause) | Unavailable::CallerUndecided(cause),
            )
            | Self::CommitOutcomeUnknown(cause)
            | Self::Fault(cause) => Some(cause.as_ref()),
            _ => None,
        }
    }
}

impl From<Poisoned> for Error {
    fn from(poisoned: Poisoned) -> Self {
        Self::Poisoned(poisoned)
    }
}

impl From<Denial> for Error {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<Precondition> for Error {
    fn from(precondition: Precondition) -> Self {
        Self::Precondition(precondition)
    }
}
