//! What the crash loop and the checker are built from: replicas and PostgreSQL servers as processes of their own, a
//! deployment whose root secret they know, clients, dice.
//!
//! Nothing here judges anything. The tests have a harness of their own for a service inside the test; here the service is
//! always another process, because it is going to be killed.

pub mod client;
pub mod deployment;
pub mod dice;
pub mod leash;
pub mod pace;
pub mod postgres;
pub mod replica;

pub use client::Client;
pub use deployment::Deployment;
pub use dice::Dice;
pub use replica::{Program, Replica};

/// What went wrong with the rig itself, in words. It is no finding about the service.
pub type Outcome<T> = Result<T, String>;

/// Names what was being done when an error came.
pub fn doing<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> String {
    move |error| format!("{what}: {error}")
}
