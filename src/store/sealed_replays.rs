//! The key strings that a `request_id` can still replay, sealed, and their erasure.
//!
//! `secure_delete` alone does not erase a row of SQLite: when rows move between pages, copies stay in the unused part of
//! a page. So rows do not move. They are appended, have one length, and are erased by writing zeros over them; when
//! nothing in a table is left to replay, the table is emptied whole, which clears its pages. Two tables take turns by
//! the quarter of an hour, so that each of them is empty again and again, whatever the load. Afterwards the write-ahead
//! log, which holds older versions of the pages, is written back and cut to nothing.

use std::time::Duration;

use sea_orm::{
    ConnectionTrait, DatabaseTransaction, DbErr, SqliteTransactionMode, TransactionOptions, TransactionTrait,
    sea_query::{Alias, Expr, ExprTrait, Order, Query},
};

use super::{Engine, Store, Tx, conversion::bytes};
use crate::domain::{Result, Time, key_string, root_secret::RootId, sealed};

/// A sealed key string. All have the same length.
pub type Sealed = [u8; LENGTH];

const LENGTH: usize = sealed::OVERHEAD + key_string::MAX_LENGTH;
/// What an erased row holds.
const ERASED: Sealed = [0; LENGTH];

const TABLES: [&str; 2] = ["sealed_replay_0", "sealed_replay_1"];
/// For how long one table is appended to before the other takes its turn.
const TURN: Duration = Duration::from_secs(15 * 60);

/// Rows that one transaction erases, so that changes get their turn between.
const ROWS: u64 = 1_000;

/// The table of what was made at `time`.
fn table(time: Time) -> Alias {
    let turn = i64::try_from(TURN.as_micros()).map_or(0, |turn| time.micros().div_euclid(turn));
    Alias::new(TABLES[usize::from(turn.rem_euclid(2) == 1)])
}

/// What `request`, made at `time`, can replay; none once it was erased.
pub(super) async fn find(tx: &Tx, request: &[u8], time: Time) -> Result<Option<(RootId, Sealed)>> {
    let select = Query::select()
        .columns([Alias::new("root"), Alias::new("sealed")])
        .from(table(time))
        .and_where(Expr::col("request").eq(request.to_vec()))
        .order_by("id", Order::Desc)
        .limit(1)
        .to_owned();
    let Some(row) = tx.bounded("sealed_replay_find", tx.tx.query_one(&select)).await? else { return Ok(None) };
    let read = || -> Result<(String, Vec<u8>), DbErr> { Ok((row.try_get("", "root")?, row.try_get("", "sealed")?)) };
    let (root, sealed) = read().map_err(super::failure::of)?;
    let sealed: Sealed = bytes(&sealed)?;
    let root = root.chars().next().and_then(RootId::new);
    Ok(root.filter(|_| sealed != ERASED).map(|root| (root, sealed)))
}

/// Adds what `request` can replay.
pub(super) async fn append(tx: &Tx, request: Vec<u8>, time: Time, root: RootId, sealed: &Sealed) -> Result<()> {
    let insert = Query::insert()
        .into_table(table(time))
        .columns(["request", "create_time", "root", "sealed"].map(Alias::new))
        .values_panic([request.into(), time.micros().into(), root.to_string().into(), sealed.to_vec().into()])
        .to_owned();
    tx.bounded("sealed_replay_append", tx.tx.execute(&insert)).await.map(drop)
}

impl Store {
    /// Erases some of the sealed key strings of requests made before `time`, and says how many; 0 when all are erased. No
    /// change of a key.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn sealed_replay_erase_before(&self, time: Time) -> Result<u64> {
        let mut erased = 0;
        for name in TABLES {
            erased += self.bounded("sealed_replay_erase_before", self.erase_in(Alias::new(name), time)).await?;
        }
        if self.engine() == Engine::Sqlite {
            self.wal_clear_after(erased > 0).await?;
        }
        Ok(erased)
    }

    async fn erase_in(&self, table: Alias, time: Time) -> Result<u64, DbErr> {
        let due = Expr::col("create_time").lt(time.micros());
        if self.engine() == Engine::Postgres {
            // Nothing can be overwritten here: the old row stays until a vacuum.
            let delete = Query::delete().from_table(table).and_where(due).to_owned();
            return Ok(self.writer.execute(&delete).await?.rows_affected());
        }
        let due = Query::select()
            .column("id")
            .from(table.clone())
            .and_where(due)
            .and_where(Expr::col("sealed").ne(ERASED.to_vec()))
            .limit(ROWS)
            .to_owned();
        let mut erased = 0;
        // Most rounds find nothing, and take no writer for that.
        if self.reader.query_one(&due).await?.is_some() {
            let tx = self.writer.begin_with_options(immediate()).await?;
            let erase = Query::update()
                .table(table.clone())
                .value("sealed", ERASED.to_vec())
                .and_where(Expr::col("id").in_subquery(due.clone()))
                .to_owned();
            erased += tx.execute(&erase).await?.rows_affected();
            if !holds_something(&tx, &table).await? {
                // Without a condition SQLite clears whole pages.
                tx.execute(&Query::delete().from_table(table.clone()).to_owned()).await?;
            }
            tx.commit().await?;
        }
        Ok(erased)
    }
}

/// Takes the write lock at once.
fn immediate() -> TransactionOptions {
    TransactionOptions {
        sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
        ..TransactionOptions::default()
    }
}

async fn holds_something(tx: &DatabaseTransaction, table: &Alias) -> Result<bool, DbErr> {
    let left = Query::select()
        .column("id")
        .from(table.clone())
        .and_where(Expr::col("sealed").ne(ERASED.to_vec()))
        .limit(1)
        .to_owned();
    Ok(tx.query_one(&left).await?.is_some())
}
