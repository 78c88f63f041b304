//! The checker: tries to break the promise that nothing outlives a Delete.
//!
//! Several real replicas share one PostgreSQL that has a synchronous standby. Between each replica and the database stands
//! a [`proxy`] that can slow, silence, cut and misdirect; replicas are killed and frozen, the database is restarted and
//! its standby promoted ([`storm`], [`scenes`]). Meanwhile keys are born, changed and deleted ([`lives`]) and asked about
//! by the thousand ([`validators`], [`streams`], [`asking`]). Every operation has a start and an end on one clock ([`clock`]), and every answer is
//! held against what may be true in between by the [`judge`], at once, so that memory stays bounded however long it runs.
//!
//! [`phases`] is the order of a run, [`report`] what it says at its end, and [`seeded`] shows that the checker finds what
//! it looks for.

pub mod asking;
pub mod clock;
pub mod cluster;
pub mod fleet;
pub mod history;
pub mod judge;
pub mod keys;
pub mod lives;
pub mod measures;
pub mod phases;
pub mod process;
pub mod proxy;
pub mod report;
pub mod scenes;
pub mod seeded;
pub mod storm;
pub mod streams;
pub mod tally;
pub mod validators;
pub mod wire;
pub mod world;
