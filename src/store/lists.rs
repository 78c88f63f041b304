//! Pages of keys, newest first, by keyset: what is alive throughout is seen exactly once.

use sea_orm::{
    ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait,
    sea_query::{CaseStatement, Expr, ExprTrait, SimpleExpr},
};

use super::{Store, api_keys::within, conversion::key_from_row, rows::api_key};
use crate::domain::{ApiKey, Error, KeyId, Reach, Result, State, Time};

/// Which keys a list shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListFilter {
    /// Only those in one of these states; empty: any.
    pub states: Vec<State>,
    /// Deleted ones, too.
    pub show_deleted: bool,
}

/// Where a page ended: after this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Its creation.
    pub create_time: Time,
    /// Its id, for keys made in the same microsecond.
    pub id: KeyId,
}

impl Store {
    /// The next `most` keys after `position` that are within `reach` and pass `filter` at `now`.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn api_key_list(
        &self,
        reach: &Reach,
        filter: &ListFilter,
        position: Option<Position>,
        now: Time,
        most: u64,
    ) -> Result<Vec<ApiKey>> {
        let mut select = within(api_key::Entity::find(), reach)
            .apply_if(position, |select, position| select.filter(after(position)))
            .order_by_desc(api_key::Column::CreateTime)
            .order_by_desc(api_key::Column::Id)
            .limit(most);
        if !filter.show_deleted {
            select = select.filter(api_key::Column::DeleteTime.is_null());
        }
        if !filter.states.is_empty() {
            let states = filter.states.iter().fold(Condition::any(), |any, state| any.add(is_in(*state, now)));
            select = select.filter(states);
        }
        self.bounded("api_key_list", select.all(&self.lister)).await?.into_iter().map(key_from_row).collect()
    }
}

impl Store {
    /// How many keys there are of each state at `now`, in the order of [`State::ALL`], whosever they are. It reads the
    /// whole table.
    ///
    /// # Errors
    /// `Unavailable` or `Fault`.
    pub async fn api_key_count_by_state(&self, now: Time) -> Result<[u64; State::ALL.len()]> {
        let mut select = api_key::Entity::find().select_only();
        for state in State::ALL {
            let one_if = CaseStatement::new().case(is_in(state, now), 1);
            select = select.column_as(Expr::expr(one_if).count(), state.name());
        }
        let counts = select.into_tuple::<(i64, i64, i64, i64, i64)>().one(&self.lister);
        let counts = self.bounded("api_key_count_by_state", counts).await?;
        let (deleted, disabled, early, late, active) = counts.ok_or_else(|| Error::fault("a count without a row"))?;
        Ok([deleted, disabled, early, late, active].map(i64::unsigned_abs))
    }
}

fn after(position: Position) -> Condition {
    let time = position.create_time.micros();
    // The first condition alone says less than the second, but it is what an index can begin at.
    Condition::all().add(api_key::Column::CreateTime.lte(time)).add(
        Condition::any()
            .add(api_key::Column::CreateTime.lt(time))
            .add(api_key::Column::Id.lt(position.id.as_bytes().to_vec())),
    )
}

/// [`ApiKey::state`] in SQL.
fn is_in(state: State, now: Time) -> Condition {
    let now = now.micros();
    let deleted = || -> SimpleExpr { api_key::Column::DeleteTime.is_not_null() };
    let disabled = || -> SimpleExpr { api_key::Column::Disabled.eq(true) };
    let early = || {
        Condition::all().add(api_key::Column::NotBeforeTime.is_not_null()).add(api_key::Column::NotBeforeTime.gt(now))
    };
    let late =
        || Condition::all().add(api_key::Column::ExpireTime.is_not_null()).add(api_key::Column::ExpireTime.lte(now));
    let alive = || Condition::all().add(api_key::Column::DeleteTime.is_null());
    let enabled = || alive().add(api_key::Column::Disabled.eq(false));
    match state {
        State::Deleted => Condition::all().add(deleted()),
        State::Disabled => alive().add(disabled()),
        State::NotYetValid => enabled().add(early()),
        State::Expired => enabled().add(early().not()).add(late()),
        State::Active => enabled().add(early().not()).add(late().not()),
    }
}
