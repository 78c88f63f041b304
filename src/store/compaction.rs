//! What an embedded database keeps in its files although it was erased or dropped, and getting rid of it.
//!
//! The write-ahead log holds older versions of pages until it is written back and cut. The file itself holds what was
//! deleted before `secure_delete` was on, until `VACUUM` has written it anew.

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use sea_orm::{
    ConnectionTrait, DbBackend, DbErr, RuntimeErr, Statement,
    sqlx::{self, ConnectOptions as _, Connection as _, Row as _, sqlite::SqliteConnectOptions},
};

use super::{Address, Store, failure};
use crate::domain::Result;

/// How long a checkpoint waits for readers and for the writer. It is tried again in the next round.
const CHECKPOINT_PATIENCE: Duration = Duration::from_millis(50);

/// The `user_version` of a database that was compacted after step 4 of the schema, or was made by it.
const COMPACTED: i64 = 1;

impl Store {
    /// Writes the write-ahead log back and cuts it to nothing if something was `erased` now, or earlier and readers were
    /// in the way then.
    pub(super) async fn wal_clear_after(&self, erased: bool) -> Result<()> {
        if erased {
            self.wal_holds_erased.store(true, Ordering::Relaxed);
        }
        // Cleared before, so that what is erased meanwhile is not forgotten.
        if !self.wal_holds_erased.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let outcome = self.bounded("wal_clear", self.truncate_wal()).await;
        if !matches!(outcome, Ok(true)) {
            self.wal_holds_erased.store(true, Ordering::Relaxed);
        }
        outcome.map(drop)
    }

    /// False if a reader or the writer was in the way.
    async fn truncate_wal(&self) -> Result<bool, DbErr> {
        let Address::Sqlite(path) = &self.address else { return Ok(true) };
        // A connection of its own: that of the writer waits longer for locks, and changes would wait with it.
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(CHECKPOINT_PATIENCE);
        let failed = |error: sqlx::Error| DbErr::Exec(RuntimeErr::SqlxError(error.into()));
        let mut connection = options.disable_statement_logging().connect().await.map_err(failed)?;
        let row = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut connection).await.map_err(failed)?;
        let busy: i64 = row.try_get(0).map_err(failed)?;
        connection.close().await.map_err(failed)?;
        Ok(busy == 0)
    }

    /// Writes an embedded database anew once, so that its file no longer holds what step 4 of the schema dropped. A
    /// database that is `new` holds nothing of that kind.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`. That there is not enough room is logged and is no error: the next start tries again.
    pub(super) async fn compact_once(&self, new: bool) -> Result<()> {
        let Address::Sqlite(path) = &self.address else { return Ok(()) };
        if self.user_version().await.map_err(failure::of)? >= COMPACTED {
            return Ok(());
        }
        if !new {
            if let Err(why) = room_for_a_copy(path) {
                warn_not_compacted(path, &why);
                return Ok(());
            }
            if let Err(error) = self.writer.execute_unprepared("VACUUM").await {
                warn_not_compacted(path, &error.to_string());
                return Ok(());
            }
        }
        let done = format!("PRAGMA user_version = {COMPACTED}");
        self.writer.execute_unprepared(&done).await.map_err(failure::of)?;
        if !new {
            self.wal_clear_after(true).await?;
            tracing::info!(database = %path.display(), "compacted the database: what it dropped is erased from its file");
        }
        Ok(())
    }

    async fn user_version(&self) -> Result<i64, DbErr> {
        let ask = Statement::from_string(DbBackend::Sqlite, "PRAGMA user_version");
        match self.writer.query_one_raw(ask).await? {
            Some(row) => row.try_get_by_index(0),
            None => Ok(0),
        }
    }
}

fn warn_not_compacted(path: &Path, why: &str) {
    tracing::warn!(
        database = %path.display(),
        why,
        "the database could not be compacted; its file still holds sealed replays of an earlier version. Make room and \
         start again: it takes twice the size of the database beside it, and its size once in SQLITE_TMPDIR"
    );
}

/// Whether the file system has room for what `VACUUM` writes: the pages once more in the log, and a copy of its own.
fn room_for_a_copy(path: &Path) -> Result<(), String> {
    let wanted = std::fs::metadata(path).map_err(|error| error.to_string())?.len().saturating_mul(2);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let file_system = rustix::fs::statvfs(folder).map_err(|error| error.to_string())?;
    let free = file_system.f_bavail.saturating_mul(file_system.f_frsize);
    if free < wanted {
        return Err(format!("{wanted} bytes have to be free in {}, and {free} are", folder.display()));
    }
    Ok(())
}
