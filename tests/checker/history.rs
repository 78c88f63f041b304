//! What was asked of one key, and when it was answered. Whoever changes a key asks one thing after the other, so the
//! acts of a key do not overlap, but for those that were never answered.

use super::clock::Moment;

/// One key: the secrets it had and the acts on it, in the order in which they were asked.
#[derive(Clone, Debug)]
pub struct History {
    pub secrets: Vec<Secret>,
    pub acts: Vec<Act>,
}

/// One secret of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    pub key: String,
    /// When the act that made it was answered.
    pub known: Moment,
}

/// A change that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub change: Change,
    pub start: Moment,
    pub outcome: Outcome,
}

/// What a change does to decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Ends the key for good.
    Delete,
    /// Ends all secrets but a new one; the number is that of the new one.
    Rotate(usize),
    Disable,
    Enable,
    /// Forbids the address that the validators call from.
    Narrow,
    /// Allows it again.
    Widen,
}

/// What came of an act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is under way, or was never answered, or was answered by not knowing: it may happen at any time from its start.
    Open,
    /// It was answered.
    Done { end: Moment, enforced: bool, revision: String },
}

/// What can be wrong with a key, for which there is an answer of Validate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    Deleted,
    Retired,
    Disabled,
    AddressRefused,
}

impl Flaw {
    pub const ALL: [Self; 4] = [Self::Deleted, Self::Retired, Self::Disabled, Self::AddressRefused];

    /// Whether `change` brings it about, for the secret of this number.
    pub fn is_made_by(self, change: Change, secret: usize) -> bool {
        match change {
            Change::Delete => self == Self::Deleted,
            Change::Rotate(new) => self == Self::Retired && secret < new,
            Change::Disable => self == Self::Disabled,
            Change::Narrow => self == Self::AddressRefused,
            Change::Enable | Change::Widen => false,
        }
    }

    /// Whether `change` takes it away.
    pub fn is_mended_by(self, change: Change) -> bool {
        match change {
            Change::Enable => self == Self::Disabled,
            Change::Widen => self == Self::AddressRefused,
            Change::Delete | Change::Rotate(_) | Change::Disable | Change::Narrow => false,
        }
    }
}

impl History {
    /// A key that was just made: the answer of its Create came at `known`.
    pub fn new(key: String, known: Moment) -> Self {
        Self { secrets: vec![Secret { key, known }], acts: Vec::new() }
    }

    /// Notes that a change is about to be asked for, and gives its number.
    pub fn begin(&mut self, change: Change, start: Moment) -> usize {
        self.acts.push(Act { change, start, outcome: Outcome::Open });
        self.acts.len() - 1
    }

    /// Notes that it was answered.
    pub fn end(&mut self, act: usize, end: Moment, enforced: bool, revision: &str) {
        self.acts[act].outcome = Outcome::Done { end, enforced, revision: revision.to_owned() };
    }
}
