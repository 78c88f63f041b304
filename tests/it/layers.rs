//! Who may lean on whom: the table of the house, held against the code.
//!
//! main → cli → server → grpc → app → store → domain; clock and trace are leaves. Comments are left out; everything else counts,
//! not only `use` lines, since a path can be written anywhere.

use std::{fs, path::Path};

/// A room, and the names that must not occur in it.
const NEVER_SEES: &[(&str, &[&str])] = &[
    (
        "src/domain",
        &[
            "tokio",
            "sea_orm",
            "sea_orm_migration",
            "tonic",
            "prost",
            "prost_types",
            "serde_json",
            "tracing",
            "opentelemetry",
            "clap",
            "crate::clock",
            "crate::trace",
            "crate::telemetry",
            "crate::store",
            "crate::app",
            "crate::grpc",
            "crate::server",
            "crate::cli",
            "crate::config",
            "crate::launch",
            "crate::data_folder",
            "crate::tls",
            "crate::migrations",
        ],
    ),
    (
        "src/store",
        &[
            "tonic",
            "prost",
            "prost_types",
            "clap",
            "crate::clock",
            "crate::app",
            "crate::grpc",
            "crate::telemetry",
            "crate::server",
            "crate::cli",
            "crate::config",
            "crate::launch",
            "crate::data_folder",
            "crate::tls",
        ],
    ),
    (
        "src/app",
        &[
            "tonic",
            "prost",
            "prost_types",
            "sea_orm",
            "sea_orm_migration",
            "opentelemetry",
            "clap",
            "crate::grpc",
            "crate::telemetry",
            "crate::server",
            "crate::cli",
            "crate::config",
            "crate::launch",
            "crate::data_folder",
            "crate::tls",
            "crate::migrations",
        ],
    ),
    (
        "src/grpc",
        &[
            "sea_orm",
            "sea_orm_migration",
            "clap",
            "crate::store",
            "crate::clock",
            "crate::telemetry",
            "crate::server",
            "crate::cli",
            "crate::config",
            "crate::launch",
            "crate::data_folder",
            "crate::tls",
            "crate::migrations",
        ],
    ),
    ("src/clock.rs", &["tokio", "sea_orm", "tonic", "crate::store", "crate::app", "crate::grpc"]),
    ("src/trace.rs", &["tokio", "sea_orm", "tonic", "crate::store", "crate::app", "crate::grpc", "crate::telemetry"]),
    ("src/telemetry", &["crate::grpc", "crate::server", "crate::cli", "crate::launch"]),
    ("src/server", &["sea_orm", "crate::cli", "crate::config", "crate::data_folder"]),
    ("src/server.rs", &["sea_orm", "crate::cli", "crate::config", "crate::data_folder"]),
    // A leaf: shares, amounts and queues, whatever they are for.
    (
        "src/admission",
        &[
            "sea_orm",
            "tonic",
            "prost",
            "crate::domain",
            "crate::store",
            "crate::app",
            "crate::grpc",
            "crate::server",
            "crate::telemetry",
            "crate::config",
            "crate::cli",
        ],
    ),
    ("src/tls", &["sea_orm", "tonic", "crate::store", "crate::app", "crate::grpc", "crate::server", "crate::cli"]),
    // The key commands are a client like any other: they never reach into the service.
    ("src/cli/keys", &["sea_orm", "crate::store", "crate::app", "crate::server", "crate::launch"]),
    ("migrations", &["tonic", "tokio", "crate::app", "crate::grpc", "crate::domain", "crate::store"]),
];

#[test]
fn no_room_sees_what_it_must_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for (room, never) in NEVER_SEES {
        let files = files_in(&root.join(room));
        assert!(!files.is_empty(), "there is no room {room}");
        for (path, text) in files {
            for (number, line) in text.lines().enumerate().filter(|(_, line)| !is_comment(line)) {
                for name in never.iter().filter(|name| mentions(line, name)) {
                    found.push(format!("{path}:{}: {name}", number + 1));
                }
            }
        }
    }
    assert!(found.is_empty(), "seen where it must not be:\n{}", found.join("\n"));
}

#[test]
fn the_search_itself_finds_what_is_there() {
    assert!(mentions("use tokio::sync::Mutex;", "tokio"));
    assert!(mentions("    crate::store::Store", "crate::store"));
    assert!(mentions("use crate::{app::App, store::Store};", "crate::store"));
    assert!(!mentions("use tokio_stream::x;", "tokio"));
    assert!(!mentions("let tonics = 1;", "tonic"));
    assert!(is_comment("    // tonic says so"));
}

#[test]
fn every_file_says_what_lives_in_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let all = ["src", "migrations", "tests", "build.rs"].map(|room| files_in(&root.join(room))).concat();
    let silent: Vec<_> = all.iter().filter(|(_, text)| !text.starts_with("//!")).map(|(path, _)| path).collect();
    assert!(silent.is_empty(), "files without a word on what lives in them: {silent:?}");
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Whether `line` names the crate or the module `name`, also inside braces after `crate::`.
fn mentions(line: &str, name: &str) -> bool {
    let word = |text: &str, at: usize, name: &str| {
        let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
        boundary(text[..at].chars().next_back()) && boundary(text[at + name.len()..].chars().next())
    };
    if line.match_indices(name).any(|(at, _)| word(line, at, name)) {
        return true;
    }
    match name.strip_prefix("crate::") {
        // The imports of this house are grouped: `use crate::{…}`, one module a line or all on one.
        Some(module) => line.match_indices(&format!("{module}::")).any(|(at, _)| {
            let before = line[..at].trim_end();
            let in_group = before.ends_with("crate::{") || (before.contains("crate::{") && before.ends_with(','));
            let on_its_own_line = before.is_empty() && line.trim_end().ends_with(',');
            in_group || on_its_own_line
        }),
        None => false,
    }
}

/// The paths and texts of the Rust files in a folder and those below it, or of one file.
fn files_in(place: &Path) -> Vec<(String, String)> {
    if place.is_file() {
        return vec![(place.display().to_string(), fs::read_to_string(place).unwrap())];
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(place).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() || path.extension().is_some_and(|extension| extension == "rs") {
            files.extend(files_in(&path));
        }
    }
    files
}
