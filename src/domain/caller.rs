//! Who calls Claviger, and what that caller may do.
//!
//! A right is asked for with `require_…`, which answers with a [`Reach`]: the proof that the right was judged, without
//! which no query of the store can be made.

use std::sync::Arc;

use super::{
    ApiKey, CredentialId, KeyId, Merchant, Scope,
    error::{Denial, Error, Result},
    ip_rules::CallerIp,
    pass::Pass,
    scope,
};

/// A caller whose key was judged good. Its rights are those of the moment it was judged.
#[derive(Clone, Debug)]
pub struct Caller {
    pass: Arc<Pass>,
    credential_id: CredentialId,
    peer: CallerIp,
}

/// Which merchants' keys may be touched: what a judged right is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reach(Option<Merchant>);

impl Reach {
    /// Claviger's own reach, for upkeep and for making the first administrator.
    pub fn everything() -> Self {
        Self(None)
    }

    /// Whether the keys of `merchant` are within.
    pub fn covers(&self, merchant: &Merchant) -> bool {
        self.covers_name(merchant.as_str())
    }

    /// Whether the keys of the merchant of this name are within.
    pub fn covers_name(&self, merchant: &str) -> bool {
        self.0.as_ref().is_none_or(|own| own.as_str() == merchant)
    }

    /// The one merchant it is limited to, if it is.
    pub fn merchant(&self) -> Option<&Merchant> {
        self.0.as_ref()
    }

    /// The part of this reach that lies within `merchant`.
    ///
    /// # Errors
    /// [`Denial::MerchantOutOfReach`] if there is none.
    pub fn narrowed_to(&self, merchant: &Merchant) -> Result<Self> {
        if self.covers(merchant) { Ok(Self(Some(merchant.clone()))) } else { Err(Denial::MerchantOutOfReach.into()) }
    }
}

impl Caller {
    /// The caller who showed the credential `credential_id` of a key over a connection from `peer`.
    ///
    /// Whoever calls this has judged the key by `decision::decide`.
    ///
    /// # Errors
    /// If the scopes of the key cannot be read.
    pub fn new(pass: &Arc<Pass>, credential_id: CredentialId, peer: CallerIp) -> Result<Self> {
        pass.require_readable()?;
        Ok(Self { pass: Arc::clone(pass), credential_id, peer })
    }

    /// What is known of the key it called with.
    pub fn pass(&self) -> &Arc<Pass> {
        &self.pass
    }

    /// The key it called with.
    pub fn key_id(&self) -> KeyId {
        self.pass.id()
    }

    /// The very secret it called with.
    pub fn credential_id(&self) -> CredentialId {
        self.credential_id
    }

    /// The merchant it belongs to.
    pub fn merchant(&self) -> Merchant {
        self.pass.owner()
    }

    /// Whether it reaches the keys of all merchants.
    pub fn reaches_all(&self) -> bool {
        self.reach().merchant().is_none()
    }

    /// The address it called from.
    pub fn peer(&self) -> CallerIp {
        self.peer
    }

    /// Requires one of Claviger's scopes.
    ///
    /// # Errors
    /// [`Denial::ScopeMissing`].
    pub fn require(&self, scope: &'static str) -> Result<Reach> {
        if scope::holds(self.pass.scopes(), scope) { Ok(self.reach()) } else { Err(Denial::ScopeMissing(scope).into()) }
    }

    /// Requires a scope, but for the key that the caller called with none.
    ///
    /// # Errors
    /// [`Denial::ScopeMissing`].
    pub fn require_unless_own(&self, scope: &'static str, key_id: KeyId) -> Result<Reach> {
        if key_id == self.pass.id() { Ok(Reach(Some(self.merchant()))) } else { self.require(scope) }
    }

    /// Requires every reserved scope among `scopes`: to grant them, or to change a key that holds them.
    ///
    /// # Errors
    /// [`Denial::ReservedScopesNotHeld`].
    pub fn require_held(&self, scopes: &[Scope]) -> Result<()> {
        let missing = scope::reserved_not_held(self.pass.scopes(), scopes);
        if missing.is_empty() { Ok(()) } else { Err(Denial::ReservedScopesNotHeld(missing).into()) }
    }

    /// Requires the right to change `key`: every reserved scope it holds. Scopes that cannot be read could be any, so
    /// such a key needs them all.
    ///
    /// # Errors
    /// [`Denial::ReservedScopesNotHeld`].
    pub fn require_change_of(&self, key: &ApiKey) -> Result<()> {
        match &key.terms {
            Ok(terms) => self.require_held(&terms.scopes),
            Err(_) => self.require_held(&[Scope::reserved(scope::ADMIN), Scope::reserved(scope::ALL_MERCHANTS)]),
        }
    }

    fn reach(&self) -> Reach {
        let all = self.pass.scopes().any(|scope| scope == scope::ALL_MERCHANTS);
        Reach((!all).then(|| self.merchant()))
    }
}

/// The reach over `merchant`'s keys that a guard beside an id leaves: a key of another merchant is not found.
///
/// # Errors
/// [`Error::NotFound`] if the guard names a merchant out of reach.
pub fn guarded(reach: Reach, guard: Option<&Merchant>) -> Result<Reach> {
    match guard {
        None => Ok(reach),
        Some(merchant) => reach.narrowed_to(merchant).map_err(|_| Error::NotFound),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::api_key::{Terms, tests::example};

    fn caller(scopes: &[&'static str]) -> Caller {
        let terms = Terms { scopes: scopes.iter().map(|name| Scope::reserved(name)).collect(), ..Terms::default() };
        let key = ApiKey { terms: Ok(terms), ..example() };
        Caller::new(&Arc::new(Pass::of(&key)), key.current, "127.0.0.1".parse().unwrap()).unwrap()
    }

    #[test]
    fn without_all_merchants_a_caller_reaches_its_own_merchant_only() {
        let other = "other".parse().unwrap();
        let reach = caller(&[scope::ADMIN]).require(scope::KEYS_READ).unwrap();
        assert!(reach.covers(&"acme".parse().unwrap()) && !reach.covers(&other));
        assert!(matches!(reach.narrowed_to(&other), Err(Error::Denied(Denial::MerchantOutOfReach))));
        let reach = caller(&[scope::KEYS_READ, scope::ALL_MERCHANTS]).require(scope::KEYS_READ).unwrap();
        assert!(reach.covers(&other));
    }

    #[test]
    fn one_s_own_key_needs_no_scope_but_reaches_no_further() {
        let caller = caller(&[]);
        assert!(caller.require(scope::KEYS_READ).is_err());
        assert!(caller.require_unless_own(scope::KEYS_READ, KeyId::from_bytes([9; 16])).is_err());
        let reach = caller.require_unless_own(scope::KEYS_READ, caller.key_id()).unwrap();
        assert_eq!(reach.merchant(), Some(&caller.merchant()));
    }

    #[test]
    fn a_key_with_unreadable_scopes_can_be_changed_by_full_administrators_only() {
        let poisoned = crate::domain::error::Poisoned { key_id: KeyId::from_bytes([1; 16]), what: "scopes" };
        let key = ApiKey { terms: Err(poisoned), ..example() };
        assert!(caller(&[scope::ADMIN]).require_change_of(&key).is_err());
        assert!(caller(&[scope::ADMIN, scope::ALL_MERCHANTS]).require_change_of(&key).is_ok());
    }
}
