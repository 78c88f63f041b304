//! Step 4: `request_id`s are stored as digests, and sealed key strings apart from them.
//!
//! A row of `completed_request` says what a `request_id` did. Its primary key is SHA-256 over the id of the caller's key
//! (16 bytes) and the `request_id`.
//!
//! The sealed key strings are in the two tables `sealed_replay_0` and `sealed_replay_1`, which take turns: a request of
//! the n-th quarter of an hour since 1970 is in table n modulo 2. This is for erasure in SQLite. An update or a delete in
//! the middle of a table can move neighbouring rows to another page, and `secure_delete` does not clear the copy that
//! stays behind. In these tables nothing moves: rows are only appended, all have the same length, a row is erased by
//! writing zeros over it, and a table whose rows are all erased is emptied whole.
//!
//! The table `request_log` is dropped, with the sealed key strings in it: what was sealed before this step could be
//! opened with the root secret alone. This is the one exception to the rule that steps only expand. A running binary of
//! the step before fails a Create or Rotate with a `request_id`, and makes no secret.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{ConnectionTrait, DeriveIden, ExprTrait, TryGetable},
};
use sha2::{Digest, Sha256};

/// Step 4.
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0004_request_ids"
    }
}

#[derive(DeriveIden)]
enum SchemaVersion {
    Table,
    Version,
}

#[derive(DeriveIden)]
enum ApiKey {
    Table,
    Id,
}

#[derive(DeriveIden)]
enum RequestLog {
    Table,
    CallerKeyId,
    RequestId,
    Fingerprint,
    KeyId,
    CredentialId,
    CreateTime,
    Sealed,
    SealedRoot,
}

#[derive(DeriveIden)]
enum CompletedRequest {
    Table,
    Request,
    Fingerprint,
    KeyId,
    CredentialId,
    CreateTime,
}

#[derive(DeriveIden)]
enum SealedReplay {
    Id,
    Request,
    CreateTime,
    Root,
    Sealed,
}

/// The tables of sealed key strings.
const SEALED: [&str; 2] = ["sealed_replay_0", "sealed_replay_1"];
/// Rows that are moved by one statement.
const ROWS: u64 = 500;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(completed_request()).await?;
        let by_key = Index::create()
            .name("completed_request_by_key")
            .table(CompletedRequest::Table)
            .col(CompletedRequest::KeyId)
            .to_owned();
        manager.create_index(by_key).await?;
        for name in SEALED {
            manager.create_table(sealed_replay(name)).await?;
            let by_request = Index::create()
                .name(format!("{name}_by_request"))
                .table(Alias::new(name))
                .col(SealedReplay::Request)
                .to_owned();
            manager.create_index(by_request).await?;
        }
        move_requests(manager).await?;
        manager.drop_table(Table::drop().table(RequestLog::Table).to_owned()).await?;
        manager.execute(version(4)).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // A digest cannot be turned back: the request ids are forgotten.
        manager.create_table(request_log()).await?;
        for index in request_log_indexes() {
            manager.create_index(index).await?;
        }
        for name in SEALED {
            manager.drop_table(Table::drop().table(Alias::new(name)).to_owned()).await?;
        }
        manager.drop_table(Table::drop().table(CompletedRequest::Table).to_owned()).await?;
        manager.execute(version(3)).await
    }
}

fn completed_request() -> TableCreateStatement {
    Table::create()
        .table(CompletedRequest::Table)
        .col(ColumnDef::new(CompletedRequest::Request).var_binary(32).not_null().primary_key())
        .col(ColumnDef::new(CompletedRequest::Fingerprint).var_binary(32).not_null())
        .col(ColumnDef::new(CompletedRequest::KeyId).var_binary(16).not_null())
        .col(ColumnDef::new(CompletedRequest::CredentialId).var_binary(16).not_null())
        .col(ColumnDef::new(CompletedRequest::CreateTime).big_integer().not_null())
        .foreign_key(
            ForeignKey::create()
                .name("completed_request_of_key")
                .from(CompletedRequest::Table, CompletedRequest::KeyId)
                .to(ApiKey::Table, ApiKey::Id),
        )
        .to_owned()
}

fn sealed_replay(name: &str) -> TableCreateStatement {
    Table::create()
        .table(Alias::new(name))
        .col(ColumnDef::new(SealedReplay::Id).big_integer().not_null().auto_increment().primary_key())
        .col(ColumnDef::new(SealedReplay::Request).var_binary(32).not_null())
        .col(ColumnDef::new(SealedReplay::CreateTime).big_integer().not_null())
        .col(ColumnDef::new(SealedReplay::Root).string_len(1).not_null())
        .col(ColumnDef::new(SealedReplay::Sealed).var_binary(255).not_null())
        .to_owned()
}

/// Moves what each request did, without what was sealed, in the order of the old primary key.
async fn move_requests(manager: &SchemaManager<'_>) -> Result<(), DbErr> {
    let connection = manager.get_connection();
    let key = [RequestLog::CallerKeyId, RequestLog::RequestId];
    let mut last: Option<(Vec<u8>, Vec<u8>)> = None;
    loop {
        let mut select = Query::select()
            .columns([
                RequestLog::CallerKeyId,
                RequestLog::RequestId,
                RequestLog::Fingerprint,
                RequestLog::KeyId,
                RequestLog::CredentialId,
                RequestLog::CreateTime,
            ])
            .from(RequestLog::Table)
            .order_by(RequestLog::CallerKeyId, Order::Asc)
            .order_by(RequestLog::RequestId, Order::Asc)
            .limit(ROWS)
            .to_owned();
        if let Some((caller, request)) = last.take() {
            let after = Expr::tuple(key_columns(&key)).gt(Expr::tuple([Expr::val(caller), Expr::val(request)]));
            select.and_where(after);
        }
        let rows = connection.query_all(&select).await?;
        let Some(row) = rows.last() else { return Ok(()) };
        last = Some((get(row, "caller_key_id")?, get(row, "request_id")?));
        let mut insert = Query::insert()
            .into_table(CompletedRequest::Table)
            .columns([
                CompletedRequest::Request,
                CompletedRequest::Fingerprint,
                CompletedRequest::KeyId,
                CompletedRequest::CredentialId,
                CompletedRequest::CreateTime,
            ])
            .to_owned();
        for row in &rows {
            let caller: Vec<u8> = get(row, "caller_key_id")?;
            let request: Vec<u8> = get(row, "request_id")?;
            let digest = Sha256::new().chain_update(caller).chain_update(request).finalize().to_vec();
            insert.values_panic([
                digest.into(),
                get::<Vec<u8>>(row, "fingerprint")?.into(),
                get::<Vec<u8>>(row, "key_id")?.into(),
                get::<Vec<u8>>(row, "credential_id")?.into(),
                get::<i64>(row, "create_time")?.into(),
            ]);
        }
        connection.execute(&insert).await?;
    }
}

fn key_columns(columns: &[RequestLog; 2]) -> [SimpleExpr; 2] {
    columns.each_ref().map(|column| Expr::col(column.to_string()))
}

fn get<T: TryGetable>(row: &sea_orm_migration::sea_orm::QueryResult, column: &str) -> Result<T, DbErr> {
    row.try_get("", column)
}

fn request_log() -> TableCreateStatement {
    Table::create()
        .table(RequestLog::Table)
        .col(ColumnDef::new(RequestLog::CallerKeyId).var_binary(16).not_null())
        .col(ColumnDef::new(RequestLog::RequestId).var_binary(64).not_null())
        .col(ColumnDef::new(RequestLog::Fingerprint).var_binary(32).not_null())
        .col(ColumnDef::new(RequestLog::KeyId).var_binary(16).not_null())
        .col(ColumnDef::new(RequestLog::CredentialId).var_binary(16).not_null())
        .col(ColumnDef::new(RequestLog::CreateTime).big_integer().not_null())
        .col(ColumnDef::new(RequestLog::Sealed).var_binary(255).null())
        .col(ColumnDef::new(RequestLog::SealedRoot).string_len(1).null())
        .primary_key(Index::create().col(RequestLog::CallerKeyId).col(RequestLog::RequestId))
        .foreign_key(
            ForeignKey::create()
                .name("request_of_key")
                .from(RequestLog::Table, RequestLog::KeyId)
                .to(ApiKey::Table, ApiKey::Id),
        )
        .to_owned()
}

fn request_log_indexes() -> [IndexCreateStatement; 2] {
    [
        Index::create().name("request_log_by_key").table(RequestLog::Table).col(RequestLog::KeyId).to_owned(),
        Index::create()
            .name("request_log_by_seal")
            .table(RequestLog::Table)
            .col(RequestLog::SealedRoot)
            .col(RequestLog::CreateTime)
            .to_owned(),
    ]
}

fn version(version: i32) -> UpdateStatement {
    Query::update().table(SchemaVersion::Table).value(SchemaVersion::Version, version).to_owned()
}
