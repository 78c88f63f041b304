//! Claviger issues, restricts, lists, rotates, deletes and validates API keys over gRPC.
//!
//! # The way through
//!
//! ```text
//! main → cli → server → grpc → app → store → domain        config, data_folder, database_file, launch, memory_protection, telemetry, tls: beside server
//!                         └──────────────────↗             clock, trace: leaves
//! ```
//!
//! A request comes in at [`grpc`] (words of the wire), is turned at the door into words of the [`domain`], walks through
//! one room of [`app`] (what we promise), which asks [`store`] (what we remember) and [`domain`] (what is true), and
//! leaves by the same door. Nobody else speaks protobuf. Nobody else speaks SQL. Only the [`clock`] knows what time it
//! is. Nothing is committed without its audit entry and its number in the feed. The test `layers` holds this picture
//! against the code.
//!
//! # One Validate, from the socket and back
//!
//! 1. [`server`] accepts the connection, shakes hands in bounded time (with the certificate of [`tls`], if there is one),
//!    and hands it to the transport with the peer's address.
//! 2. [`grpc::observed`] begins the call's span in the caller's trace, and will tell how long it took and how it ended.
//!    [`grpc::short_cut`] answers here what memory can answer, by 6 to 10 and nothing else, and sends on what is left.
//! 3. [`grpc::outer`] counts the call, starts its deadline and will catch its panic.
//! 4. [`grpc::auth`] takes the caller's key from the one `authorization` header and asks
//!    [`App::authenticate`](app::App::authenticate), which goes through 6 to 9 for it and judges its address rules
//!    against the connection's peer. What comes back is a [`Caller`](domain::Caller).
//! 5. [`grpc::api_keys`] reads the request: an address that is none, or a scope that is none, ends it here with all its
//!    violations. [`App::validate`](app::App::validate) requires the scope `claviger:validate` and gets a
//!    [`Reach`](domain::Reach).
//! 6. [`KeyFormat::parse`](domain::key_string::KeyFormat::parse) looks at the form and the checksum of the text,
//!    [`Unproved::prove`](domain::key_string::Unproved::prove) at the tag. What this deployment never made ends here: no
//!    read, no hash.
//! 7. [`app::freshness`] says what it remembers of these bytes, if its lease allows to believe it: most calls go on at 9.
//!    Else [`Store::validation_read_even_deleted`](store::Store::validation_read_even_deleted) reads the credential, its
//!    key and the head of the feed in one statement, for all who wait for the same. What is beyond the caller's reach is
//!    not found.
//! 8. The secret is proved against the stored hash, by `app::proof`: from memory if these bytes were proved against this
//!    very hash before, else by one run of argon2 on a thread of `app::hashing`. What was read and proved is remembered,
//!    unless it changed meanwhile.
//! 9. [`decide`](domain::decision::decide) looks at the state, the times, the address and the scopes, in this order.
//! 10. The decision is written back to the wire, from where it is; a refusal is an answer, not an error.
//!
//! A stream of validations goes through 1 to 5 once, and then through 6 to 10 for each of its items ([`grpc::stream`]),
//! which judges its caller each time, too.
//!
//! # One change
//!
//! Create, Update, Rotate and Delete run in a task that outlives its caller (`app::mutation`). The transaction reads and
//! locks the key, changes it, takes the feed's next number and with it the one lock that all changes take last, judges
//! the caller and the last administrator once more on what is committed by then, and commits with its audit entry. The
//! replica forgets the key, and answers `enforced` when no other one can remember it any more ([`app::freshness`], step 11).
//!
//! # Beside the calls
//!
//! [`server::serve`] runs the workers, and stops when one of them dies: the poller of the feed, which keeps the replica
//! fresh; the one that writes down when keys were last used; upkeep; and the one that tells the health service.

pub mod grpc;

pub mod app;

pub mod domain;

pub mod store;

#[path = "../migrations/mod.rs"]
pub mod migrations;

pub mod admission;

pub mod clock;

pub mod trace;

pub mod server;

pub mod launch;

pub mod memory_protection;

pub mod data_folder;

pub mod database_file;

pub mod config;

pub mod telemetry;

pub mod tls;

pub mod seeded;

pub mod cli;

/// The examples of the README compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExamples;
