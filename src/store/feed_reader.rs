//! Reading the feed from behind, over a connection of its own.
//!
//! The pools are for calls, and can be exhausted by them; what tells whether memory may be trusted must not stand in
//! that line. A connection that failed in any way is dropped and made anew: what it would still say is not known.

use std::time::Duration;

use sea_orm::sqlx::{
    self, AssertSqlSafe, Connection as _, Row,
    postgres::{PgConnectOptions, PgConnection},
    sqlite::{SqliteConnectOptions, SqliteConnection},
};

use super::{
    Address, Head, Store,
    conversion::bytes,
    deployment::{root_states, states_of_root_secrets},
    feed::{HEAD, OLDEST_BINARY},
    rows::feed_head,
    session::{Role, Sessions, role},
};
use crate::{
    domain::{
        KeyId, Result,
        error::{Cause, Error, Unavailable},
        key_ring::RootStates,
    },
    migrations::VERSION,
    seeded::{self, Bug, POLLED_ROWS},
};

/// One answer of the database, from one snapshot.
#[derive(Clone, Debug)]
pub struct Polled {
    /// Whether the node is the one that takes changes; another may lag behind it.
    pub is_writer: bool,
    /// Whether it was so when the connection was made.
    pub was_writer: bool,
    /// Whether the session is not the one that it was when the connection was made.
    pub is_other_session: bool,
    /// The head of the feed.
    pub head: Head,
    /// What the database says of the root secrets.
    pub root_states: RootStates,
    /// The schema that a binary must know to run on this database, if this one does not.
    pub newer_schema_required: Option<i64>,
    /// The rows of the log from the position on that was asked for, that one included, in order; not always all.
    pub changes: Vec<LoggedChange>,
}

/// One row of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoggedChange {
    /// Its number.
    pub seq: i64,
    /// The key that was changed; none if the row cannot be read.
    pub key_id: Option<KeyId>,
    /// What was done, as stored: a newer binary may know more.
    pub kind: i64,
    /// Tells it from a row with the same number in another history.
    pub nonce: i64,
    /// The version of the key after it; 0 if it was not told.
    pub version: i64,
}

/// A connection that reads the feed.
pub struct FeedReader {
    address: Address,
    sessions: Sessions,
    connection: Option<Connection>,
    was_writer: bool,
}

enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Store {
    /// A reader of the feed, not connected yet.
    pub fn feed_reader(&self) -> FeedReader {
        FeedReader {
            address: self.address.clone(),
            sessions: self.sessions.clone(),
            connection: None,
            was_writer: false,
        }
    }
}

/// All columns of one joined row, on either engine.
macro_rules! read_rows {
    ($rows:expr, $was_writer:expr) => {{
        let rows = $rows;
        let Some(first) = rows.first() else { return Err(Error::fault("feed_head has no row")) };
        let number = |name| first.try_get::<i64, _>(name);
        let head = Head::from(feed_head::Model {
            id: HEAD,
            epoch: first.try_get("epoch").map_err(away)?,
            seq: number("head").map_err(away)?,
            lease_ms: number("lease_ms").map_err(away)?,
            wait_ms: number("wait_ms").map_err(away)?,
            lease_changes: number("lease_changes").map_err(away)?,
            accepts: number("accepts").map_err(away)?,
        });
        let root_states = root_states(first.try_get::<Option<&str>, _>("root_states").map_err(away)?)?;
        let oldest_binary = number("oldest_binary").map_err(away)?;
        let newer_schema_required = (oldest_binary > i64::from(VERSION)).then_some(oldest_binary);
        let role = role(number("role").map_err(away)?);
        let (is_writer, is_other_session) = (role == Role::Writer, role == Role::OtherSession);
        let mut changes = Vec::with_capacity(rows.len());
        for row in &rows {
            let number = |name| row.try_get::<i64, _>(name).map_err(away);
            // Without any row of the log the join leaves one line of nothing.
            if let Some(seq) = row.try_get::<Option<i64>, _>("seq").map_err(away)? {
                let key_id = row.try_get::<Vec<u8>, _>("key_id").map_err(away)?;
                changes.push(LoggedChange {
                    seq,
                    key_id: bytes(&key_id).ok().map(KeyId::from_bytes),
                    kind: number("kind")?,
                    nonce: number("nonce")?,
                    version: number("version")?,
                });
            }
        }
        Ok(Polled {
            is_writer,
            was_writer: $was_writer,
            is_other_session,
            head,
            root_states,
            newer_schema_required,
            changes,
        })
    }};
}

impl FeedReader {
    /// Connects, unless there is a connection.
    ///
    /// # Errors
    /// `Unavailable`, also if it takes longer than `timeout`.
    pub async fn connect(&mut self, timeout: Duration) -> Result<()> {
        if self.connection.is_some() {
            return Ok(());
        }
        let connecting = async {
            Ok::<_, sqlx::Error>(match &self.address {
                Address::Sqlite(path) => {
                    let options = SqliteConnectOptions::new().filename(path).pragma("query_only", "on");
                    (Connection::Sqlite(SqliteConnection::connect_with(&options).await?), true)
                }
                Address::Postgres(url) => {
                    let options = url.parse::<PgConnectOptions>()?.application_name("claviger-feed");
                    let mut connection = PgConnection::connect_with(&options).await?;
                    let begun = sqlx::raw_sql(AssertSqlSafe(self.sessions.begin())).fetch_one(&mut connection).await?;
                    let is_writer = begun.try_get::<i64, _>(0)? == 1;
                    (Connection::Postgres(connection), is_writer)
                }
            })
        };
        let (connection, was_writer) = in_time(timeout, connecting).await?;
        (self.connection, self.was_writer) = (Some(connection), was_writer);
        Ok(())
    }

    /// Asks once: for the head, and for the log from the change `applied` on; from the head on if that is before it or
    /// `applied` is none. The connection is gone after anything but an answer.
    ///
    /// # Errors
    /// `Unavailable`, also if it takes longer than `timeout`; `Fault` if the feed cannot be read.
    pub async fn poll(&mut self, applied: Option<i64>, timeout: Duration) -> Result<Polled> {
        let Some(mut connection) = self.connection.take() else { return Err(away("there is no connection")) };
        let statement = AssertSqlSafe(self.statement(applied.unwrap_or(i64::MAX)));
        // One round trip, and no prepared statement, which a pooler in between might not know.
        let polled = match &mut connection {
            Connection::Sqlite(connection) => {
                read_rows!(in_time(timeout, sqlx::raw_sql(statement).fetch_all(connection)).await?, self.was_writer)
            }
            Connection::Postgres(connection) => {
                read_rows!(in_time(timeout, sqlx::raw_sql(statement).fetch_all(connection)).await?, self.was_writer)
            }
        };
        self.connection = Some(connection);
        polled
    }

    fn statement(&self, applied: i64) -> String {
        let role = self.sessions.column(self.address.engine());
        let states = states_of_root_secrets(self.address.engine());
        let from = format!("CASE WHEN f.seq < {applied} THEN f.seq ELSE {applied} END");
        // The log is dense, so a page is a range of numbers, and no engine sorts what it need not read.
        let page = if seeded::bug(Bug::AutoIncrementPoll) {
            String::new()
        } else {
            format!("AND c.seq < {from} + {POLLED_ROWS}")
        };
        format!(
            "SELECT f.epoch AS epoch, f.seq AS head, f.lease_ms AS lease_ms, f.wait_ms AS wait_ms, f.lease_changes AS \
             lease_changes, f.accepts AS accepts, CAST({role} AS BIGINT) AS role, {states} AS root_states, \
             {OLDEST_BINARY} AS oldest_binary, c.seq AS seq, c.key_id AS \
             key_id, CAST(c.kind AS BIGINT) AS kind, c.nonce AS nonce, c.version AS version FROM feed_head AS f LEFT \
             JOIN change_log AS c ON c.seq >= {from} {page} WHERE f.id = 1 ORDER BY c.seq LIMIT {POLLED_ROWS}"
        )
    }
}

async fn in_time<T>(timeout: Duration, work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T> {
    match tokio::time::timeout(timeout, work).await {
        Ok(outcome) => outcome.map_err(away),
        Err(late) => Err(away(late)),
    }
}

fn away(cause: impl Into<Cause>) -> Error {
    Error::Unavailable(Unavailable::Database(cause.into()))
}
