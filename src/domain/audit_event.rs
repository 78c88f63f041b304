//! What the audit log says of a change. A change commits with exactly one of these, or not at all.

use super::{DeleteReason, KeyId, Merchant, Time, ip_rules::CallerIp};

/// Who made a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Somebody with a key.
    Key {
        /// Which.
        key_id: KeyId,
        /// Whose.
        merchant: Merchant,
        /// From where.
        peer: CallerIp,
    },
    /// The start of a server on a database without an administrator.
    Bootstrap,
    /// `claviger bootstrap --recover`, by somebody with access to the database.
    Recovery,
    /// Claviger itself, in its own time.
    Upkeep,
}

/// What was done. The numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum Action {
    /// A key was made.
    Create = 1,
    /// Settings were changed.
    Update = 2,
    /// A key was deleted, or the reason of its deletion was raised.
    Delete = 3,
    /// A key got a new secret.
    Rotate = 4,
    /// A deleted key was forgotten.
    Purge = 5,
}

impl Action {
    /// The action with this stored number, if there is one.
    pub fn numbered(number: i64) -> Option<Self> {
        [Self::Create, Self::Update, Self::Delete, Self::Rotate, Self::Purge]
            .into_iter()
            .find(|action| i64::from(*action as i16) == number)
    }

    /// Whether it makes a credential that did not exist.
    pub fn makes_a_credential(self) -> bool {
        matches!(self, Self::Create | Self::Rotate)
    }
}

/// One setting, before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The field, as the API names it.
    pub field: &'static str,
    /// Before; empty if it was not set.
    pub from: String,
    /// After; empty if it is not set.
    pub to: String,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// When.
    pub time: Time,
    /// By whom.
    pub actor: Actor,
    /// What.
    pub action: Action,
    /// To which key.
    pub key_id: KeyId,
    /// Whose key.
    pub merchant: Merchant,
    /// The version of the key after it.
    pub version: i64,
    /// What changed about it. Never a secret.
    pub changes: Vec<Change>,
    /// For a Delete: why.
    pub reason: DeleteReason,
    /// For a Delete: the caller's note.
    pub note: String,
}
