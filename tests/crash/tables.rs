//! What is only half there, and holes in the feed: looked for in the tables, behind the service's back.

use claviger::domain::KeyId;
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, QueryResult, Statement};

use super::ledger::{Acknowledged, MERCHANT};
use crate::rig::{Outcome, doing};

/// A connection beside the service's own.
///
/// # Errors
/// What the driver says.
pub async fn connect(url: &str) -> Outcome<DatabaseConnection> {
    let mut options = ConnectOptions::new(url.to_owned());
    options.sqlx_logging(false).max_connections(1);
    Database::connect(options).await.map_err(doing("connecting to the database"))
}

/// Questions whose answer has to be 0, with what it would mean if it were not.
const NOTHING_HALF: &[(&str, &str)] = &[
    (
        "keys without their current secret",
        "SELECT COUNT(*) AS n FROM api_key k LEFT JOIN credential c ON c.id = k.credential_id AND c.key_id = k.id \
         WHERE c.id IS NULL",
    ),
    (
        "keys without their retiring secret",
        "SELECT COUNT(*) AS n FROM api_key k LEFT JOIN credential c ON c.id = k.retiring_credential_id AND c.key_id = \
         k.id WHERE k.retiring_credential_id IS NOT NULL AND c.id IS NULL",
    ),
    (
        "secrets without a key",
        "SELECT COUNT(*) AS n FROM credential c LEFT JOIN api_key k ON k.id = c.key_id WHERE k.id IS NULL",
    ),
    (
        "keys that do not have one secret for their Create and one for each Rotate",
        "SELECT COUNT(*) AS n FROM api_key k WHERE (SELECT COUNT(*) FROM credential c WHERE c.key_id = k.id) <> 1 + \
         (SELECT COUNT(*) FROM change_log l WHERE l.key_id = k.id AND l.kind = 4)",
    ),
    (
        "requests whose key or secret is not there",
        "SELECT COUNT(*) AS n FROM completed_request r LEFT JOIN credential c ON c.id = r.credential_id AND c.key_id = \
         r.key_id WHERE c.id IS NULL",
    ),
    (
        "keys whose version is not the number of their changes",
        "SELECT COUNT(*) AS n FROM api_key k WHERE k.version <> (SELECT COUNT(*) FROM change_log l WHERE l.key_id = k.id)",
    ),
    (
        "changes without their audit entry",
        "SELECT COUNT(*) AS n FROM change_log l LEFT JOIN audit_log a ON a.seq = l.seq AND a.key_id = l.key_id AND \
         a.action = l.kind WHERE a.seq IS NULL",
    ),
    (
        "audit entries without their change",
        "SELECT COUNT(*) AS n FROM audit_log a LEFT JOIN change_log l ON l.seq = a.seq WHERE l.seq IS NULL",
    ),
    (
        "numbers that the feed's head has given out and the feed does not have",
        "SELECT (SELECT seq FROM feed_head) - COUNT(*) AS n FROM change_log",
    ),
    (
        "numbers between which the feed has a hole",
        "SELECT COALESCE(MAX(seq) - MIN(seq) + 1 - COUNT(*), 0) AS n FROM change_log",
    ),
    (
        "numbers by which the feed's last is not its head",
        "SELECT (SELECT seq FROM feed_head) - COALESCE(MAX(seq), 0) AS n FROM change_log",
    ),
];

/// Looks through all tables.
///
/// # Errors
/// What the driver says.
pub async fn all(database: &DatabaseConnection) -> Outcome<Vec<String>> {
    let mut losses = Vec::new();
    let of_writers = format!(
        "SELECT COUNT(*) AS n FROM api_key k WHERE k.merchant_username = '{MERCHANT}' AND (SELECT COUNT(*) FROM \
         completed_request r WHERE r.key_id = k.id) <> (SELECT COUNT(*) FROM credential c WHERE c.key_id = k.id)"
    );
    let requests = ("keys with a secret whose request is not remembered", of_writers.as_str());
    for (meaning, query) in NOTHING_HALF.iter().copied().chain([requests]) {
        let count = number(database, query).await?;
        if count != 0 {
            losses.push(format!("{count} {meaning}"));
        }
    }
    Ok(losses)
}

/// Looks for the numbers of what was acknowledged, among those after `last`, and for holes from there on. Gives what is
/// missing, and the last number of the feed.
///
/// # Errors
/// What the driver says.
pub async fn acknowledged(
    database: &DatabaseConnection,
    last: i64,
    acknowledged: &[Acknowledged],
) -> Outcome<(Vec<String>, i64)> {
    let mut losses = Vec::new();
    let query = format!("SELECT seq, key_id, kind FROM change_log WHERE seq > {last} ORDER BY seq");
    let mut changes = Vec::new();
    for (row, expected) in rows(database, &query).await?.iter().zip(last + 1..) {
        let seq: i64 = get(row, "seq")?;
        if seq != expected {
            losses.push(format!("the feed has {seq} in place of {expected}"));
            break;
        }
        changes.push((get::<Vec<u8>>(row, "key_id")?, get::<i16>(row, "kind")?));
    }
    for change in acknowledged {
        let seq = change.revision.rsplit_once('.').and_then(|(_, seq)| seq.parse::<i64>().ok());
        let at = seq.and_then(|seq| usize::try_from(seq - last - 1).ok());
        let found = at.and_then(|at| changes.get(at));
        let id: Option<KeyId> = change.key_id.parse().ok();
        let is_it = |(key_id, kind): &(Vec<u8>, i16)| {
            id.is_some_and(|id| key_id == id.as_bytes()) && *kind == change.action as i16
        };
        if !found.is_some_and(is_it) {
            losses.push(format!("the feed does not have {change:?}"));
        }
    }
    Ok((losses, last + i64::try_from(changes.len()).unwrap_or(i64::MAX)))
}

async fn number(database: &DatabaseConnection, query: &str) -> Outcome<i64> {
    match rows(database, query).await?.first() {
        Some(row) => get(row, "n"),
        None => Err(format!("no answer to {query}")),
    }
}

async fn rows(database: &DatabaseConnection, query: &str) -> Outcome<Vec<QueryResult>> {
    let statement = Statement::from_string(database.get_database_backend(), query.to_owned());
    database.query_all_raw(statement).await.map_err(doing(query))
}

fn get<T: sea_orm::TryGetable>(row: &QueryResult, column: &str) -> Outcome<T> {
    row.try_get("", column).map_err(doing(column))
}
