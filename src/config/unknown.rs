//! Names in the environment that look like settings and are none.

use crate::domain::text::quoted;

/// Names that the command line and later versions read.
const OTHER_NAMES: [&str; 6] = [
    "CLAVIGER_ADDR",
    "CLAVIGER_CA_FILE",
    "CLAVIGER_SERVER_NAME",
    "CLAVIGER_KEY",
    "CLAVIGER_KEY_FILE",
    "CLAVIGER_TEST_KEY",
];

/// Names of the settings of the server, in the order of its flags.
pub(super) const NAMES: [&str; 21] = [
    "CLAVIGER_LISTEN",
    "CLAVIGER_OPS_LISTEN",
    "CLAVIGER_DATA_DIR",
    "CLAVIGER_DATABASE_URL",
    "CLAVIGER_ROOT_SECRETS",
    "CLAVIGER_BOOTSTRAP_KEY_FILE",
    "CLAVIGER_KEY_PREFIX",
    "CLAVIGER_ACCEPTED_KEY_PREFIXES",
    "CLAVIGER_HASH_PROFILE",
    "CLAVIGER_PURGE_AFTER",
    "CLAVIGER_DATABASE_CONNECTIONS",
    "CLAVIGER_MAX_CALLS",
    "CLAVIGER_MAX_CONNECTIONS",
    "CLAVIGER_DRAIN_TIMEOUT",
    "CLAVIGER_REFLECTION",
    "CLAVIGER_TLS_CERT",
    "CLAVIGER_TLS_KEY",
    "CLAVIGER_PLAINTEXT",
    "CLAVIGER_CONNECTION_AGE",
    "CLAVIGER_LOG_FORMAT",
    "CLAVIGER_LOG",
];

/// What is wrong with each of the names that begin with `CLAVIGER_` and are none of ours.
///
/// A misspelled name must not be taken for a setting that was left out. Kubernetes makes names of its own from services
/// called `claviger`; those are let through.
pub(super) fn names<'a>(environment: impl IntoIterator<Item = &'a String>) -> impl Iterator<Item = String> {
    let mut unknown: Vec<&String> = environment
        .into_iter()
        .filter(|name| name.starts_with("CLAVIGER_"))
        .filter(|name| !NAMES.contains(&name.as_str()) && !OTHER_NAMES.contains(&name.as_str()))
        .filter(|name| !name.contains("_PORT") && !name.contains("_SERVICE_"))
        .collect();
    unknown.sort_unstable();
    unknown.into_iter().map(|name| {
        let nearest = NAMES.iter().min_by_key(|known| distance(known, name));
        let hint = nearest.map(|known| format!(", perhaps {known}")).unwrap_or_default();
        format!("has {}, which is no setting{hint}; `claviger serve --help` lists all", quoted(name))
    })
}

/// How many single characters differ, at best, in a row of insertions, deletions and replacements.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}
