//! The decision: whether a key whose secret was proved opens the door.

use std::sync::Arc;

use super::{
    CredentialId, KeyId, Scope, State, Time,
    api_key::CredentialState,
    error::Poisoned,
    ip_rules::{CallerIp, IpVerdict},
    pass::Pass,
};

/// The answer to Validate.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Let the client in.
    Valid(Principal),
    /// Do not.
    Refused(Refusal),
}

/// Why a key does not open the door, in the order in which the reasons are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a key string of this deployment.
    Malformed,
    /// No such credential, or its secret does not match, or the key is beyond the caller's reach.
    NotFound,
    /// The secret was proved; this was found after it.
    Proved(KeyId, Finding),
}

/// What was found about a key whose secret was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Deleted.
    Deleted,
    /// The secret shown was replaced.
    SecretRetired,
    /// Disabled.
    Disabled,
    /// Before its time.
    NotYetValid,
    /// After its time.
    Expired,
    /// It has address rules and no address was told.
    CallerIpRequired,
    /// Its address rules do not let the address in.
    IpNotAllowed,
    /// It lacks these required scopes.
    ScopeNotGranted(Vec<Scope>),
}

/// Whose key it is and what it may do.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The key: what is told of it is read from here.
    pub pass: Arc<Pass>,
    /// When the secret that was shown ends, if it is being retired.
    pub secret_expire_time: Option<Time>,
}

/// Decides whether `key`, proved by the secret `shown`, opens the door at `now` from `ip` for `required`.
///
/// # Errors
/// [`Poisoned`] if the terms of the key cannot be read and nothing before them refused it.
pub fn decide(
    key: Arc<Pass>,
    shown: CredentialId,
    ip: Option<CallerIp>,
    required: &[Scope],
    now: Time,
) -> Result<Decision, Poisoned> {
    Ok(match judge(&key, shown, ip, required, now)? {
        Ok(secret_expire_time) => Decision::Valid(Principal { pass: key, secret_expire_time }),
        Err(finding) => Decision::Refused(Refusal::Proved(key.id(), finding)),
    })
}

/// The same without an answer to keep: what speaks against it first, or else when the secret ends, if it is being
/// replaced.
///
/// # Errors
/// As [`decide`].
pub fn judge(
    key: &Pass,
    shown: CredentialId,
    ip: Option<CallerIp>,
    required: &[Scope],
    now: Time,
) -> Result<Result<Option<Time>, Finding>, Poisoned> {
    let state = key.state(now);
    if state == State::Deleted {
        return Ok(Err(Finding::Deleted));
    }
    let secret_expire_time = match key.credential_state(shown, now) {
        CredentialState::Current => None,
        CredentialState::Retiring(end) => Some(end),
        CredentialState::Retired => {
            // If it cannot be read which secret is the current one, nobody knows that this one is retired.
            key.require_readable()?;
            return Ok(Err(Finding::SecretRetired));
        }
    };
    match state {
        State::Deleted | State::Active => {}
        State::Disabled => return Ok(Err(Finding::Disabled)),
        State::NotYetValid => return Ok(Err(Finding::NotYetValid)),
        State::Expired => return Ok(Err(Finding::Expired)),
    }
    key.require_readable()?;
    match key.judge_ip(ip) {
        IpVerdict::Permitted => {}
        IpVerdict::AddressRequired => return Ok(Err(Finding::CallerIpRequired)),
        IpVerdict::NotAllowed => return Ok(Err(Finding::IpNotAllowed)),
    }
    let is_missing = |scope: &&Scope| !key.scopes().any(|held| held == scope.as_str());
    let missing: Vec<Scope> = required.iter().filter(is_missing).cloned().collect();
    Ok(if missing.is_empty() { Ok(secret_expire_time) } else { Err(Finding::ScopeNotGranted(missing)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        ApiKey, DeleteReason,
        api_key::{Deletion, Retiring, Terms, tests::example},
        ip_rules::IpRules,
    };

    const NOW: Time = Time::MIN;

    fn finding(key: &ApiKey, shown: CredentialId, ip: Option<&str>, required: &[&str]) -> Option<Finding> {
        let required: Vec<Scope> = required.iter().map(|text| text.parse().unwrap()).collect();
        match decide(Arc::new(Pass::of(key)), shown, ip.map(|ip| ip.parse().unwrap()), &required, NOW).unwrap() {
            Decision::Valid(_) => None,
            Decision::Refused(Refusal::Proved(_, finding)) => Some(finding),
            Decision::Refused(other) => panic!("{other:?} is not for this function to find"),
        }
    }

    /// Everything is wrong at first; what is found first is mended, and the next is found.
    #[test]
    fn reasons_are_found_in_the_documented_order() {
        let old = CredentialId::from_bytes([9; 16]);
        let mut key = ApiKey {
            deletion: Some(Deletion { delete_time: NOW, purge_time: NOW, reason: DeleteReason::Unspecified }),
            disabled: true,
            not_before_time: Some(Time::MAX),
            expire_time: Some(NOW),
            terms: Ok(Terms {
                ip_rules: IpRules { allowed: vec!["192.0.2.0/24".parse().unwrap()], denied: vec![] },
                ..Terms::default()
            }),
            ..example()
        };
        assert_eq!(finding(&key, old, None, &["a"]), Some(Finding::Deleted));
        key.deletion = None;
        assert_eq!(finding(&key, old, None, &["a"]), Some(Finding::SecretRetired));
        key.retiring = Some(Retiring { credential_id: old, expire_time: Time::MAX });
        assert_eq!(finding(&key, old, None, &["a"]), Some(Finding::Disabled));
        key.disabled = false;
        assert_eq!(finding(&key, old, None, &["a"]), Some(Finding::NotYetValid));
        key.not_before_time = None;
        assert_eq!(finding(&key, old, None, &["a"]), Some(Finding::Expired));
        key.expire_time = None;
        assert_eq!(finding(&key, old, None, &["a"]), Some(Finding::CallerIpRequired));
        assert_eq!(finding(&key, old, Some("198.51.100.1"), &["a"]), Some(Finding::IpNotAllowed));
        let missing = vec!["a".parse().unwrap()];
        assert_eq!(finding(&key, old, Some("192.0.2.1"), &["a"]), Some(Finding::ScopeNotGranted(missing)));
        assert_eq!(finding(&key, old, Some("192.0.2.1"), &[]), None);
    }

    #[test]
    fn an_overlap_ends_at_its_moment() {
        let old = CredentialId::from_bytes([9; 16]);
        let key = ApiKey { retiring: Some(Retiring { credential_id: old, expire_time: NOW }), ..example() };
        assert_eq!(finding(&key, old, None, &[]), Some(Finding::SecretRetired));
    }

    #[test]
    fn an_administrator_s_scope_stands_for_others_only_inside_claviger() {
        let terms = Terms { scopes: vec!["claviger:admin".parse().unwrap()], ..Terms::default() };
        let key = ApiKey { terms: Ok(terms), ..example() };
        assert!(matches!(finding(&key, key.current, None, &["claviger:validate"]), Some(Finding::ScopeNotGranted(_))));
    }

    #[test]
    fn case_40_unreadable_terms_are_no_decision_but_a_deleted_key_is() {
        let poisoned = Poisoned { key_id: example().id, what: "scopes" };
        let mut key = ApiKey { terms: Err(poisoned), ..example() };
        assert_eq!(decide(Arc::new(Pass::of(&key)), key.current, None, &[], NOW).err(), Some(poisoned));
        key.deletion = Some(Deletion { delete_time: NOW, purge_time: NOW, reason: DeleteReason::Unspecified });
        assert_eq!(finding(&key, key.current, None, &[]), Some(Finding::Deleted));
    }
}
