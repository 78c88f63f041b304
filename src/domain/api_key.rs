//! The API key: settings, state and history under one stable id, whatever becomes of its secret.

use std::collections::BTreeMap;

use super::{
    CredentialId, KeyId, Merchant, Scope, Time, error::Poisoned, ip_rules::IpRules, key_string, scope, text::plain_text,
};

/// The most characters of a display name.
pub const MAX_DISPLAY_NAME: usize = 63;
/// The most labels on a key.
pub const MAX_LABELS: usize = 16;
/// The most characters of a label's key or value.
pub const MAX_LABEL_TEXT: usize = 63;
/// The most characters of the note on a Delete.
pub const MAX_NOTE: usize = 500;

/// How webhooks for a key are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebhookFormat {
    /// The payload as one JSON string.
    #[default]
    SingleJson,
    /// Each field on a line of its own.
    MultipleJson,
}

/// What a key is at a moment; where several apply, the first in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Deleted and not purged.
    Deleted,
    /// Switched off.
    Disabled,
    /// Before `not_before_time`.
    NotYetValid,
    /// From `expire_time` on.
    Expired,
    /// Usable.
    Active,
}

impl State {
    /// All of them, in their precedence.
    pub const ALL: [Self; 5] = [Self::Deleted, Self::Disabled, Self::NotYetValid, Self::Expired, Self::Active];

    /// Its name, as the API has it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deleted => "DELETED",
            Self::Disabled => "DISABLED",
            Self::NotYetValid => "NOT_YET_VALID",
            Self::Expired => "EXPIRED",
            Self::Active => "ACTIVE",
        }
    }
}

/// Why a key was deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeleteReason {
    /// Nobody said.
    #[default]
    Unspecified,
    /// Somebody else may know the secret.
    Compromised,
    /// Another key took its place.
    Superseded,
    /// Nobody used it.
    Unused,
    /// Whoever was responsible has left.
    OwnerLeft,
}

impl DeleteReason {
    /// The reason that remains when a deleted key is deleted again for `other`: raised to compromised, never lowered.
    #[must_use]
    pub fn raised_to(self, other: Self) -> Self {
        if other == Self::Compromised { other } else { self }
    }
}

/// That a key is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Since when.
    pub delete_time: Time,
    /// When the record goes, too.
    pub purge_time: Time,
    /// Why.
    pub reason: DeleteReason,
}

/// The secret before the current one, still accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retiring {
    /// Which.
    pub credential_id: CredentialId,
    /// Until when; exclusive.
    pub expire_time: Time,
}

/// What is judged about the use of a key, and what is told with a valid decision. Unlike the rest of the record it is
/// read from lists that could be stored wrongly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// From where.
    pub ip_rules: IpRules,
    /// For what.
    pub scopes: Vec<Scope>,
    /// How webhooks are written.
    pub webhook_format: WebhookFormat,
    /// The merchant's notes.
    pub labels: BTreeMap<String, String>,
}

/// An API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name for ever.
    pub id: KeyId,
    /// Whose it is; never changes.
    pub merchant: Merchant,
    /// Its name for people.
    pub display_name: String,
    /// Its current secret.
    pub current: CredentialId,
    /// The prefix of the current key string.
    pub prefix: String,
    /// The secret before, if an overlap was asked for; it may have ended.
    pub retiring: Option<Retiring>,
    /// What is judged, if it can be read.
    pub terms: Result<Terms, Poisoned>,
    /// Switched off by hand.
    pub disabled: bool,
    /// Since when it exists.
    pub create_time: Time,
    /// When it was last changed.
    pub update_time: Time,
    /// Refused before; inclusive.
    pub not_before_time: Option<Time>,
    /// Refused from then on; exclusive.
    pub expire_time: Option<Time>,
    /// When the secret was last changed.
    pub rotate_time: Option<Time>,
    /// That it is deleted.
    pub deletion: Option<Deletion>,
    /// Counts the changes, from 1.
    pub version: i64,
}

/// How a credential stands to its key at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialState {
    /// The one and only.
    Current,
    /// Replaced, and accepted until then.
    Retiring(Time),
    /// Replaced, and no longer accepted.
    Retired,
}

impl CredentialState {
    /// How `id` stands beside the `current` one and the one that is `retiring`.
    pub(super) fn of(id: CredentialId, current: CredentialId, retiring: Option<&Retiring>, now: Time) -> Self {
        if id == current {
            return Self::Current;
        }
        match retiring {
            Some(retiring) if retiring.credential_id == id && now < retiring.expire_time => {
                Self::Retiring(retiring.expire_time)
            }
            _ => Self::Retired,
        }
    }
}

impl ApiKey {
    /// What the key is at `now`.
    pub fn state(&self, now: Time) -> State {
        if self.deletion.is_some() {
            State::Deleted
        } else if self.disabled {
            State::Disabled
        } else if self.not_before_time.is_some_and(|begin| now < begin) {
            State::NotYetValid
        } else if self.expire_time.is_some_and(|end| now >= end) {
            State::Expired
        } else {
            State::Active
        }
    }

    /// How the credential `id`, which is one of this key's, stands at `now`. At most two are ever accepted.
    pub fn credential_state(&self, id: CredentialId, now: Time) -> CredentialState {
        CredentialState::of(id, self.current, self.retiring.as_ref(), now)
    }

    /// When the secret before the current one ends, if it has not ended at `now`.
    pub fn previous_secret_expire_time(&self, now: Time) -> Option<Time> {
        self.retiring.map(|retiring| retiring.expire_time).filter(|end| now < *end)
    }

    /// The public part of the current key string.
    pub fn masked_key(&self) -> String {
        key_string::public_part(&self.prefix, self.current)
    }

    /// Changes with every change of the key; quoted, as RFC 9110 writes entity tags.
    pub fn etag(&self) -> String {
        format!("\"{}\"", self.version)
    }

    /// Whether the key administers all merchants.
    pub fn is_full_administrator(&self) -> bool {
        let has = |name| self.terms.as_ref().is_ok_and(|terms| terms.scopes.iter().any(|scope| scope.as_str() == name));
        has(scope::ADMIN) && has(scope::ALL_MERCHANTS)
    }
}

/// Reads a display name.
///
/// # Errors
/// What is wrong and what would be right.
pub fn display_name(text: &str) -> Result<String, String> {
    plain_text(text, MAX_DISPLAY_NAME)
}

/// Reads the key of a label.
///
/// # Errors
/// What is wrong and what would be right.
pub fn label_key(text: &str) -> Result<String, String> {
    if text.is_empty() {
        Err("is an empty key; give the label a name".to_owned())
    } else {
        plain_text(text, MAX_LABEL_TEXT)
    }
}

/// Reads the value of a label.
///
/// # Errors
/// What is wrong and what would be right.
pub fn label_value(text: &str) -> Result<String, String> {
    plain_text(text, MAX_LABEL_TEXT)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plain active key of `acme`, made at 1,000 s.
    pub(crate) fn example() -> ApiKey {
        ApiKey {
            id: KeyId::from_bytes([1; 16]),
            merchant: "acme".parse().unwrap(),
            display_name: String::new(),
            current: CredentialId::from_bytes([2; 16]),
            prefix: "clv".to_owned(),
            retiring: None,
            terms: Ok(Terms::default()),
            disabled: false,
            create_time: Time::from_micros(1_000_000_000),
            update_time: Time::from_micros(1_000_000_000),
            not_before_time: None,
            expire_time: None,
            rotate_time: None,
            deletion: None,
            version: 1,
        }
    }

    #[test]
    fn case_25_a_key_is_valid_from_its_beginning_inclusive_to_its_end_exclusive() {
        let (begin, end) = (Time::from_micros(10), Time::from_micros(20));
        let key = ApiKey { not_before_time: Some(begin), expire_time: Some(end), ..example() };
        assert_eq!(key.state(Time::from_micros(9)), State::NotYetValid);
        assert_eq!(key.state(begin), State::Active);
        assert_eq!(key.state(Time::from_micros(19)), State::Active);
        assert_eq!(key.state(end), State::Expired);
    }

    #[test]
    fn the_first_state_in_the_documented_order_is_told() {
        let now = Time::from_micros(50);
        let deletion = Deletion { delete_time: now, purge_time: now, reason: DeleteReason::Unused };
        let mut key = ApiKey {
            deletion: Some(deletion),
            disabled: true,
            not_before_time: Some(Time::from_micros(60)),
            expire_time: Some(Time::from_micros(40)),
            ..example()
        };
        assert_eq!(key.state(now), State::Deleted);
        key.deletion = None;
        assert_eq!(key.state(now), State::Disabled);
        key.disabled = false;
        assert_eq!(key.state(now), State::NotYetValid);
        key.not_before_time = None;
        assert_eq!(key.state(now), State::Expired);
        key.expire_time = None;
        assert_eq!(key.state(now), State::Active);
    }

    #[test]
    fn the_reason_of_a_deletion_is_raised_and_never_lowered() {
        use DeleteReason::{Compromised, Unspecified, Unused};
        assert_eq!(Unused.raised_to(Compromised), Compromised);
        assert_eq!(Compromised.raised_to(Unused), Compromised);
        assert_eq!(Unspecified.raised_to(Unused), Unspecified);
    }
}
