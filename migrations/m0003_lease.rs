//! Step 3: lease and wait are one invariant, held by the database.
//!
//! A lease is 500 ms to 10 s, so that a change and its wait fit into one call, and the wait is the lease and a twentieth of
//! it at least. Steps before this one allowed leases of up to 60 s: a longer one is set to 10 s, and its wait stays until
//! every lease that was granted before has run out; then the service lowers it.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{ConnectionTrait, DbBackend},
};

/// Step 3.
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0003_lease"
    }
}

const LEASE_CHECK: &str = "CHECK (lease_ms BETWEEN 500 AND 10000)";
const WAIT_CHECK: &str = "CHECK (wait_ms >= (lease_ms * 21 + 19) / 20)";
const CLAMP: &str = "UPDATE feed_head SET lease_changes = lease_changes + 1, lease_ms = CASE WHEN lease_ms > 10000 THEN \
                     10000 ELSE 500 END WHERE lease_ms > 10000 OR lease_ms < 500";
const RAISE_WAIT: &str = "UPDATE feed_head SET lease_changes = lease_changes + 1, wait_ms = (lease_ms * 21 + 19) / 20 \
                          WHERE wait_ms < (lease_ms * 21 + 19) / 20";

/// SQLite adds no constraint to a table: the table, which has one row, is made again. `{}` are the constraints.
const REBUILT: &str = "CREATE TABLE feed_head_rebuilt (id smallint NOT NULL PRIMARY KEY, epoch varchar(22) NOT NULL, seq \
                       bigint NOT NULL, lease_ms bigint NOT NULL DEFAULT 1000 {}, wait_ms bigint NOT NULL DEFAULT 1050 \
                       {}, lease_changes bigint NOT NULL DEFAULT 0, accepts bigint NOT NULL DEFAULT 0)";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        connection.execute_unprepared(CLAMP).await?;
        connection.execute_unprepared(RAISE_WAIT).await?;
        if manager.get_database_backend() == DbBackend::Sqlite {
            rebuild(manager, LEASE_CHECK, WAIT_CHECK).await?;
        } else {
            for (name, check) in [("feed_head_lease", LEASE_CHECK), ("feed_head_wait", WAIT_CHECK)] {
                let add = format!("ALTER TABLE feed_head ADD CONSTRAINT {name} {check}");
                connection.execute_unprepared(&add).await?;
            }
        }
        set_version(manager, 3).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        if manager.get_database_backend() == DbBackend::Sqlite {
            rebuild(manager, "", "").await?;
        } else {
            for name in ["feed_head_wait", "feed_head_lease"] {
                let drop = format!("ALTER TABLE feed_head DROP CONSTRAINT {name}");
                manager.get_connection().execute_unprepared(&drop).await?;
            }
        }
        set_version(manager, 2).await
    }
}

async fn rebuild(manager: &SchemaManager<'_>, lease_check: &str, wait_check: &str) -> Result<(), DbErr> {
    let create = REBUILT.replacen("{}", lease_check, 1).replacen("{}", wait_check, 1);
    let columns = "id, epoch, seq, lease_ms, wait_ms, lease_changes, accepts";
    let copy = format!("INSERT INTO feed_head_rebuilt ({columns}) SELECT {columns} FROM feed_head");
    for statement in [&create, &copy, "DROP TABLE feed_head", "ALTER TABLE feed_head_rebuilt RENAME TO feed_head"] {
        manager.get_connection().execute_unprepared(statement).await?;
    }
    Ok(())
}

async fn set_version(manager: &SchemaManager<'_>, version: i32) -> Result<(), DbErr> {
    let set = format!("UPDATE schema_version SET version = {version}");
    manager.get_connection().execute_unprepared(&set).await.map(drop)
}
