//! The shapes of the tables. What the columns mean stands in `migrations`.

#![allow(missing_docs, unreachable_pub, reason = "the derived parts can be neither documented nor hidden")]

/// Keys.
pub(super) mod api_key {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "api_key")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Vec<u8>,
        pub merchant_username: String,
        pub display_name: String,
        pub credential_id: Vec<u8>,
        pub prefix: String,
        pub retiring_credential_id: Option<Vec<u8>>,
        pub retiring_expire_time: Option<i64>,
        pub allowed_ips: String,
        pub denied_ips: String,
        pub scopes: String,
        pub labels: String,
        pub full_administrator: bool,
        pub webhook_format: i16,
        pub disabled: bool,
        pub create_time: i64,
        pub update_time: i64,
        pub not_before_time: Option<i64>,
        pub expire_time: Option<i64>,
        pub rotate_time: Option<i64>,
        pub delete_time: Option<i64>,
        pub purge_time: Option<i64>,
        pub delete_reason: i16,
        pub version: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// Secrets of keys, hashed. No `Debug`: the hash is nobody's business.
pub(super) mod credential {
    use std::fmt;

    use sea_orm::entity::prelude::*;

    #[derive(Clone, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "credential")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Vec<u8>,
        pub key_id: Vec<u8>,
        pub root: String,
        pub profile: String,
        pub phc: String,
        pub pepper_root: String,
        pub create_time: i64,
    }

    impl fmt::Debug for Model {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("credential::Model").field("id", &self.id).finish_non_exhaustive()
        }
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// What each `request_id` did.
pub(super) mod completed_request {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "completed_request")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub request: Vec<u8>,
        pub fingerprint: Vec<u8>,
        pub key_id: Vec<u8>,
        pub credential_id: Vec<u8>,
        pub create_time: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// The one row that numbers all changes.
pub(super) mod feed_head {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "feed_head")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i16,
        pub epoch: String,
        pub seq: i64,
        pub lease_ms: i64,
        pub wait_ms: i64,
        pub lease_changes: i64,
        pub accepts: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// Which key each number changed.
pub(super) mod change_log {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "change_log")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub seq: i64,
        pub key_id: Vec<u8>,
        pub kind: i16,
        pub nonce: i64,
        pub time: i64,
        pub version: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// When each key was last used.
pub(super) mod key_usage {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "key_usage")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub key_id: Vec<u8>,
        pub last_used_time: i64,
        pub last_used_ip: Option<String>,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// Who changed what.
pub(super) mod audit_log {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "audit_log")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub seq: i64,
        pub time: i64,
        pub actor_kind: i16,
        pub actor_key_id: Option<Vec<u8>>,
        pub actor_merchant: Option<String>,
        pub peer: Option<String>,
        pub action: i16,
        pub key_id: Vec<u8>,
        pub merchant_username: String,
        pub changes: String,
        pub reason: i16,
        pub note: String,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// Who was refused what.
pub(super) mod refusal_log {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "refusal_log")]
    pub struct Model {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub time: i64,
        pub actor_key_id: Vec<u8>,
        pub actor_merchant: String,
        pub peer: String,
        pub rpc: String,
        pub reason: String,
        pub suppressed: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// The root secrets that were ever activated.
pub(super) mod root_secret {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "root_secret")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub k: String,
        pub fingerprint: Vec<u8>,
        pub state: i16,
        pub activate_time: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// That the first administrator was made.
pub(super) mod bootstrap {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "bootstrap")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i16,
        pub credential_id: Vec<u8>,
        pub time: i64,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// The schema and the oldest binary that may use it.
pub(super) mod schema_version {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "schema_version")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i16,
        pub version: i32,
        pub oldest_binary: i32,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}
