//! What we remember, and the only place that speaks SQL.
//!
//! Reads are methods of [`Store`]; changes are methods of [`Tx`], which ends by [`Tx::number`] and
//! [`Numbered::commit`], so a change without its number in the feed and its audit entry does not compile. The few writes
//! that are no change of a key (a renewed hash, an erased sealed secret, a refused act) are methods of [`Store`] and say
//! so.
//!
//! A query for a caller takes a [`Reach`](crate::domain::Reach), the proof that a right was judged, and leaves deleted keys
//! out unless its name ends in `_even_deleted` or its filter asks for them. What Validate reads is judged by whoever asked;
//! what upkeep and the rule of the last administrator read is not for a caller. Names put the thing first: `find` may
//! return none, `list` pages.

mod api_keys;
mod audit;
mod calls;
mod compaction;
mod connect;
mod conversion;
mod deployment;
mod failure;
mod feed;
mod feed_reader;
mod feed_settings;
mod files;
mod lists;
mod refusals;
mod request_ids;
mod rows;
mod schema;
mod sealed_replays;
mod session;
mod tx;
mod usage;

use std::{
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement};

use self::calls::Calls;
pub use api_keys::{Credential, Validation};
pub use connect::{Address, Options, Pool};
pub use deployment::RootRow;
pub use feed::{Head, LONGEST_WAIT, Revision, wait_for};
pub use feed_reader::{FeedReader, LoggedChange, Polled};
pub use lists::{ListFilter, Position};
pub use refusals::RefusedAct;
pub use request_ids::{Replay, RequestKey};
pub use sealed_replays::Sealed;
pub use tx::{Committed, Numbered, Tx};
pub use usage::LastUse;

use crate::domain::{Result, Time};

/// The database, on one of the engines.
pub struct Store {
    /// For reads of one key, which Validate and revocations need.
    reader: DatabaseConnection,
    /// For lists and counts, so that they do not hold up the reads of one key.
    lister: DatabaseConnection,
    writer: DatabaseConnection,
    /// On a server: one connection that only revocations write with.
    reserved_writer: Option<DatabaseConnection>,
    address: Address,
    sessions: session::Sessions,
    statements: Arc<AtomicU64>,
    calls: Arc<Calls>,
    timeout: Duration,
    /// Whether the write-ahead log of an embedded database may still hold what was erased.
    wal_holds_erased: AtomicBool,
    /// The file of an embedded database when it was opened.
    opened: Option<files::Identity>,
    files: OnceLock<files::DatabaseFiles>,
}

/// The engines that the contract suite holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Embedded.
    Sqlite,
    /// A server.
    Postgres,
}

impl Store {
    /// Which engine it is.
    pub fn engine(&self) -> Engine {
        self.address.engine()
    }

    /// How many statements the driver has been given.
    pub fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    /// Asks the database for an answer, any.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn ping(&self) -> Result<()> {
        self.bounded("ping", self.reader.ping()).await
    }

    /// What time it is by the database server's clock; by this machine's if the database is embedded.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn database_time(&self) -> Result<Time> {
        let (backend, micros) = match self.engine() {
            Engine::Sqlite => (DbBackend::Sqlite, "SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER)"),
            Engine::Postgres => {
                (DbBackend::Postgres, "SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)")
            }
        };
        let ask = async {
            let row = self.reader.query_one_raw(Statement::from_string(backend, micros)).await?;
            row.ok_or_else(|| DbErr::RecordNotFound("the time".to_owned()))?.try_get_by_index(0)
        };
        self.bounded("database_time", ask).await.map(Time::from_micros)
    }

    /// Ends all connections.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn close(&self) -> Result<()> {
        self.bounded("close", async {
            self.reader.close_by_ref().await?;
            self.lister.close_by_ref().await?;
            if let Some(reserved) = &self.reserved_writer {
                reserved.close_by_ref().await?;
            }
            self.writer.close_by_ref().await
        })
        .await
    }

    /// Makes the call `name`: waits for `work` no longer than the store's time-out.
    fn bounded<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, DbErr>>,
    ) -> impl Future<Output = Result<T>> {
        self.calls.call(name, self.timeout, Box::pin(work))
    }
}
