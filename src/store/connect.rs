//! Opening a database, with the drivers' defaults put right.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use sea_orm::{
    ConnectOptions, Database, DatabaseConnection,
    sqlx::{
        self, AssertSqlSafe, Connection as _, Row as _,
        postgres::PgConnection,
        sqlite::{SqliteJournalMode, SqliteSynchronous},
    },
};

use super::{Engine, Store, calls::Calls, failure, files::Identity, session::Sessions};
use crate::domain::{
    Result,
    error::{Cause, Error, Unavailable},
};

/// Where a database is. Its text may hold a password: there is no `Debug` and no `Display`.
#[derive(Clone)]
pub enum Address {
    /// A file.
    Sqlite(PathBuf),
    /// A URL.
    Postgres(String),
}

impl Address {
    /// Reads `sqlite:PATH`, `sqlite://PATH` or a `postgres://` URL.
    ///
    /// # Errors
    /// What would be right; never what was given, which may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        let right = "write sqlite:PATH or postgres://USER:PASSWORD@HOST/DATABASE";
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() || path.contains(":memory:") || path.contains('?') {
                return Err(format!("names no file; {right}, without parameters and not in memory"));
            }
            return Ok(Self::Sqlite(PathBuf::from(path)));
        }
        match text.split_once("://") {
            Some(("postgres" | "postgresql", rest)) if !rest.is_empty() => Ok(Self::Postgres(text.to_owned())),
            Some(("mysql" | "mariadb", _)) => Err(format!("names MySQL, which is not supported yet; {right}")),
            _ => Err(format!("is no database address; {right}")),
        }
    }

    /// Which engine it needs.
    pub fn engine(&self) -> Engine {
        match self {
            Self::Sqlite(_) => Engine::Sqlite,
            Self::Postgres(_) => Engine::Postgres,
        }
    }
}

/// How to use a database.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections at most for reading single keys. Beside them are two for lists and one for the feed; SQLite has one for
    /// writing, a server half as many as for reading and one for revocations alone.
    pub connections: u32,
    /// How long a statement, or the wait for a connection, may take.
    pub timeout: Duration,
}

/// Connections for lists and counts.
const LISTERS: u32 = 2;

impl Options {
    /// Connections for changes on a server, beside the one that is reserved for revocations.
    fn writers(&self) -> u32 {
        (self.connections / 2).max(1)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 8, timeout: Duration::from_secs(2) }
    }
}

impl Store {
    /// Opens the database. The schema is not looked at: see [`Store::schema_migrate`] and [`Store::schema_require`].
    ///
    /// # Errors
    /// `Unavailable` if it cannot be reached or opened.
    pub async fn open(address: &Address, options: Options) -> Result<Self> {
        let sessions = Sessions::new()?;
        let mut reserved_writer = None;
        let (mut reader, mut lister, mut writer) = match address {
            Address::Sqlite(path) => {
                // The writer first: it makes the file and its write-ahead log, which a reader cannot.
                let writer = connect(sqlite(path, 1, options, false)).await?;
                let lister = connect(sqlite(path, LISTERS, options, true)).await?;
                (connect(sqlite(path, options.connections, options, true)).await?, lister, writer)
            }
            Address::Postgres(url) => {
                reach_postgres(url, options.timeout, &sessions).await?;
                // Pools of their own: changes that wait for each other must not take the connections of Validate.
                let of = |connections| postgres(url, Options { connections, ..options }, &sessions);
                let writer = connect(of(options.writers())).await?;
                reserved_writer = Some(connect(of(1)).await?);
                let lister = connect(of(LISTERS)).await?;
                (connect(of(options.connections)).await?, lister, writer)
            }
        };
        let opened = match address {
            Address::Sqlite(path) => Some(Identity::of(path).map_err(Error::fault)?),
            Address::Postgres(_) => None,
        };
        let statements = Arc::new(AtomicU64::new(0));
        for connection in [&mut reader, &mut lister, &mut writer].into_iter().chain(&mut reserved_writer) {
            let statements = Arc::clone(&statements);
            connection.set_metric_callback(move |_| {
                statements.fetch_add(1, Ordering::Relaxed);
            });
        }
        let calls = Arc::new(Calls::new(address.engine()));
        Ok(Self {
            reader,
            lister,
            writer,
            reserved_writer,
            address: address.clone(),
            sessions,
            statements,
            calls,
            timeout: options.timeout,
            // What an earlier process erased last may be in it.
            wal_holds_erased: AtomicBool::new(true),
            opened,
            files: OnceLock::new(),
        })
    }
}

/// How many connections a pool holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// `read`, `list`, `write` or `revoke`.
    pub name: &'static str,
    /// Connections that are at work.
    pub used: u32,
    /// Connections that wait for work.
    pub idle: u32,
    /// Connections at most.
    pub most: u32,
}

impl Store {
    /// The pools as they are now.
    pub fn pools(&self) -> Vec<Pool> {
        let pools = [("read", &self.reader), ("list", &self.lister), ("write", &self.writer)].into_iter();
        let pools = pools.chain(self.reserved_writer.as_ref().map(|reserved| ("revoke", reserved)));
        let measure = |(name, connection): (&'static str, &DatabaseConnection)| {
            let (size, idle, most) = match self.engine() {
                Engine::Sqlite => {
                    let pool = connection.get_sqlite_connection_pool();
                    (pool.size(), pool.num_idle(), pool.options().get_max_connections())
                }
                Engine::Postgres => {
                    let pool = connection.get_postgres_connection_pool();
                    (pool.size(), pool.num_idle(), pool.options().get_max_connections())
                }
            };
            let idle = u32::try_from(idle).unwrap_or(u32::MAX);
            Pool { name, used: size.saturating_sub(idle), idle, most }
        };
        pools.map(measure).collect()
    }

    /// How many changes can be written at once.
    pub fn writers(&self) -> usize {
        let writers = self.pools().into_iter().find(|pool| pool.name == "write").map_or(1, |pool| pool.most);
        usize::try_from(writers).unwrap_or(1)
    }

    /// Whether revocations have a writer of their own.
    pub fn has_reserved_writer(&self) -> bool {
        self.reserved_writer.is_some()
    }
}

/// Connects once without the pool, which tries until its time-out and then tells only that.
async fn reach_postgres(url: &str, timeout: Duration, sessions: &Sessions) -> Result<()> {
    let away = |cause: Cause| Error::Unavailable(Unavailable::Database(cause));
    let reach = async {
        let mut connection = PgConnection::connect(url).await?;
        require_writer(&mut connection, sessions.begin()).await?;
        connection.close().await
    };
    match tokio::time::timeout(timeout, reach).await {
        Ok(outcome) => outcome.map_err(|error| away(error.into())),
        Err(late) => Err(away(late.into())),
    }
}

/// Asks a new connection for the role of its node, by the statement `begin`. A connection that was made to a standby does not
/// count after its promotion either.
async fn require_writer(connection: &mut PgConnection, begin: String) -> Result<(), sqlx::Error> {
    let is_writer: i64 = sqlx::raw_sql(AssertSqlSafe(begin)).fetch_one(connection).await?.try_get(0)?;
    if is_writer == 1 {
        return Ok(());
    }
    Err(sqlx::Error::Protocol("the node that was reached is not the one that takes changes".to_owned()))
}

async fn connect(options: ConnectOptions) -> Result<DatabaseConnection> {
    Database::connect(options).await.map_err(failure::of)
}

fn common(url: String, connections: u32, options: Options) -> ConnectOptions {
    let mut out = ConnectOptions::new(url);
    out.max_connections(connections)
        .min_connections(1)
        .acquire_timeout(options.timeout)
        .connect_timeout(options.timeout)
        // Statements carry key material such as hashes; they are logged nowhere.
        .sqlx_logging(false)
        // A ping per checkout doubles the round trips; one after a second of idleness finds restarted servers.
        .test_before_acquire_if_idle_for(Duration::from_secs(1));
    out
}

fn sqlite(path: &Path, connections: u32, options: Options, read_only: bool) -> ConnectOptions {
    let mut out = common("sqlite:".to_owned(), connections, options);
    // When the last connection closes, SQLite removes the write-ahead log. Were connections replaced from time to time,
    // this could happen under the running service, which would take it for the work of another process.
    out.max_lifetime(None).idle_timeout(None);
    let path = path.to_owned();
    out.map_sqlx_sqlite_opts(move |sqlite| {
        let sqlite = sqlite
            .filename(&path)
            .create_if_missing(!read_only)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(options.timeout)
            // What is deleted is overwritten with zeros.
            .pragma("secure_delete", "on")
            .foreign_keys(true);
        if read_only { sqlite.pragma("query_only", "on") } else { sqlite }
    });
    if !read_only {
        // After a COMMIT that failed, SQLite has rolled back by itself, but the driver counts the transaction as open: the
        // next one would be a savepoint in it, whose end commits nothing. The ping waits for what the driver still has to do.
        out.map_sqlx_sqlite_pool_opts(|pool| {
            pool.after_release(|connection, _| {
                Box::pin(async move {
                    connection.ping().await?;
                    Ok(!connection.is_in_transaction())
                })
            })
        });
    }
    out
}

fn postgres(url: &str, options: Options, sessions: &Sessions) -> ConnectOptions {
    let mut out = common(url.to_owned(), options.connections, options);
    out.set_application_name("claviger");
    let begin = sessions.begin();
    out.map_sqlx_postgres_pool_opts(move |pool| {
        let begin = begin.clone();
        pool.after_connect(move |connection, _| Box::pin(require_writer(connection, begin.clone())))
    });
    out
}
