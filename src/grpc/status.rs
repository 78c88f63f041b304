//! From an error of the domain to a gRPC status: one code, one reason, and what helps to mend it.

use std::{collections::HashMap, error::Error as StdError, sync::Arc, time::Duration};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::proto::ErrorReason;
use crate::domain::error::{Denial, Error, Precondition, Unavailable, Violation};

/// The domain of every reason.
pub const DOMAIN: &str = "claviger.dev";

/// Bytes of field violations in one status: the details travel in a header, base64-coded, and clients commonly accept
/// 8 KiB of them.
const MOST_DETAIL: usize = 4_000;

/// When to come back if the database is away.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The name of a reason as it stands in `ErrorInfo`.
pub fn name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

/// A code in the spelling of the gRPC specification.
pub const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The only code that a reason comes with.
pub fn code(reason: ErrorReason) -> Code {
    match reason {
        ErrorReason::FieldsInvalid | ErrorReason::RequestUnreadable | ErrorReason::RequestTooLarge => {
            Code::InvalidArgument
        }
        ErrorReason::CredentialsMissing | ErrorReason::CredentialsInvalid => Code::Unauthenticated,
        ErrorReason::PeerNotAllowed
        | ErrorReason::ScopeMissing
        | ErrorReason::MerchantOutOfReach
        | ErrorReason::ReservedScopeNotHeld => Code::PermissionDenied,
        ErrorReason::KeyNotFound => Code::NotFound,
        ErrorReason::RequestIdExpired => Code::AlreadyExists,
        ErrorReason::KeyDeleted
        | ErrorReason::KeyExpired
        | ErrorReason::LastAdministrator
        | ErrorReason::OverlapRequired
        | ErrorReason::OverlapTooYoung
        | ErrorReason::SecretNotCurrent
        | ErrorReason::RequestIdReused
        | ErrorReason::RequestIdSuperseded
        | ErrorReason::RevisionAhead
        | ErrorReason::RevisionOfAnotherHistory => Code::FailedPrecondition,
        ErrorReason::EtagMismatch => Code::Aborted,
        ErrorReason::DatabaseUnavailable
        | ErrorReason::RootSecretNotMounted
        | ErrorReason::Draining
        | ErrorReason::CallerUndecided
        | ErrorReason::StreamDrained => Code::Unavailable,
        ErrorReason::Overloaded => Code::ResourceExhausted,
        ErrorReason::DeadlinePassed | ErrorReason::RequestIncomplete => Code::DeadlineExceeded,
        ErrorReason::CommitOutcomeUnknown => Code::Unknown,
        ErrorReason::RecordPoisoned | ErrorReason::InternalFault | ErrorReason::Unspecified => Code::Internal,
        ErrorReason::MethodUnknown => Code::Unimplemented,
    }
}

/// The reason of an error.
pub fn reason(error: &Error) -> ErrorReason {
    match error {
        Error::Invalid(_) => ErrorReason::FieldsInvalid,
        Error::CredentialsMissing(_) => ErrorReason::CredentialsMissing,
        Error::CredentialsInvalid => ErrorReason::CredentialsInvalid,
        Error::Denied(Denial::PeerNotAllowed) => ErrorReason::PeerNotAllowed,
        Error::Denied(Denial::ScopeMissing(_)) => ErrorReason::ScopeMissing,
        Error::Denied(Denial::MerchantOutOfReach) => ErrorReason::MerchantOutOfReach,
        Error::Denied(Denial::ReservedScopesNotHeld(_)) => ErrorReason::ReservedScopeNotHeld,
        Error::NotFound => ErrorReason::KeyNotFound,
        Error::RequestIdExpired(_) => ErrorReason::RequestIdExpired,
        Error::Precondition(Precondition::KeyDeleted) => ErrorReason::KeyDeleted,
        Error::Precondition(Precondition::KeyExpired) => ErrorReason::KeyExpired,
        Error::Precondition(Precondition::LastAdministrator) => ErrorReason::LastAdministrator,
        Error::Precondition(Precondition::OverlapRequired) => ErrorReason::OverlapRequired,
        Error::Precondition(Precondition::OverlapTooYoung) => ErrorReason::OverlapTooYoung,
        Error::Precondition(Precondition::SecretNotCurrent) => ErrorReason::SecretNotCurrent,
        Error::Precondition(Precondition::RequestIdReused) => ErrorReason::RequestIdReused,
        Error::Precondition(Precondition::RequestIdSuperseded) => ErrorReason::RequestIdSuperseded,
        Error::Precondition(Precondition::RevisionAhead) => ErrorReason::RevisionAhead,
        Error::Precondition(Precondition::RevisionOfAnotherHistory) => ErrorReason::RevisionOfAnotherHistory,
        Error::EtagMismatch => ErrorReason::EtagMismatch,
        Error::Unavailable(
            Unavailable::Database(_)
            | Unavailable::Contended(_)
            | Unavailable::RootSecretUnknown(_)
            | Unavailable::RootSecretNotActive(_),
        ) => ErrorReason::DatabaseUnavailable,
        Error::Unavailable(Unavailable::RootSecret(_) | Unavailable::NoActiveRootSecret) => {
            ErrorReason::RootSecretNotMounted
        }
        Error::Unavailable(Unavailable::CallerUndecided(_)) => ErrorReason::CallerUndecided,
        Error::Unavailable(Unavailable::Draining) => ErrorReason::Draining,
        Error::Unavailable(Unavailable::StreamDrained) => ErrorReason::StreamDrained,
        Error::Overloaded { .. } => ErrorReason::Overloaded,
        Error::CommitOutcomeUnknown(_) => ErrorReason::CommitOutcomeUnknown,
        Error::Poisoned(_) => ErrorReason::RecordPoisoned,
        Error::Fault(_) => ErrorReason::InternalFault,
    }
}

/// A status with nothing but a reason and a message for people.
pub fn plain(reason: ErrorReason, message: &str) -> Status {
    Status::with_error_details(code(reason), message, details(reason, HashMap::new()))
}

/// The status of an error. Its cause goes along for the log of the server and is not sent.
pub fn of(error: Error) -> Status {
    let reason = reason(&error);
    let metadata = match &error {
        Error::Denied(Denial::ScopeMissing(scope)) => HashMap::from([("required_scope", (*scope).to_owned())]),
        Error::Denied(Denial::ReservedScopesNotHeld(scopes)) => {
            let scopes: Vec<String> = scopes.iter().map(ToString::to_string).collect();
            HashMap::from([("missing_scopes", scopes.join(" "))])
        }
        Error::RequestIdExpired(key_id) => HashMap::from([("key_id", key_id.to_string())]),
        Error::Poisoned(poisoned) => HashMap::from([("key_id", poisoned.key_id.to_string())]),
        _ => HashMap::new(),
    };
    let mut details = details(reason, metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect());
    let mut message = error.to_string();
    match &error {
        Error::Invalid(violations) => {
            message = summary(violations);
            add_violations(&mut details, violations);
        }
        Error::Overloaded { retry_after } => {
            details.set_retry_info(Some(*retry_after));
        }
        Error::Unavailable(_) => {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        _ => {}
    }
    let mut status = Status::with_error_details(code(reason), message, details);
    let cause: Arc<dyn StdError + Send + Sync> = Arc::new(error);
    status.set_source(cause);
    status
}

fn details(reason: ErrorReason, metadata: HashMap<String, String>) -> ErrorDetails {
    ErrorDetails::with_error_info(name(reason), DOMAIN, metadata)
}

/// The first violation, and how many more there are: the message is for whoever sees no details.
fn summary(violations: &[Violation]) -> String {
    match violations {
        [] => "the request is wrong".to_owned(),
        [only] => format!("{} {}", only.field, only.description),
        [first, rest @ ..] => {
            format!("{} {} (and {} more, see the details)", first.field, first.description, rest.len())
        }
    }
}

fn add_violations(details: &mut ErrorDetails, violations: &[Violation]) {
    let mut room = MOST_DETAIL;
    for (position, violation) in violations.iter().enumerate() {
        let size = violation.field.len() + violation.description.len();
        let Some(left) = room.checked_sub(size) else {
            let rest = violations.len() - position;
            details.add_bad_request_violation(
                violation.field.as_str(),
                format!("is wrong as well, like {rest} in all that found no room here; mend these first"),
            );
            return;
        };
        room = left;
        details.add_bad_request_violation(violation.field.as_str(), violation.description.as_str());
    }
}
