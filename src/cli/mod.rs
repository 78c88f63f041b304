//! The command line: arguments to a command, a command to an exit code.
//!
//! `serve`, `migrate` and `bootstrap` are the service and its deployment; `keys` and `whoami` are a gRPC client like any
//! other.

pub mod deployment;
mod escape;
pub mod exit;
pub mod serve;
