//! The crash loop: acknowledged writes in a child process, killed at random moments, restarted, verified.
//!
//! A [`ledger`] notes what was asked and what was acknowledged; [`writers`] ask; [`rounds`] kills and starts again;
//! [`verify`] asks the service whether everything that it acknowledged is there, and [`tables`] looks behind its back
//! for what is only half there and for holes in the feed.
//!
//! A change that was asked and not acknowledged may be there or not, but all of it or nothing.

pub mod ledger;
pub mod rounds;
pub mod tables;
pub mod verify;
pub mod writers;
