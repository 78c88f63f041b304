//! Step 1: keys, their credentials, the feed, the audit log, and what keeps a deployment together.

use sea_orm_migration::{prelude::*, sea_orm::DeriveIden};

/// Step 1.
pub(super) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0001_keys"
    }
}

#[derive(DeriveIden)]
enum SchemaVersion {
    Table,
    Id,
    Version,
    OldestBinary,
}

#[derive(DeriveIden)]
enum ApiKey {
    Table,
    Id,
    MerchantUsername,
    DisplayName,
    CredentialId,
    Prefix,
    RetiringCredentialId,
    RetiringExpireTime,
    AllowedIps,
    DeniedIps,
    Scopes,
    Labels,
    FullAdministrator,
    WebhookFormat,
    Disabled,
    CreateTime,
    UpdateTime,
    NotBeforeTime,
    ExpireTime,
    RotateTime,
    DeleteTime,
    PurgeTime,
    DeleteReason,
    Version,
}

#[derive(DeriveIden)]
enum Credential {
    Table,
    Id,
    KeyId,
    Root,
    Profile,
    Phc,
    PepperRoot,
    CreateTime,
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
enum FeedHead {
    Table,
    Id,
    Epoch,
    Seq,
}

#[derive(DeriveIden)]
enum ChangeLog {
    Table,
    Seq,
    KeyId,
    Kind,
    Nonce,
    Time,
}

#[derive(DeriveIden)]
enum AuditLog {
    Table,
    Seq,
    Time,
    ActorKind,
    ActorKeyId,
    ActorMerchant,
    Peer,
    Action,
    KeyId,
    MerchantUsername,
    Changes,
    Reason,
    Note,
}

#[derive(DeriveIden)]
enum RefusalLog {
    Table,
    Id,
    Time,
    ActorKeyId,
    ActorMerchant,
    Peer,
    Rpc,
    Reason,
    Suppressed,
}

#[derive(DeriveIden)]
enum RootSecret {
    Table,
    K,
    Fingerprint,
    State,
    ActivateTime,
}

#[derive(DeriveIden)]
enum Bootstrap {
    Table,
    Id,
    CredentialId,
    Time,
}

fn binary(name: impl IntoIden, most: u32) -> ColumnDef {
    ColumnDef::new(name).var_binary(most).not_null().take()
}

fn text(name: impl IntoIden) -> ColumnDef {
    ColumnDef::new(name).text().not_null().take()
}

fn short(name: impl IntoIden, most: u32) -> ColumnDef {
    ColumnDef::new(name).string_len(most).not_null().take()
}

fn big(name: impl IntoIden) -> ColumnDef {
    ColumnDef::new(name).big_integer().not_null().take()
}

fn small(name: impl IntoIden) -> ColumnDef {
    ColumnDef::new(name).small_integer().not_null().take()
}

fn flag(name: impl IntoIden) -> ColumnDef {
    ColumnDef::new(name).boolean().not_null().take()
}

fn optional_time(name: impl IntoIden) -> ColumnDef {
    ColumnDef::new(name).big_integer().null().take()
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables() {
            manager.create_table(table).await?;
        }
        for index in indexes() {
            manager.create_index(index).await?;
        }
        let rows = [
            Query::insert()
                .into_table(SchemaVersion::Table)
                .columns([SchemaVersion::Id, SchemaVersion::Version, SchemaVersion::OldestBinary])
                .values_panic([1.into(), 1.into(), 1.into()])
                .to_owned(),
            // The epoch is random, so it is written by the first start.
            Query::insert()
                .into_table(FeedHead::Table)
                .columns([FeedHead::Id, FeedHead::Epoch, FeedHead::Seq])
                .values_panic([1.into(), "".into(), 0_i64.into()])
                .to_owned(),
        ];
        for row in rows {
            manager.execute(row).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let tables = [
            Bootstrap::Table.into_iden(),
            RootSecret::Table.into_iden(),
            RefusalLog::Table.into_iden(),
            AuditLog::Table.into_iden(),
            ChangeLog::Table.into_iden(),
            FeedHead::Table.into_iden(),
            RequestLog::Table.into_iden(),
            Credential::Table.into_iden(),
            ApiKey::Table.into_iden(),
            SchemaVersion::Table.into_iden(),
        ];
        for table in tables {
            manager.drop_table(Table::drop().table(table).to_owned()).await?;
        }
        Ok(())
    }
}

fn tables() -> Vec<TableCreateStatement> {
    let mut tables = key_tables();
    tables.extend(log_tables());
    tables.extend(deployment_tables());
    tables
}

fn key_tables() -> Vec<TableCreateStatement> {
    vec![
        Table::create()
            .table(ApiKey::Table)
            .col(binary(ApiKey::Id, 16).primary_key())
            .col(short(ApiKey::MerchantUsername, 64))
            .col(text(ApiKey::DisplayName))
            .col(binary(ApiKey::CredentialId, 16))
            .col(short(ApiKey::Prefix, 20))
            .col(ColumnDef::new(ApiKey::RetiringCredentialId).var_binary(16).null())
            .col(optional_time(ApiKey::RetiringExpireTime))
            .col(text(ApiKey::AllowedIps))
            .col(text(ApiKey::DeniedIps))
            .col(text(ApiKey::Scopes))
            .col(text(ApiKey::Labels))
            .col(flag(ApiKey::FullAdministrator))
            .col(small(ApiKey::WebhookFormat))
            .col(flag(ApiKey::Disabled))
            .col(big(ApiKey::CreateTime))
            .col(big(ApiKey::UpdateTime))
            .col(optional_time(ApiKey::NotBeforeTime))
            .col(optional_time(ApiKey::ExpireTime))
            .col(optional_time(ApiKey::RotateTime))
            .col(optional_time(ApiKey::DeleteTime))
            .col(optional_time(ApiKey::PurgeTime))
            .col(small(ApiKey::DeleteReason))
            .col(big(ApiKey::Version))
            .to_owned(),
        Table::create()
            .table(Credential::Table)
            .col(binary(Credential::Id, 16).primary_key())
            .col(binary(Credential::KeyId, 16))
            .col(short(Credential::Root, 1))
            .col(short(Credential::Profile, 32))
            .col(text(Credential::Phc))
            .col(short(Credential::PepperRoot, 1))
            .col(big(Credential::CreateTime))
            .foreign_key(
                ForeignKey::create()
                    .name("credential_of_key")
                    .from(Credential::Table, Credential::KeyId)
                    .to(ApiKey::Table, ApiKey::Id),
            )
            .to_owned(),
        Table::create()
            .table(RequestLog::Table)
            .col(binary(RequestLog::CallerKeyId, 16))
            .col(binary(RequestLog::RequestId, 64))
            .col(binary(RequestLog::Fingerprint, 32))
            .col(binary(RequestLog::KeyId, 16))
            .col(binary(RequestLog::CredentialId, 16))
            .col(big(RequestLog::CreateTime))
            .col(ColumnDef::new(RequestLog::Sealed).var_binary(255).null())
            .col(ColumnDef::new(RequestLog::SealedRoot).string_len(1).null())
            .primary_key(Index::create().col(RequestLog::CallerKeyId).col(RequestLog::RequestId))
            .foreign_key(
                ForeignKey::create()
                    .name("request_of_key")
                    .from(RequestLog::Table, RequestLog::KeyId)
                    .to(ApiKey::Table, ApiKey::Id),
            )
            .to_owned(),
    ]
}

fn log_tables() -> Vec<TableCreateStatement> {
    vec![
        Table::create()
            .table(FeedHead::Table)
            .col(small(FeedHead::Id).primary_key())
            .col(short(FeedHead::Epoch, 22))
            .col(big(FeedHead::Seq))
            .to_owned(),
        Table::create()
            .table(ChangeLog::Table)
            .col(big(ChangeLog::Seq).primary_key())
            .col(binary(ChangeLog::KeyId, 16))
            .col(small(ChangeLog::Kind))
            .col(big(ChangeLog::Nonce))
            .col(big(ChangeLog::Time))
            .to_owned(),
        Table::create()
            .table(AuditLog::Table)
            .col(big(AuditLog::Seq).primary_key())
            .col(big(AuditLog::Time))
            .col(small(AuditLog::ActorKind))
            .col(ColumnDef::new(AuditLog::ActorKeyId).var_binary(16).null())
            .col(ColumnDef::new(AuditLog::ActorMerchant).string_len(64).null())
            .col(ColumnDef::new(AuditLog::Peer).string_len(45).null())
            .col(small(AuditLog::Action))
            .col(binary(AuditLog::KeyId, 16))
            .col(short(AuditLog::MerchantUsername, 64))
            .col(text(AuditLog::Changes))
            .col(small(AuditLog::Reason))
            .col(text(AuditLog::Note))
            .to_owned(),
        Table::create()
            .table(RefusalLog::Table)
            .col(big(RefusalLog::Id).primary_key().auto_increment())
            .col(big(RefusalLog::Time))
            .col(binary(RefusalLog::ActorKeyId, 16))
            .col(short(RefusalLog::ActorMerchant, 64))
            .col(short(RefusalLog::Peer, 45))
            .col(short(RefusalLog::Rpc, 32))
            .col(short(RefusalLog::Reason, 64))
            .col(big(RefusalLog::Suppressed))
            .to_owned(),
    ]
}

fn deployment_tables() -> Vec<TableCreateStatement> {
    vec![
        Table::create()
            .table(SchemaVersion::Table)
            .col(small(SchemaVersion::Id).primary_key())
            .col(ColumnDef::new(SchemaVersion::Version).integer().not_null())
            .col(ColumnDef::new(SchemaVersion::OldestBinary).integer().not_null())
            .to_owned(),
        Table::create()
            .table(RootSecret::Table)
            .col(short(RootSecret::K, 1).primary_key())
            .col(binary(RootSecret::Fingerprint, 16))
            .col(small(RootSecret::State))
            .col(big(RootSecret::ActivateTime))
            .to_owned(),
        Table::create()
            .table(Bootstrap::Table)
            .col(small(Bootstrap::Id).primary_key())
            .col(binary(Bootstrap::CredentialId, 16))
            .col(big(Bootstrap::Time))
            .to_owned(),
    ]
}

fn indexes() -> Vec<IndexCreateStatement> {
    vec![
        Index::create()
            .name("api_key_by_merchant")
            .table(ApiKey::Table)
            .col(ApiKey::MerchantUsername)
            .col(ApiKey::CreateTime)
            .col(ApiKey::Id)
            .to_owned(),
        Index::create().name("api_key_by_time").table(ApiKey::Table).col(ApiKey::CreateTime).col(ApiKey::Id).to_owned(),
        Index::create().name("api_key_by_purge").table(ApiKey::Table).col(ApiKey::PurgeTime).to_owned(),
        Index::create()
            .name("api_key_by_administrator")
            .table(ApiKey::Table)
            .col(ApiKey::FullAdministrator)
            .col(ApiKey::DeleteTime)
            .to_owned(),
        Index::create().name("credential_by_key").table(Credential::Table).col(Credential::KeyId).to_owned(),
        Index::create().name("refusal_log_by_time").table(RefusalLog::Table).col(RefusalLog::Time).to_owned(),
        Index::create().name("request_log_by_key").table(RequestLog::Table).col(RequestLog::KeyId).to_owned(),
        // Sealed texts are few and young; those without one are not walked over to find them.
        Index::create()
            .name("request_log_by_seal")
            .table(RequestLog::Table)
            .col(RequestLog::SealedRoot)
            .col(RequestLog::CreateTime)
            .to_owned(),
    ]
}
