//! Which schema the database has, and moving it forward under a lock.

use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbErr, EntityTrait, SqliteTransactionMode, TransactionOptions,
    TransactionTrait,
};
use sea_orm_migration::{MigratorTrait, SchemaManager};

use super::{Engine, Store, failure, rows::schema_version};
use crate::{
    domain::{Error, Result},
    migrations::{Migrator, VERSION},
};

/// The number of PostgreSQL's advisory lock: "clav" in ASCII.
const LOCK: i64 = 0x636C_6176;

impl Store {
    /// Brings the schema to [`VERSION`] if it is behind. However many processes do this at once, one does it and the
    /// others wait for it.
    ///
    /// # Errors
    /// `Unavailable`, or `Fault` if the schema is too new for this binary.
    pub async fn schema_migrate(&self) -> Result<()> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let options = if self.engine() == Engine::Sqlite { options } else { TransactionOptions::default() };
        let tx = self.writer.begin_with_options(options).await.map_err(failure::of)?;
        if self.engine() == Engine::Postgres {
            // A migrator that freezes must not hold up every other start for ever.
            let limits = "SET LOCAL lock_timeout = '60s'; SET LOCAL idle_in_transaction_session_timeout = '30s'";
            tx.execute_unprepared(limits).await.map_err(failure::of)?;
            let lock = format!("SELECT pg_advisory_xact_lock({LOCK})");
            tx.execute_unprepared(&lock).await.map_err(failure::of)?;
        }
        let version = require(version_of(&tx).await.map_err(failure::of)?)?;
        if version < VERSION {
            Migrator::up(&tx, None).await.map_err(failure::of)?;
        }
        tx.commit().await.map_err(failure::of_commit)?;
        self.compact_once(version == 0).await?;
        if version < VERSION {
            tracing::info!(from = version, to = VERSION, "migrated the schema");
        }
        Ok(())
    }

    /// Checks that the schema can be used by this binary, without changing anything.
    ///
    /// # Errors
    /// `Fault` if it cannot, in words for the operator.
    pub async fn schema_require(&self) -> Result<()> {
        let tx = self.reader.begin().await.map_err(failure::of)?;
        let version = require(version_of(&tx).await.map_err(failure::of)?)?;
        if version < VERSION {
            return Err(Error::fault(format!(
                "the database has schema {version} and this binary needs {VERSION}; run `claviger migrate` first"
            )));
        }
        Ok(())
    }
}

/// The version and the oldest binary that may use it; none before the first step.
async fn version_of(tx: &DatabaseTransaction) -> Result<Option<(i32, i32)>, DbErr> {
    if !SchemaManager::new(tx).has_table("schema_version").await? {
        return Ok(None);
    }
    let row = schema_version::Entity::find_by_id(1_i16).one(tx).await?;
    Ok(row.map(|row| (row.version, row.oldest_binary)))
}

fn require(found: Option<(i32, i32)>) -> Result<i32> {
    match found {
        None => Ok(0),
        Some((version, oldest)) if oldest > VERSION => Err(Error::fault(format!(
            "the database has schema {version}, which needs a Claviger that knows schema {oldest}; this one knows \
             {VERSION}: use a newer Claviger"
        ))),
        Some((version, _)) => Ok(version),
    }
}
