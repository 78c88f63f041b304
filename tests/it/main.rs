//! Promises, kept by the real service on real databases. One file a promise; the name of a test is the promise.
//!
//! `harness` starts the service on a socket of its own, on SQLite always and on PostgreSQL where its binaries are; which
//! engines ran is said on standard error. A test that belongs to a case of the list of hostile cases begins with its
//! number.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    clippy::explicit_write,
    clippy::zombie_processes,
    clippy::missing_panics_doc,
    missing_docs,
    unreachable_pub,
    reason = "a test says what went wrong by failing, and tells a story from beginning to end"
)]

#[macro_use]
mod harness;
// Shared with the tools of the feature `checker`, which use more of them.
#[allow(dead_code, reason = "the tools use the rest")]
#[path = "../checker/mod.rs"]
mod checker;
#[allow(dead_code, reason = "the tools use the rest")]
#[path = "../crash/mod.rs"]
mod crash;
#[allow(dead_code, reason = "the tools use the rest")]
#[path = "../rig/mod.rs"]
mod rig;

mod administrators;
mod anomalies;
mod binary;
mod binary_bootstrap;
mod binary_shutdown;
mod calls;
mod cases;
mod changes;
mod checker_run;
mod cli;
mod connections;
mod crash_loop;
mod database_file;
mod decisions;
mod descriptors;
mod enforcement;
mod erasure;
mod error_reasons;
mod every_rpc;
mod floods;
mod layers;
mod lease_invariant;
mod leases;
mod lists;
mod logs;
mod memory;
mod memory_protection;
mod neighbour;
mod neighbour_health;
mod operation;
mod operation_embedded;
mod operation_root_secrets;
mod operation_start;
mod ops;
mod purge_clock;
mod races;
mod request_edges;
mod request_ids;
mod rights;
mod root_secret_states;
mod secrets;
mod short_cut;
mod smoke;
mod store_contract;
mod store_feed;
mod stream;
mod telemetry;
mod tls;
mod tls_handshakes;
mod tls_reload;
mod unread_answers;
mod update_times;
mod updates;
mod usage;
