//! The command line: arguments to a command, a command to an exit code.
//!
//! `serve`, `migrate`, `bootstrap` and `feed` are the service and its deployment; `keys`, `whoami` and `doctor` are a gRPC
//! client like any other.

mod arguments;
pub mod client;
mod console;
pub mod deployment;
pub mod doctor;
mod escape;
pub mod exit;
#[cfg(test)]
mod fake_server;
pub mod feed;
mod key_file;
pub mod keys;
mod output;
mod request_id;
pub mod serve;
#[cfg(test)]
mod tests;
mod trust;
pub mod whoami;
mod wire;
