//! The database: a primary with a synchronous standby, restarted, promoted, rebuilt.
//!
//! A promotion is of the synchronous standby, with the old primary stopped, and only after it has followed since the last
//! acknowledged commit. Until the next standby follows, commits wait for nobody, and nothing is promoted.

use std::{path::PathBuf, time::Duration};

use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection, Statement};

use crate::rig::{
    Outcome, doing, pace,
    postgres::{Server, Stop},
};

/// How long the standby may take to follow, on a machine that is very busy.
const PATIENCE: Duration = Duration::from_mins(1);

/// Both servers.
pub struct Cluster {
    folder: PathBuf,
    primary: Server,
    standby: Option<Server>,
    made: u32,
    /// How many hold the standby back.
    held: tokio::sync::Mutex<u32>,
}

/// That the standby is held back by somebody.
#[must_use = "it has to be let go"]
pub struct Held;

impl Cluster {
    /// A new cluster in `folder`; with a standby, or without one for a short run.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn start(folder: PathBuf, with_standby: bool) -> Outcome<Self> {
        let mut primary = Server::new(folder.join("postgres-0"))?;
        primary.start().await?;
        let mut cluster = Self { folder, primary, standby: None, made: 0, held: tokio::sync::Mutex::new(0) };
        for setting in ["wal_keep_size = '512MB'", "wal_retrieve_retry_interval = '200ms'"] {
            cluster.alter(setting).await?;
        }
        if with_standby {
            cluster.rebuild_standby().await?;
        }
        Ok(cluster)
    }

    /// The port of the primary.
    pub fn port(&self) -> u16 {
        self.primary.port()
    }

    /// The port of the standby, if there is one.
    pub fn standby_port(&self) -> Option<u16> {
        self.standby.as_ref().map(Server::port)
    }

    /// Makes an empty database of this name.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn new_database(&self, name: &str) -> Outcome<()> {
        execute(&self.primary.url("postgres"), &format!("CREATE DATABASE {name}")).await
    }

    /// A connection to a database of the primary, past all proxies.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn connect(&self, database: &str) -> Outcome<DatabaseConnection> {
        connect(&self.primary.url(database)).await
    }

    /// Stops the primary and starts it again.
    ///
    /// # Errors
    /// If it does not come back.
    pub async fn restart(&mut self, how: Stop) -> Outcome<()> {
        self.primary.stop(how).await?;
        self.primary.start().await
    }

    /// Stops the primary at once and makes the standby the new one. Give the replicas its port, then
    /// [`Cluster::rebuild_standby`].
    ///
    /// # Errors
    /// If there is no standby, or it cannot be promoted.
    pub async fn promote(&mut self) -> Outcome<()> {
        let standby = self.standby.take().ok_or("there is no standby to promote")?;
        self.primary.stop(Stop::Immediate).await?;
        standby.promote()?;
        self.primary = standby;
        // It would wait for the standby that it was itself.
        self.alter("synchronous_standby_names = ''").await
    }

    /// Makes a new standby, and from then on commits wait for it.
    ///
    /// # Errors
    /// If it does not follow.
    pub async fn rebuild_standby(&mut self) -> Outcome<()> {
        self.made += 1;
        let folder = self.folder.join(format!("postgres-{}", self.made));
        let mut standby = Server::following(&self.primary, folder, "standby")?;
        standby.start().await?;
        self.alter("synchronous_standby_names = 'standby'").await?;
        let url = self.primary.url("postgres");
        let follows = || async {
            let query = "SELECT COUNT(*) AS n FROM pg_stat_replication WHERE sync_state = 'sync' AND state = 'streaming' \
                         AND flush_lsn >= pg_current_wal_flush_lsn()";
            (number(&url, query).await.unwrap_or(0) > 0).then_some(())
        };
        pace::until("the standby follows", PATIENCE, follows).await?;
        self.standby = Some(standby);
        Ok(())
    }

    /// Lets the standby receive and not apply, so that it shows the past, until all who asked for it let it go.
    ///
    /// # Errors
    /// If there is no standby, or it does not answer.
    pub async fn hold_standby_back(&self) -> Outcome<Held> {
        let standby = self.standby.as_ref().ok_or("there is no standby")?;
        let mut held = self.held.lock().await;
        if *held == 0 {
            execute(&standby.url("postgres"), "SELECT pg_wal_replay_pause()").await?;
        }
        *held += 1;
        Ok(Held)
    }

    /// Lets it apply again, unless others still hold it back.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn let_standby_go(&self, Held: Held) -> Outcome<()> {
        let mut held = self.held.lock().await;
        *held -= 1;
        match &self.standby {
            Some(standby) if *held == 0 => execute(&standby.url("postgres"), "SELECT pg_wal_replay_resume()").await,
            _ => Ok(()),
        }
    }

    async fn alter(&self, setting: &str) -> Outcome<()> {
        let url = self.primary.url("postgres");
        execute(&url, &format!("ALTER SYSTEM SET {setting}")).await?;
        execute(&url, "SELECT pg_reload_conf()").await
    }
}

async fn connect(url: &str) -> Outcome<DatabaseConnection> {
    let mut options = ConnectOptions::new(url.to_owned());
    options.sqlx_logging(false).max_connections(1).connect_timeout(Duration::from_secs(5));
    Database::connect(options).await.map_err(doing("connecting to the database"))
}

async fn execute(url: &str, statement: &str) -> Outcome<()> {
    let database = connect(url).await?;
    let outcome = database.execute_unprepared(statement).await.map(drop).map_err(doing(statement));
    database.close().await.map_err(doing("closing a connection"))?;
    outcome
}

async fn number(url: &str, query: &str) -> Outcome<i64> {
    let database = connect(url).await?;
    let statement = Statement::from_string(database.get_database_backend(), query.to_owned());
    let row = database.query_one_raw(statement).await.map_err(doing(query))?.ok_or("no row")?;
    let value = row.try_get("", "n").map_err(doing(query))?;
    database.close().await.map_err(doing("closing a connection"))?;
    Ok(value)
}
