//! Scopes: what a key may do. Compared whole, no wildcards.

use std::{fmt, str::FromStr};

use super::text::quoted;

/// Get, List, Lookup.
pub const KEYS_READ: &str = "claviger:keys.read";
/// Create, Update, Delete, Undelete, Rotate.
pub const KEYS_WRITE: &str = "claviger:keys.write";
/// Validate.
pub const VALIDATE: &str = "claviger:validate";
/// Reading the audit log.
pub const AUDIT_READ: &str = "claviger:audit.read";
/// All of the above.
pub const ADMIN: &str = "claviger:admin";
/// Reach over the keys of every merchant.
pub const ALL_MERCHANTS: &str = "claviger:all-merchants";

/// Every reserved scope there is.
pub const RESERVED: [&str; 6] = [KEYS_READ, KEYS_WRITE, VALIDATE, AUDIT_READ, ADMIN, ALL_MERCHANTS];

/// What [`ADMIN`] stands for besides itself.
const OF_AN_ADMIN: [&str; 4] = [KEYS_READ, KEYS_WRITE, VALIDATE, AUDIT_READ];

const RESERVED_PREFIX: &str = "claviger:";

/// The most characters a scope can have.
pub const MAX_LENGTH: usize = 64;
/// The most scopes a key can have.
pub const MAX_ON_A_KEY: usize = 64;
/// The most scopes that Validate can require.
pub const MAX_REQUIRED: usize = 16;

/// A scope: 1 to 64 characters of `a-z0-9:._-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(String);

impl Scope {
    /// The scope as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the scope is one of Claviger's own.
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with(RESERVED_PREFIX)
    }

    /// One of the scopes named in this module.
    pub fn reserved(name: &'static str) -> Self {
        Self(name.to_owned())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err(format!("is empty; a scope has 1 to {MAX_LENGTH} characters of a-z0-9:._-"));
        }
        if text.len() > MAX_LENGTH {
            return Err(format!("has {} characters; a scope has at most {MAX_LENGTH}", text.chars().count()));
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ":._-".contains(c);
        if let Some(c) = text.chars().find(|c| !allowed(*c)) {
            return Err(format!(
                "{} holds {}; a scope consists of a-z0-9:._- and is compared whole",
                quoted(text),
                quoted(&c.to_string())
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads a scope that a key is to hold: as any scope, but of the reserved ones only those that exist.
///
/// # Errors
/// What is wrong and what would be right.
pub fn grantable(text: &str) -> Result<Scope, String> {
    let scope: Scope = text.parse()?;
    if scope.is_reserved() && !RESERVED.contains(&scope.as_str()) {
        return Err(format!("{} is reserved and does not exist; there are {}", quoted(text), RESERVED.join(", ")));
    }
    Ok(scope)
}

/// Whether a holder of `scopes` holds `wanted`, itself or through [`ADMIN`].
pub fn holds<'a>(scopes: impl IntoIterator<Item = &'a str>, wanted: &str) -> bool {
    let through_admin = OF_AN_ADMIN.contains(&wanted);
    scopes.into_iter().any(|scope| scope == wanted || through_admin && scope == ADMIN)
}

/// The reserved scopes among `wanted` that a holder of `scopes` does not hold.
pub fn reserved_not_held<'a>(scopes: impl Iterator<Item = &'a str>, wanted: &[Scope]) -> Vec<Scope> {
    let scopes: Vec<&str> = scopes.collect();
    let lacks = |scope: &&Scope| scope.is_reserved() && !holds(scopes.iter().copied(), scope.as_str());
    wanted.iter().filter(lacks).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scopes(names: &[&'static str]) -> Vec<Scope> {
        names.iter().map(|name| Scope::reserved(name)).collect()
    }

    #[test]
    fn an_administrator_holds_the_four_rights_but_not_the_reach() {
        let admin = [ADMIN];
        for name in [KEYS_READ, KEYS_WRITE, VALIDATE, AUDIT_READ, ADMIN] {
            assert!(holds(admin, name), "{name}");
        }
        assert!(!holds(admin, ALL_MERCHANTS));
    }

    #[test]
    fn the_four_rights_do_not_make_an_administrator() {
        let four = OF_AN_ADMIN.into_iter();
        assert_eq!(reserved_not_held(four, &scopes(&[ADMIN, KEYS_READ])), scopes(&[ADMIN]));
    }

    #[test]
    fn a_reserved_scope_that_does_not_exist_cannot_be_granted() {
        insta::assert_snapshot!(grantable("claviger:root").unwrap_err(), @"`claviger:root` is reserved and does not exist; there are claviger:keys.read, claviger:keys.write, claviger:validate, claviger:audit.read, claviger:admin, claviger:all-merchants");
    }

    #[test]
    fn scopes_are_short_and_lower_case() {
        assert!("payments:charge.create".parse::<Scope>().is_ok());
        insta::assert_snapshot!("".parse::<Scope>().unwrap_err(), @"is empty; a scope has 1 to 64 characters of a-z0-9:._-");
        insta::assert_snapshot!("pay*".parse::<Scope>().unwrap_err(), @"`pay*` holds `*`; a scope consists of a-z0-9:._- and is compared whole");
        insta::assert_snapshot!("x".repeat(65).parse::<Scope>().unwrap_err(), @"has 65 characters; a scope has at most 64");
    }
}
