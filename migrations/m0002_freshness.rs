//! Step 2: what replicas need to answer from memory, and when keys were last used.
//!
//! The row of `feed_head` holds the length of the lease (`lease_ms`), how long a change waits until every lease that
//! does not know of it has run out (`wait_ms`), how often these were set (`lease_changes`), and how often an operator accepted what an anomaly put in doubt
//! (`accepts`). A row of `change_log` tells the version of the key after the change; zero in rows of step 1.
//!
//! A binary of step 1 answers `enforced` without waiting for the leases of others, so none may run beside this schema.

use sea_orm_migration::{prelude::*, sea_orm::DeriveIden};

/// Step 2.
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0002_freshness"
    }
}

#[derive(DeriveIden)]
enum SchemaVersion {
    Table,
    Version,
    OldestBinary,
}

#[derive(DeriveIden)]
enum FeedHead {
    Table,
    LeaseMs,
    WaitMs,
    LeaseChanges,
    Accepts,
}

#[derive(DeriveIden)]
enum ChangeLog {
    Table,
    Version,
}

#[derive(DeriveIden)]
enum KeyUsage {
    Table,
    KeyId,
    LastUsedTime,
    LastUsedIp,
}

/// A second: a fail-over takes longer than any lease that an administrator would wait for.
const LEASE_MS: i64 = 1_000;
/// The lease, and a twentieth for clocks that do not run alike.
const WAIT_MS: i64 = 1_050;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // One column a statement: SQLite adds no more at once.
        for (column, default) in [
            (FeedHead::LeaseMs, LEASE_MS),
            (FeedHead::WaitMs, WAIT_MS),
            (FeedHead::LeaseChanges, 0),
            (FeedHead::Accepts, 0),
        ] {
            manager.alter_table(added(FeedHead::Table, column, default)).await?;
        }
        manager.alter_table(added(ChangeLog::Table, ChangeLog::Version, 0)).await?;
        let usage = Table::create()
            .table(KeyUsage::Table)
            .col(ColumnDef::new(KeyUsage::KeyId).var_binary(16).not_null().primary_key())
            .col(ColumnDef::new(KeyUsage::LastUsedTime).big_integer().not_null())
            .col(ColumnDef::new(KeyUsage::LastUsedIp).string_len(45).null())
            .to_owned();
        manager.create_table(usage).await?;
        manager.execute(versions(2, 2)).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(KeyUsage::Table).to_owned()).await?;
        manager.alter_table(dropped(ChangeLog::Table, ChangeLog::Version)).await?;
        for column in [FeedHead::Accepts, FeedHead::LeaseChanges, FeedHead::WaitMs, FeedHead::LeaseMs] {
            manager.alter_table(dropped(FeedHead::Table, column)).await?;
        }
        manager.execute(versions(1, 1)).await
    }
}

fn added(table: impl IntoTableRef, column: impl IntoIden, default: i64) -> TableAlterStatement {
    let column = ColumnDef::new(column).big_integer().not_null().default(default).to_owned();
    Table::alter().table(table).add_column(column).to_owned()
}

fn dropped(table: impl IntoTableRef, column: impl IntoIden) -> TableAlterStatement {
    Table::alter().table(table).drop_column(column).to_owned()
}

fn versions(version: i32, oldest: i32) -> UpdateStatement {
    Query::update()
        .table(SchemaVersion::Table)
        .values([(SchemaVersion::Version, version.into()), (SchemaVersion::OldestBinary, oldest.into())])
        .to_owned()
}
