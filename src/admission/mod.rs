//! Decides which work is accepted, so that no caller can starve another.
//!
//! Everything that is bounded (permits, bytes of bodies and answers, streams, waits, changes) is bounded by a [`Budget`]
//! that knows on whose behalf each part of it is held: the [`Share`]. One share may take what is free up to seven eighths
//! of a budget, so a lone gateway is not held back and other shares always find room at once. When a budget is full, the
//! share that holds most gives way.
//!
//! This module knows shares, amounts and queues. It does not know keys, protocols or the database.

mod answers;
mod budget;
mod calls;
mod change_queue;
mod connection;
mod connections;
mod fair_queue;
mod groups;
mod share;
mod turns;
mod unread;

pub use answers::{AnswerBudgets, AnswerLimits};
pub use budget::{Budget, Full, GivesWay, Grant};
pub use calls::{CALL_BYTES, CallBudgets, CallPermit, WAITS};
pub use change_queue::{ChangePlace, ChangeQueue, Changer, Turn as ChangeTurn, Urgency};
pub use connection::{CloseReason, ConnectionHandle, OpenCall};
pub use connections::{Connections, Place};
pub use fair_queue::FairQueue;
pub use share::Share;
pub use turns::{Turn, Turns};
pub use unread::UnreadAnswer;
