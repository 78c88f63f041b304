//! Exit codes, and how a failure is told to a person.

use std::{collections::BTreeMap, fmt, process::ExitCode};

use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::escape::escaped;
use crate::grpc::status::code_name;

/// What the exit codes mean, for the end of a `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done; of validate: the key is valid
  1  validate answered no
  2  the command line or a setting is wrong
  3  the service refused the request
  4  the key that was called with is missing, unknown or not allowed to do this
  5  it could not be decided or done now; asking again may help
  6  something is wrong with the service or this machine";

/// How a command ended; its number is the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; of `validate`: the key is valid.
    Done = 0,
    /// `validate` answered no.
    No = 1,
    /// The command line is wrong; clap's own errors end with the same number.
    Usage = 2,
    /// The service refused the request, and would again.
    Refused = 3,
    /// The key that was called with is missing, unknown or lacks the right.
    NotAllowed = 4,
    /// It could not be decided or done now.
    NotNow = 5,
    /// Something is wrong with the service or this machine.
    Fault = 6,
}

impl Exit {
    /// The end of a call that the service, or the way to it, answered with `code`.
    #[must_use]
    pub fn of(code: Code) -> Self {
        match code {
            Code::Ok => Self::Done,
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange => Self::Refused,
            Code::Unauthenticated | Code::PermissionDenied => Self::NotAllowed,
            Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => {
                Self::NotNow
            }
            Code::Internal | Code::Unimplemented | Code::DataLoss => Self::Fault,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command could not do its work: an exit code, a sentence, and lines below it.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    message: String,
    lines: Vec<String>,
}

impl Failure {
    /// A failure with this sentence, which may hold foreign text.
    pub(crate) fn new(exit: Exit, message: impl AsRef<str>) -> Self {
        Self { exit, message: escaped(message.as_ref()).into_owned(), lines: Vec::new() }
    }

    /// The refusal in `status`: its message, then each broken field, then the reason for programs.
    pub(crate) fn from_status(status: &Status) -> Self {
        let code = code_name(status.code());
        let details = status.get_error_details();
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        let message = match (violations.len(), status.message()) {
            (0, "") => "the service gave no message",
            (0, message) => message,
            // The message would only repeat the first of the lines below it.
            (1, _) => "the service refuses the request for one field",
            (_, _) => "the service refuses the request for several fields",
        };
        let mut failure = Self::new(Exit::of(status.code()), message);
        for violation in violations {
            failure = failure.line(format!("{}: {}", violation.field, violation.description));
        }
        match details.error_info() {
            None => failure = failure.line(format!("code: {code}")),
            Some(info) => {
                failure = failure.line(format!("reason: {} ({code})", info.reason));
                for (name, value) in info.metadata.iter().collect::<BTreeMap<_, _>>() {
                    failure = failure.line(format!("{name}: {value}"));
                }
            }
        }
        if let Some(delay) = details.retry_info().and_then(|info| info.retry_delay) {
            failure = failure.line(format!("ask again after: {}", humantime::format_duration(delay)));
        }
        failure
    }

    /// One more line below the sentence.
    #[must_use]
    pub(crate) fn line(mut self, line: impl AsRef<str>) -> Self {
        self.lines.push(escaped(line.as_ref()).into_owned());
        self
    }

    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        self.lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, time::Duration};

    use insta::assert_snapshot;
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    #[test]
    fn a_broken_request_is_told_field_by_field() {
        let mut details = ErrorDetails::new();
        details.set_error_info("FIELDS_INVALID", "claviger.dev", HashMap::new());
        details
            .add_bad_request_violation("api_key.allowed_ips[0]", "`10.0.0.5/8` has host bits set; write `10.0.0.0/8`");
        details.add_bad_request_violation("api_key.ttl", "is zero");
        let status = Status::with_error_details(Code::InvalidArgument, "2 fields are wrong", details);
        let failure = Failure::from_status(&status);
        assert_eq!(failure.exit(), Exit::Refused);
        assert_snapshot!(failure, @"
        error: the service refuses the request for several fields
          api_key.allowed_ips[0]: `10.0.0.5/8` has host bits set; write `10.0.0.0/8`
          api_key.ttl: is zero
          reason: FIELDS_INVALID (INVALID_ARGUMENT)
        ");
    }

    #[test]
    fn what_a_program_may_want_to_know_is_told_too() {
        let mut details = ErrorDetails::new();
        let metadata = HashMap::from([("required_scope".to_owned(), "claviger:keys.write".to_owned())]);
        details.set_error_info("SCOPE_MISSING", "claviger.dev", metadata);
        details.set_retry_info(Some(Duration::from_millis(200)));
        let status = Status::with_error_details(Code::PermissionDenied, "the key lacks a scope", details);
        assert_snapshot!(Failure::from_status(&status), @"
        error: the key lacks a scope
          reason: SCOPE_MISSING (PERMISSION_DENIED)
          required_scope: claviger:keys.write
          ask again after: 200ms
        ");
    }

    #[test]
    fn a_status_without_details_still_tells_its_code() {
        assert_snapshot!(Failure::from_status(&Status::unimplemented("")), @"
        error: the service gave no message
          code: UNIMPLEMENTED
        ");
    }

    #[test]
    fn a_message_cannot_paint_the_terminal() {
        let status = Status::internal("\u{1b}[2J\nerror: forged");
        assert_snapshot!(Failure::from_status(&status), @r"
        error: \u{1b}[2J\u{a}error: forged
          code: INTERNAL
        ");
    }

    #[test]
    fn every_code_has_its_exit() {
        let mut by_exit = BTreeMap::<u8, Vec<&str>>::new();
        for number in 0..=16 {
            let code = Code::from_i32(number);
            by_exit.entry(Exit::of(code) as u8).or_default().push(code_name(code));
        }
        let told: Vec<_> = by_exit.iter().map(|(exit, codes)| format!("{exit}: {}", codes.join(" "))).collect();
        assert_snapshot!(told.join("\n"), @"
        0: OK
        3: INVALID_ARGUMENT NOT_FOUND ALREADY_EXISTS FAILED_PRECONDITION ABORTED OUT_OF_RANGE
        4: PERMISSION_DENIED UNAUTHENTICATED
        5: CANCELLED UNKNOWN DEADLINE_EXCEEDED RESOURCE_EXHAUSTED UNAVAILABLE
        6: UNIMPLEMENTED INTERNAL DATA_LOSS
        ");
    }
}
