//! Names of keys, of their secrets, and of the merchants they belong to.

use std::{fmt, str::FromStr};

use super::{base62, text::quoted};

/// Names a key for ever: `key_` and 128 bits in 22 base62 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

/// Names one secret of a key; the lookup key inside a key string.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialId([u8; 16]);

impl KeyId {
    /// The id with these bits.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bits.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl FromStr for KeyId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.strip_prefix("key_")
            .filter(|digits| digits.len() == base62::WIDTH_128)
            .and_then(|digits| base62::decode(digits.as_bytes()))
            .map(Self)
            .ok_or_else(|| match text {
                "" => "is empty; name a key, `key_` and 22 characters of 0-9A-Za-z".to_owned(),
                text => format!("{} is no key id; it is `key_` and 22 characters of 0-9A-Za-z", quoted(text)),
            })
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::from("key_");
        base62::push(&mut text, &self.0, base62::WIDTH_128);
        f.write_str(&text)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl CredentialId {
    /// The id with these bits.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bits.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        base62::push(&mut text, &self.0, base62::WIDTH_128);
        f.write_str(&text)
    }
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The account that a key belongs to: 1 to 64 of `A-Za-z0-9._@-`, case-sensitive.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Merchant(String);

impl Merchant {
    /// The merchant of Claviger's own administrators.
    pub fn claviger() -> Self {
        Self("claviger".to_owned())
    }

    /// A name that was stored. It was judged when it was written; a row that was damaged since stays visible.
    pub fn as_stored(name: String) -> Self {
        Self(name)
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Merchant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "._@-".contains(c);
        if text.is_empty() || text.len() > 64 || !text.chars().all(allowed) {
            return Err(format!(
                "{} is no merchant username; it has 1 to 64 characters of A-Za-z0-9._@-",
                quoted(text)
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Merchant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_one_spelling() {
        let id = KeyId::from_bytes([7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in
            ["key_", "7aZ", "key_zzzzzzzzzzzzzzzzzzzzzz", "KEY_0000000000000000000000", "key_000000000000000000000_"]
        {
            assert!(text.parse::<KeyId>().is_err(), "{text}");
        }
        insta::assert_snapshot!("key_1".parse::<KeyId>().unwrap_err(), @"`key_1` is no key id; it is `key_` and 22 characters of 0-9A-Za-z");
    }

    #[test]
    fn merchants_are_plain_names() {
        assert!("a@b-c".parse::<Merchant>().is_ok());
        insta::assert_snapshot!("a b".parse::<Merchant>().unwrap_err(), @"`a b` is no merchant username; it has 1 to 64 characters of A-Za-z0-9._@-");
    }
}
