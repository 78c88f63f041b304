//! A transaction that changes a key: begin, change, take a number, commit with an audit entry.

use std::{
    collections::BTreeSet,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
};

use super::{Engine, Head, Revision, Store, calls::Calls, failure};
use crate::domain::{
    Result,
    audit_event::AuditEvent,
    error::{Error, Unavailable},
    root_secret::RootId,
};

/// How long a commit is followed whose caller was answered that its outcome is unknown. After it only a poll tells.
const LONGEST_COMMIT: Duration = Duration::from_secs(60);

/// A transaction in which keys are changed. Dropped without [`Numbered::commit`], it changes nothing.
#[expect(clippy::struct_field_names, reason = "it is the transaction")]
pub struct Tx {
    pub(super) tx: DatabaseTransaction,
    calls: Arc<Calls>,
    timeout: Duration,
    /// The root secrets that credentials were made under which this transaction stores.
    pub(super) made_under: Mutex<BTreeSet<RootId>>,
    /// Beside the transaction, for the bug of numbering outside of it.
    #[cfg(feature = "checker")]
    pub(super) beside: sea_orm::DatabaseConnection,
}

/// A transaction that holds the lock of the feed and the next number. All that is read through it is the latest
/// committed state, and stays so until the commit.
pub struct Numbered {
    tx: Tx,
    head: Head,
}

/// A change that was committed.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The state of the database after it.
    pub revision: Revision,
    /// How long after the commit every lease has run out that does not know of it.
    pub wait: Duration,
}

impl Store {
    /// Begins a transaction.
    ///
    /// On PostgreSQL a lock is waited for 2 s at most, and a writer that freezes in mid-transaction is ended after
    /// 5 s, or 1 s once it holds the lock of the feed, so that it cannot stop a revocation. On SQLite the write lock is taken here.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn begin(&self) -> Result<Tx> {
        self.begin_on(&self.writer).await
    }

    /// The same with the connection that is reserved for revocations, if there is one.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn begin_reserved(&self) -> Result<Tx> {
        self.begin_on(self.reserved_writer.as_ref().unwrap_or(&self.writer)).await
    }

    async fn begin_on(&self, writer: &DatabaseConnection) -> Result<Tx> {
        let begin = async {
            match self.engine() {
                Engine::Sqlite => self.begin_on_sqlite().await,
                Engine::Postgres => self.begin_on_postgres(writer).await,
            }
        };
        let tx = self.calls.watch("begin", Box::pin(begin)).await?;
        // A lock may take its whole time-out before the statement itself begins.
        Ok(Tx {
            tx,
            calls: Arc::clone(&self.calls),
            timeout: self.timeout + Duration::from_secs(2),
            made_under: Mutex::default(),
            #[cfg(feature = "checker")]
            beside: self.reader.clone(),
        })
    }
}

impl Store {
    async fn begin_on_sqlite(&self) -> Result<DatabaseTransaction> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        self.begin_with(&self.writer, options).await
    }

    /// Waits for a connection as long as the pool does, and for the database no longer than the time-out.
    async fn begin_with(
        &self,
        writer: &DatabaseConnection,
        options: TransactionOptions,
    ) -> Result<DatabaseTransaction> {
        let begun = async {
            // A connection that broke in the pool is found out by whoever gets it; nothing was begun on it.
            let mut left = failure::BROKEN_CONNECTIONS;
            loop {
                match writer.begin_with_options(options).await {
                    Err(error) if left > 0 && failure::is_of_a_broken_connection(&error) => left -= 1,
                    outcome => break outcome,
                }
            }
        };
        match tokio::time::timeout(self.timeout * 2, begun).await {
            Ok(Ok(tx)) => Ok(tx),
            // There are few writers, and the others wait for them: who has waited too long waits again.
            Ok(Err(error @ DbErr::ConnectionAcquire(_))) => {
                Err(Error::Unavailable(Unavailable::Contended(error.into())))
            }
            Ok(Err(error)) => Err(failure::of(error)),
            Err(late) => Err(Error::Unavailable(Unavailable::Database(late.into()))),
        }
    }

    async fn begin_on_postgres(&self, writer: &DatabaseConnection) -> Result<DatabaseTransaction> {
        let options = TransactionOptions {
            isolation_level: Some(IsolationLevel::ReadCommitted),
            ..TransactionOptions::default()
        };
        let tx = self.begin_with(writer, options).await?;
        let limits = "SET LOCAL lock_timeout = '2s'; SET LOCAL idle_in_transaction_session_timeout = '5s'";
        self.bounded("set_limits", tx.execute_unprepared(limits)).await?;
        Ok(tx)
    }
}

impl Tx {
    /// Takes the feed's next number, and with it the lock that all changes take last. No credential may be stored after it.
    ///
    /// # Errors
    /// `Unavailable`; `RootSecretNotActive` if a credential that is stored was not made under the active root secret.
    pub async fn number(self) -> Result<Numbered> {
        if self.tx.get_database_backend() == DbBackend::Postgres {
            // From here on others wait for this transaction: one that freezes is ended sooner.
            let limit = "SET LOCAL idle_in_transaction_session_timeout = '1s'";
            self.bounded("set_limits", self.tx.execute_unprepared(limit)).await?;
        }
        let head = self.feed_next().await?;
        self.require_active_root_secrets().await?;
        Ok(Numbered { tx: self, head })
    }

    /// Ends without a trace.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn rollback(self) -> Result<()> {
        self.calls.call("rollback", self.timeout, Box::pin(self.tx.rollback())).await
    }

    /// Makes the call `name`: waits for `work` no longer than the time-out.
    pub(super) fn bounded<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, DbErr>>,
    ) -> impl Future<Output = Result<T>> {
        self.calls.call(name, self.timeout, Box::pin(work))
    }
}

impl Numbered {
    /// The state of the database after the commit, if it comes to that.
    pub fn revision(&self) -> &Revision {
        &self.head.revision
    }

    /// For reading under the lock.
    pub fn tx(&self) -> &Tx {
        &self.tx
    }

    /// Commits the change with its row in the feed, marked by a random `nonce`, and its audit entry. Once it is known to
    /// be committed, `then` is called, before anything else can learn of it from here: also when that takes longer than
    /// the time-out, for the commit goes on although its caller was answered.
    ///
    /// # Errors
    /// [`Error::CommitOutcomeUnknown`] if the database did not say whether it committed; anything else changed nothing.
    pub async fn commit<T: Send + 'static>(
        self,
        event: AuditEvent,
        nonce: i64,
        then: impl FnOnce(Committed) -> T + Send + 'static,
    ) -> Result<T> {
        let Self { tx: Tx { tx, calls, timeout, .. }, head: Head { revision, wait, .. } } = {
            self.tx.change_log_insert(&self.head.revision, &event, nonce).await?;
            self.tx.audit_insert(&self.head.revision, &event).await?;
            self
        };
        let commit = async {
            // In a task of its own: a commit that is dropped half way may happen all the same, with nothing to tell.
            let committing = tokio::spawn(async move {
                match tokio::time::timeout(LONGEST_COMMIT, tx.commit()).await {
                    Ok(Ok(())) => Ok(then(Committed { revision, wait })),
                    Ok(Err(error)) => Err(failure::of_commit(error)),
                    Err(late) => Err(Error::CommitOutcomeUnknown(late.into())),
                }
            });
            match tokio::time::timeout(timeout, committing).await {
                Ok(ended) => ended.map_err(|panicked| Error::CommitOutcomeUnknown(panicked.into()))?,
                Err(late) => Err(Error::CommitOutcomeUnknown(late.into())),
            }
        };
        calls.watch("commit", Box::pin(commit)).await
    }
}

/// Checks that a statement touched the one row it meant.
pub(super) fn exactly_one(statement: &'static str, rows: u64) -> Result<()> {
    if rows == 1 { Ok(()) } else { Err(Error::fault(format!("{statement} touched {rows} rows in place of 1"))) }
}
