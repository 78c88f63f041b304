//! What came back, counted by status and decision: an answer that was not wanted makes the bench fail.

use std::{collections::BTreeMap, fmt};

use claviger::grpc::proto::DecisionCode;
use tonic::Code;

/// What came of one call, or of one item of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Answer {
    /// The number of a `DecisionCode`, and whether the door was opened.
    Decided { code: i32, valid: bool },
    /// The number of a gRPC status that is not OK.
    Failed(i32),
    /// Bytes that are no answer, or to a question that was not asked.
    Unreadable,
    /// The connection broke, or the stream ended early.
    Broken,
}

impl Answer {
    pub const VALID: Self = Self::Decided { code: DecisionCode::Valid as i32, valid: true };
    pub const MALFORMED: Self = Self::Decided { code: DecisionCode::Malformed as i32, valid: false };
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Decided { code, valid } => match DecisionCode::try_from(code) {
                Ok(name) => write!(f, "OK {} valid={valid}", name.as_str_name()),
                Err(_) => write!(f, "OK decision {code} valid={valid}"),
            },
            Self::Failed(code) => write!(f, "status {:?}", Code::from(code)),
            Self::Unreadable => write!(f, "unreadable"),
            Self::Broken => write!(f, "broken"),
        }
    }
}

/// How often each answer came.
#[derive(Clone, Default)]
pub struct Tally(BTreeMap<Answer, u64>);

impl Tally {
    pub fn count(&mut self, answer: Answer) {
        *self.0.entry(answer).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        for (answer, times) in &other.0 {
            *self.0.entry(*answer).or_default() += times;
        }
    }

    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    pub fn other_than(&self, wanted: Answer) -> u64 {
        self.0.iter().filter(|(answer, _)| **answer != wanted).map(|(_, times)| times).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts: Vec<_> = self.0.iter().map(|(answer, times)| format!("{answer}: {times}")).collect();
        f.write_str(&counts.join(", "))
    }
}

/// A `ValidateResponse`, as far as it is looked at: the client shares the machine, and what it need not copy it does
/// not read.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Decision {
    #[prost(bool, tag = "1")]
    pub valid: bool,
    #[prost(int32, tag = "2")]
    pub code: i32,
}

/// A `google.rpc.Status`, as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Failure {
    #[prost(int32, tag = "1")]
    pub code: i32,
}

/// A `ValidateStreamResponse`, as far as it is looked at.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Item {
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    #[prost(message, optional, tag = "2")]
    pub response: Option<Decision>,
    #[prost(message, optional, tag = "3")]
    pub error: Option<Failure>,
}

impl From<Decision> for Answer {
    fn from(decision: Decision) -> Self {
        Self::Decided { code: decision.code, valid: decision.valid }
    }
}

impl From<Item> for Answer {
    fn from(item: Item) -> Self {
        match (item.response, item.error) {
            (Some(decision), None) => decision.into(),
            (None, Some(failure)) => Self::Failed(failure.code),
            _ => Self::Unreadable,
        }
    }
}
