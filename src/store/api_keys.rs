//! Keys and their credentials: reading, making, changing, forgetting.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, ConnectionTrait, DbErr, EntityTrait, FromQueryResult, IntoActiveModel, Iterable, JoinType,
    QueryFilter, QueryOrder, QueryResult, QuerySelect, QueryTrait,
    sea_query::{Expr, ExprTrait, LockType, Query, SelectStatement},
};

use super::{
    Revision, Store, Tx,
    conversion::{bytes, columns_to_save, credential_from_row, key_from_row, root_text, row_from_key},
    deployment, failure,
    rows::{api_key, completed_request, credential, feed_head, key_usage},
    session::{Role, role},
};
use crate::{
    domain::{
        ApiKey, CredentialId, Error, KeyId, Reach, Result, Time, error::Unavailable, key_ring::RootStates,
        root_secret::RootId, secret_hash::Profile,
    },
    seeded::{self, Bug},
};

/// One secret of a key, as it is stored. It is read, not yet judged: any part may be poisoned.
#[derive(Clone)]
pub struct Credential {
    /// Its name.
    pub id: CredentialId,
    /// Under which root secret its tag was made.
    pub root: RootId,
    /// The profile it was hashed with, by name.
    pub profile: String,
    /// The hash, a PHC string.
    pub phc: String,
    /// Under which root secret's pepper it was hashed; none if the stored name cannot be one.
    pub pepper_root: Option<RootId>,
    /// When it was made.
    pub create_time: Time,
}

impl Credential {
    /// A new one, with its hash.
    pub fn new(id: CredentialId, root: RootId, profile: Profile, phc: String, create_time: Time) -> Self {
        Self { id, root, profile: profile.name().to_owned(), phc, pepper_root: Some(root), create_time }
    }
}

/// What Validate reads, in one statement.
pub struct Validation {
    /// The state of the database that was read.
    pub revision: Revision,
    /// What it says of the root secrets.
    pub root_states: RootStates,
    /// The credential and its key, if there is such a credential.
    pub found: Option<(Credential, ApiKey)>,
}

impl Store {
    /// Reads a credential, its key and the head of the feed in one statement.
    ///
    /// This sees keys of every merchant and deleted ones: whoever asks judges the reach.
    ///
    /// # Errors
    /// `Unavailable`, also if the node is not the one that takes changes; `Fault`.
    pub async fn validation_read_even_deleted(&self, id: CredentialId) -> Result<Validation> {
        let statement = self.validation_statement(id);
        let row = self.row_of_the_writer("validation_read_even_deleted", &statement).await?;
        let read = || -> Result<_, DbErr> {
            let head = feed_head::Model::from_query_result(&row, "f_")?;
            let credential = credential::Model::from_query_result_optional(&row, "c_")?;
            let key = api_key::Model::from_query_result_optional(&row, "k_")?;
            Ok((head, credential.zip(key)))
        };
        let (head, found) = read().map_err(failure::of)?;
        let found = found
            .map(|(credential, key)| Ok::<_, Error>((credential_from_row(credential)?, key_from_row(key)?)))
            .transpose()?;
        let root_states: Option<String> = row.try_get("", "root_states").map_err(failure::of)?;
        let root_states = deployment::root_states(root_states.as_deref())?;
        Ok(Validation { revision: Revision::new(head.epoch, head.seq), root_states, found })
    }

    /// One key; a deleted one, too.
    ///
    /// # Errors
    /// `Unavailable`, also if the node is not the one that takes changes; `Fault`.
    pub async fn api_key_find_even_deleted(&self, reach: &Reach, id: KeyId) -> Result<Option<ApiKey>> {
        let statement = self.key_statement(reach, id);
        let row = self.row_of_the_writer("api_key_find_even_deleted", &statement).await?;
        let key = api_key::Model::from_query_result_optional(&row, "k_").map_err(failure::of)?;
        key.map(key_from_row).transpose()
    }

    /// The one row of a `statement` that asks for the role, too, from the node that takes changes: another one may not
    /// know what there is.
    async fn row_of_the_writer(&self, name: &'static str, statement: &SelectStatement) -> Result<QueryResult> {
        let row = self
            .bounded(name, async {
                // A connection that broke in the pool, or leads to a node that takes no changes any more, is found out by
                // whoever gets it; the next one is another.
                let mut left = failure::BROKEN_CONNECTIONS;
                loop {
                    match self.reader.query_one(statement).await {
                        Err(error) if left > 0 && failure::is_of_a_broken_connection(&error) => left -= 1,
                        Ok(Some(row)) if left > 0 && role_of(&row)? != Role::Writer => left -= 1,
                        outcome => break outcome,
                    }
                }
            })
            .await?
            .ok_or_else(|| Error::fault("feed_head has no row"))?;
        let cause = match role_of(&row).map_err(failure::of)? {
            Role::Writer => return Ok(row),
            Role::NotTheWriter => "the node that answered is not the one that takes changes",
            Role::OtherSession => "a pooler moved the connection to another session of the database",
        };
        Err(Error::Unavailable(Unavailable::Database(cause.into())))
    }

    /// Puts a renewed hash in the place of `old`. No change of the key: no number, no audit entry, no new etag. Does
    /// nothing if another process renewed it first, or if its root secret is not the active one.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn credential_renew_hash(&self, id: CredentialId, old: &str, new: &Credential) -> Result<()> {
        let update = credential::Entity::update_many()
            .col_expr(credential::Column::Phc, Expr::value(new.phc.as_str()))
            .col_expr(credential::Column::Profile, Expr::value(new.profile.as_str()))
            .col_expr(credential::Column::PepperRoot, Expr::value(root_text(new.pepper_root)))
            .filter(credential::Column::Id.eq(id.as_bytes().to_vec()))
            .filter(credential::Column::Phc.eq(old))
            .filter(Expr::exists(deployment::active_root_secret(new.pepper_root)));
        self.bounded("credential_renew_hash", update.exec(&self.writer)).await.map(drop)
    }

    /// Which deleted keys are due to be forgotten at `now`, the oldest first, at most `most`.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn api_key_list_due_for_purge(&self, now: Time, most: u64) -> Result<Vec<KeyId>> {
        let ids = api_key::Entity::find()
            .select_only()
            .column(api_key::Column::Id)
            .filter(api_key::Column::PurgeTime.lte(now.micros()))
            .order_by_asc(api_key::Column::PurgeTime)
            .limit(most)
            .into_tuple::<Vec<u8>>();
        self.bounded("api_key_list_due_for_purge", ids.all(&self.reader))
            .await?
            .into_iter()
            .map(|id| Ok(KeyId::from_bytes(bytes(&id)?)))
            .collect()
    }
}

impl Tx {
    /// One key, not locked; a deleted one, too. For looking at a second key under the lock of the feed, where taking
    /// another row's lock could wait for a transaction that waits for this one.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn api_key_peek_even_deleted(&self, reach: &Reach, id: KeyId) -> Result<Option<ApiKey>> {
        let row = self.bounded("api_key_peek_even_deleted", by_id(reach, id).one(&self.tx)).await?;
        row.map(key_from_row).transpose()
    }

    /// One key, locked until the transaction ends; a deleted one, too.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn api_key_find_even_deleted(&self, reach: &Reach, id: KeyId) -> Result<Option<ApiKey>> {
        let row =
            self.bounded("api_key_find_even_deleted", by_id(reach, id).lock(LockType::Update).one(&self.tx)).await?;
        row.map(key_from_row).transpose()
    }

    /// A new key with its first credential.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn api_key_insert(&self, key: &ApiKey, credential: &Credential) -> Result<()> {
        let row = row_from_key(key)?.into_active_model();
        self.bounded("api_key_insert", api_key::Entity::insert(row).exec_without_returning(&self.tx)).await?;
        self.credential_insert(key.id, credential).await
    }

    /// A further credential of a key.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn credential_insert(&self, key_id: KeyId, credential: &Credential) -> Result<()> {
        let row = credential::ActiveModel {
            id: Set(credential.id.as_bytes().to_vec()),
            key_id: Set(key_id.as_bytes().to_vec()),
            root: Set(credential.root.to_string()),
            profile: Set(credential.profile.clone()),
            phc: Set(credential.phc.clone()),
            pepper_root: Set(root_text(credential.pepper_root)),
            create_time: Set(credential.create_time.micros()),
        };
        self.bounded("credential_insert", credential::Entity::insert(row).exec_without_returning(&self.tx)).await?;
        self.note_made_under([Some(credential.root), credential.pepper_root]);
        Ok(())
    }

    /// Writes `key` over the row of the version before it. Terms that cannot be read stay as they are stored.
    ///
    /// # Errors
    /// `Fault` if the row is not of that version, which its lock should prevent.
    pub async fn api_key_save(&self, key: &ApiKey) -> Result<()> {
        let id = key.id.as_bytes().to_vec();
        let mut update = api_key::Entity::update_many()
            .filter(api_key::Column::Id.eq(id))
            .filter(api_key::Column::Version.eq(key.version - 1));
        for (column, value) in columns_to_save(key)? {
            update = update.col_expr(column, value);
        }
        let outcome = self.bounded("api_key_save", update.exec(&self.tx)).await?;
        super::tx::exactly_one("api_key_save", outcome.rows_affected)
    }

    /// Forgets a deleted key with its credentials and the requests that made them.
    ///
    /// # Errors
    /// `Fault` if there is no such deleted key.
    pub async fn api_key_purge(&self, id: KeyId) -> Result<()> {
        let id = id.as_bytes().to_vec();
        let usage = key_usage::Entity::delete_many().filter(key_usage::Column::KeyId.eq(id.clone()));
        self.bounded("api_key_purge", usage.exec(&self.tx)).await?;
        let requests = completed_request::Entity::delete_many().filter(completed_request::Column::KeyId.eq(id.clone()));
        self.bounded("api_key_purge", requests.exec(&self.tx)).await?;
        let credentials = credential::Entity::delete_many().filter(credential::Column::KeyId.eq(id.clone()));
        self.bounded("api_key_purge", credentials.exec(&self.tx)).await?;
        let key = api_key::Entity::delete_many()
            .filter(api_key::Column::Id.eq(id))
            .filter(api_key::Column::DeleteTime.is_not_null());
        let outcome = self.bounded("api_key_purge", key.exec(&self.tx)).await?;
        super::tx::exactly_one("api_key_purge", outcome.rows_affected)
    }

    /// All keys that were stored as administrators of all merchants.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn api_key_list_full_administrators(&self) -> Result<Vec<ApiKey>> {
        let administrators = api_key::Entity::find()
            .filter(api_key::Column::FullAdministrator.eq(true))
            .filter(api_key::Column::DeleteTime.is_null());
        self.bounded("api_key_list_full_administrators", administrators.all(&self.tx))
            .await?
            .into_iter()
            .map(key_from_row)
            .collect()
    }
}

/// Which node and session an answer comes from.
fn role_of(row: &QueryResult) -> Result<Role, DbErr> {
    let column: i64 = row.try_get("", "role")?;
    Ok(if seeded::bug(Bug::RoleNotCheckedInFill) { Role::Writer } else { role(column) })
}

impl Store {
    /// `feed_head LEFT JOIN credential LEFT JOIN api_key`: always one row, whether or not there is such a credential.
    fn validation_statement(&self, id: CredentialId) -> SelectStatement {
        let mut select = Query::select();
        select
            .from(feed_head::Entity)
            .join(
                JoinType::LeftJoin,
                credential::Entity,
                Condition::all().add(credential::Column::Id.eq(id.as_bytes().to_vec())),
            )
            .join(
                JoinType::LeftJoin,
                api_key::Entity,
                Expr::col((api_key::Entity, api_key::Column::Id))
                    .equals((credential::Entity, credential::Column::KeyId)),
            )
            .and_where(feed_head::Column::Id.eq(super::feed::HEAD))
            .expr_as(Expr::cust(deployment::states_of_root_secrets(self.engine())), "root_states");
        self.add_role(&mut select);
        add_columns::<feed_head::Entity>(&mut select, "f_");
        add_columns::<credential::Entity>(&mut select, "c_");
        add_columns::<api_key::Entity>(&mut select, "k_");
        select
    }

    /// `feed_head LEFT JOIN api_key`: always one row, whether or not there is such a key within `reach`.
    fn key_statement(&self, reach: &Reach, id: KeyId) -> SelectStatement {
        let mut wanted = Condition::all().add(api_key::Column::Id.eq(id.as_bytes().to_vec()));
        if let Some(merchant) = reach.merchant() {
            wanted = wanted.add(api_key::Column::MerchantUsername.eq(merchant.as_str()));
        }
        let mut select = Query::select();
        select
            .from(feed_head::Entity)
            .join(JoinType::LeftJoin, api_key::Entity, wanted)
            .and_where(feed_head::Column::Id.eq(super::feed::HEAD));
        self.add_role(&mut select);
        add_columns::<api_key::Entity>(&mut select, "k_");
        select
    }

    /// Asks which node and session answers.
    fn add_role(&self, select: &mut SelectStatement) {
        select.expr_as(Expr::cust(self.sessions.column(self.engine())).cast_as("BIGINT"), "role");
    }
}

fn add_columns<E: EntityTrait>(select: &mut SelectStatement, prefix: &str) {
    for column in E::Column::iter() {
        let alias = format!("{prefix}{}", sea_orm::IdenStatic::as_str(&column));
        select.expr_as(Expr::col((E::default(), column)), alias);
    }
}

fn by_id(reach: &Reach, id: KeyId) -> sea_orm::Select<api_key::Entity> {
    let select = api_key::Entity::find().filter(api_key::Column::Id.eq(id.as_bytes().to_vec()));
    within(select, reach)
}

/// Narrows a query to what is within `reach`.
pub(super) fn within(select: sea_orm::Select<api_key::Entity>, reach: &Reach) -> sea_orm::Select<api_key::Entity> {
    select.apply_if(reach.merchant(), |select, merchant| {
        select.filter(api_key::Column::MerchantUsername.eq(merchant.as_str()))
    })
}
