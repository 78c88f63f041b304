//! The schema, step by step. The list is in order and only ever grows at its end.
//!
//! Expand first, contract one release later: the binary before a step runs beside the binary after it. A step that the
//! binary before it cannot live with raises `oldest_binary` in the table `schema_version`.
//!
//! Conventions: times are microseconds since the epoch in big integers; ids, digests and opaque bytes are binary, so
//! that every engine compares them as bytes; lists are JSON texts; nothing defaults to a database clock.

use sea_orm_migration::prelude::*;

mod m0001_keys;
mod m0002_freshness;
mod m0003_lease;
mod m0004_request_ids;

/// The schema that this binary makes and expects.
pub const VERSION: i32 = 4;

/// Applies the steps. Whoever runs it holds the lock that `store::schema` takes.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_keys::Migration),
            Box::new(m0002_freshness::Migration),
            Box::new(m0003_lease::Migration),
            Box::new(m0004_request_ids::Migration),
        ]
    }
}
