//! Words of the command line and what they mean on the wire.

use std::time::Duration;

use clap::ValueEnum;
use prost_types::Timestamp;

use crate::grpc::proto;

/// How webhooks are written.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Webhook {
    /// The payload as one JSON string
    Single,
    /// Each field on a line of its own
    Multiple,
}

impl From<Webhook> for proto::WebhookFormat {
    fn from(webhook: Webhook) -> Self {
        match webhook {
            Webhook::Single => Self::SingleJson,
            Webhook::Multiple => Self::MultipleJson,
        }
    }
}

/// What a key is right now.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    /// Can be used
    Active,
    /// Switched off by hand
    Disabled,
    /// Its time has not come
    NotYetValid,
    /// Its time is over
    Expired,
    /// Deleted, and not purged yet
    Deleted,
}

impl From<State> for proto::State {
    fn from(state: State) -> Self {
        match state {
            State::Active => Self::Active,
            State::Disabled => Self::Disabled,
            State::NotYetValid => Self::NotYetValid,
            State::Expired => Self::Expired,
            State::Deleted => Self::Deleted,
        }
    }
}

/// Why a key is deleted.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Reason {
    /// Somebody else may know the secret; such a key never comes back
    Compromised,
    /// Another key took its place
    Superseded,
    /// Nobody used it
    Unused,
    /// Whoever was responsible for it has left
    OwnerLeft,
}

impl From<Reason> for proto::DeleteReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Compromised => Self::Compromised,
            Reason::Superseded => Self::Superseded,
            Reason::Unused => Self::Unused,
            Reason::OwnerLeft => Self::OwnerLeft,
        }
    }
}

/// Reads a moment as RFC 3339 writes it, with its offset: `2027-01-31T12:00:00Z`.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    let has_offset = text.split_once(['T', 't']).is_some_and(|(_, clock)| clock.contains(['Z', 'z', '+', '-']));
    // Without an offset the same text is another moment elsewhere, so none is guessed.
    has_offset
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| "no RFC 3339 time; write it like 2027-01-31T12:00:00Z or 2027-01-31T13:00:00+01:00".to_owned())
}

/// Reads a duration: `90s`, `1h 30m`, `30d`.
pub(crate) fn duration(text: &str) -> Result<prost_types::Duration, String> {
    let duration = some_duration(text)?;
    prost_types::Duration::try_from(duration).map_err(|_| "longer than can be said".to_owned())
}

/// Reads a duration above zero.
pub(crate) fn some_time(text: &str) -> Result<Duration, String> {
    match some_duration(text)? {
        Duration::ZERO => Err("has to be above zero".to_owned()),
        duration => Ok(duration),
    }
}

fn some_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it like 90s, 1h or 30d"))
}

/// Reads a label: `name=value`, split at the first `=`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("no label; write it like name=value")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_its_offset() {
        assert_eq!(time("2027-01-31T13:00:00+01:00"), time("2027-01-31T12:00:00Z"));
        assert_eq!(time("2027-01-31T12:00:00.5Z").unwrap().nanos, 500_000_000);
        for text in
            ["", "2027-01-31", "2027-01-31T12:00:00", "2027-01-31 12:00:00Z", "2027-02-30T12:00:00Z", "tomorrow"]
        {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("30d").unwrap().seconds, 30 * 86_400);
        assert_eq!(duration("1h 30m").unwrap().seconds, 5400);
        for text in ["", "30", "-1h", "1 fortnight"] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(some_time("0s").is_err());
    }

    #[test]
    fn a_label_is_split_at_its_first_equals_sign() {
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(label("a="), Ok(("a".to_owned(), String::new())));
        assert!(label("a").is_err());
    }
}
