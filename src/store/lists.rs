//! Pages of keys, newest first, by keyset: what is alive throughout is seen exactly once.

use sea_orm::{
    ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, QueryTrait, sea_query::SimpleExpr,
};

use super::{Store, api_keys::within, conversion::key_from_row, rows::api_key};
use crate::domain::{ApiKey, KeyId, Reach, Result, State, Time};

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
        self.bounded(select.all(&self.reader)).await?.into_iter().map(key_from_row).collect()
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
