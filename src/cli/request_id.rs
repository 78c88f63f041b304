//! Request ids: asking for a new secret again until the answer is known, without ever making two.

use std::{fmt::Write as _, time::Duration};

use rand::{
    TryRng,
    rngs::{SysError, SysRng},
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    console::Console,
    exit::{Exit, Failure},
};
use crate::grpc::status::code_name;

/// How often a call whose outcome is unknown is repeated.
const REPEATS: u32 = 3;

/// The pause before the first repeat, on average; each later one is three times longer.
const FIRST_PAUSE: Duration = Duration::from_millis(if cfg!(test) { 1 } else { 200 });

/// The longest pause, whatever the service asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// 128 random bits in 32 hexadecimal digits.
///
/// # Errors
/// Those of the operating system's generator.
pub(crate) fn random() -> Result<String, SysError> {
    let mut bytes = [0; 16];
    SysRng.try_fill_bytes(&mut bytes)?;
    Ok(bytes.iter().fold(String::with_capacity(32), |mut digits, byte| {
        // Writing to a String does not fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    }))
}

/// The id that was given, or a new one.
pub(crate) fn given_or_new(given: Option<String>) -> Result<String, Failure> {
    given.map_or_else(random, Ok).map_err(|error| {
        Failure::new(Exit::Fault, format!("the operating system gave no random bits for a request id: {error}"))
    })
}

/// Calls `attempt`, which sends the same `request_id` each time, until the outcome is known or patience ends.
///
/// If it ends, or the person interrupts, they are told how to go on without making a second secret.
pub(crate) async fn until_known<A>(
    console: &mut Console,
    request_id: &str,
    attempt: impl AsyncFnMut() -> Result<A, Status>,
) -> Result<A, Failure> {
    tokio::select! {
        answer = repeat(console, request_id, attempt) => answer,
        _ = tokio::signal::ctrl_c() => {
            Err(how_to_repeat(Failure::new(Exit::NotNow, "interrupted before the answer came"), request_id))
        }
    }
}

async fn repeat<A>(
    console: &mut Console,
    request_id: &str,
    mut attempt: impl AsyncFnMut() -> Result<A, Status>,
) -> Result<A, Failure> {
    let mut in_doubt = false;
    let mut repeats = 0;
    loop {
        let status = match attempt().await {
            Ok(answer) => return Ok(answer),
            Err(status) => status,
        };
        let unknown = outcome_is_unknown(status.code());
        in_doubt |= unknown;
        if !unknown || repeats == REPEATS {
            let failure = Failure::from_status(&status);
            // Once an outcome was unknown, a later refusal does not tell what became of the first call.
            return Err(if in_doubt { how_to_repeat(failure, request_id) } else { failure });
        }
        repeats += 1;
        let code = code_name(status.code());
        console.tell(format!(
            "note: the outcome is not known ({code}); asking again with the same request id, {repeats} of {REPEATS}"
        ));
        #[expect(clippy::disallowed_methods, reason = "a service that is busy or away tells nobody when it is back")]
        tokio::time::sleep(pause_before(repeats, &status)).await;
    }
}

/// Whether a call that ended with `code` may have done its work all the same.
pub(crate) fn outcome_is_unknown(code: Code) -> bool {
    matches!(code, Code::Unknown | Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled)
}

fn how_to_repeat(failure: Failure, request_id: &str) -> Failure {
    failure
        .line("Whether the secret was made is not known. To find out without making a second one, repeat the same")
        .line(format!("command within 15 minutes with: --request-id {request_id}"))
}

/// Between half and one and a half of the pause that is due, so that many clients do not come back at once; never
/// before the service wants it, unless it wants it unreasonably late.
fn pause_before(repeat: u32, status: &Status) -> Duration {
    let due = FIRST_PAUSE * 3_u32.pow(repeat.saturating_sub(1));
    let mut bytes = [0];
    // Without random bits the pause is merely not spread.
    let spread = SysRng.try_fill_bytes(&mut bytes).map_or(128, |()| u32::from(bytes[0]));
    let spread = due / 2 + due * spread / 255;
    let wanted = status.get_details_retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
    spread.max(wanted).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    #[test]
    fn a_new_request_id_is_32_digits_and_never_the_same() {
        let (one, other) = (random().unwrap(), random().unwrap());
        assert!(one.len() == 32 && one.bytes().all(|b| b.is_ascii_hexdigit()), "{one}");
        assert_ne!(one, other);
    }

    #[test]
    fn pauses_grow_and_heed_the_service() {
        let plain = Status::unavailable("");
        for repeat in 1..=REPEATS {
            let due = FIRST_PAUSE * 3_u32.pow(repeat - 1);
            let pause = pause_before(repeat, &plain);
            assert!(pause >= due / 2 && pause <= due * 3 / 2, "{pause:?}");
        }
        let asking = |seconds| {
            let details = ErrorDetails::with_retry_info(Some(Duration::from_secs(seconds)));
            pause_before(1, &Status::with_error_details(Code::Unavailable, "", details))
        };
        assert_eq!(asking(2), Duration::from_secs(2));
        assert_eq!(asking(3600), LONGEST_PAUSE);
    }
}
