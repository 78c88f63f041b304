//! The rule that somebody who can administer all merchants is always left.

use crate::{
    domain::{
        ApiKey, Result, State, Time,
        error::Precondition,
        ip_rules::{CallerIp, IpVerdict},
    },
    store::Tx,
};

/// Tells who is a usable administrator, from where the caller is and now.
pub(super) struct Judge {
    pub(super) peer: CallerIp,
    pub(super) now: Time,
}

impl Judge {
    /// Requires that the change from `before` to `after`, made in `tx`, does not take the last usable administrator away.
    pub(super) async fn require_one_left(&self, tx: &Tx, before: Option<&ApiKey>, after: &ApiKey) -> Result<()> {
        let loses_one = before.is_some_and(|before| self.is_usable(before)) && !self.is_usable(after);
        if !loses_one {
            return Ok(());
        }
        // Read in the transaction, so the key in question is seen as the change leaves it.
        let others = tx.api_key_list_full_administrators().await?;
        if others.iter().any(|key| self.is_usable(key)) { Ok(()) } else { Err(Precondition::LastAdministrator.into()) }
    }

    /// Active, without end, with both scopes, and not shut out by its address rules.
    fn is_usable(&self, key: &ApiKey) -> bool {
        let let_in =
            key.terms.as_ref().is_ok_and(|terms| terms.ip_rules.judge(Some(self.peer)) == IpVerdict::Permitted);
        key.is_full_administrator() && key.state(self.now) == State::Active && key.expire_time.is_none() && let_in
    }
}
