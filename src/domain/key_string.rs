//! The key string: what a holder holds and sends.
//!
//! `<prefix>_<credential id>_<k><secret><tag><checksum>`, with the default prefix 88 characters. The README describes
//! each part and gives test vectors. Only the canonical form parses; nothing is trimmed, folded or normalised.
//!
//! Parsing goes in two steps, each cheaper than the next: [`KeyFormat::parse`] looks at the characters and the
//! checksum, [`Unproved::prove`] at the tag, which only this deployment can make.

use std::{fmt, str::FromStr};

use hmac::Mac;
use rand::TryCryptoRng;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::{
    CredentialId, base62,
    root_secret::{Found, Key, KeyRing, RootId, RootSecret},
    text::quoted,
};

#[cfg(test)]
mod tests;

/// Longer texts are refused unread, in bytes.
pub const MAX_LENGTH: usize = 128;

/// Characters after the last underscore: k, secret, tag, checksum.
const TAIL: usize = 1 + base62::WIDTH_256 + base62::WIDTH_64 + base62::WIDTH_32;
/// Characters after the prefix.
const AFTER_PREFIX: usize = 1 + base62::WIDTH_128 + 1 + TAIL;

/// The first part of a key string: 1 to 20 lower-case letters, digits and inner underscores.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prefix(String);

impl Prefix {
    /// The prefix as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Prefix {
    /// The prefix of a deployment that chose none: `clv`.
    fn default() -> Self {
        Self("clv".to_owned())
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let characters = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if text.is_empty() || text.len() > 20 || !characters || text.starts_with('_') || text.ends_with('_') {
            return Err(format!(
                "{} is no key prefix; it has 1 to 20 lower-case letters, digits and inner underscores, such as acme_live",
                quoted(text)
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Which key strings this deployment makes and accepts.
#[derive(Clone, Debug)]
pub struct KeyFormat {
    prefix: Prefix,
    accepted: Vec<Prefix>,
}

/// A text that is not a key string of this deployment. It does not say why: that would help only a forger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A text of the right form with the right checksum; who made it is not known yet.
#[derive(Clone, Copy)]
pub struct Unproved<'a> {
    text: &'a str,
    prefix_length: usize,
    credential_id: CredentialId,
    root: RootId,
}

/// A key string whose tag was checked: this deployment made it.
pub struct KeyString {
    text: Zeroizing<String>,
    prefix_length: usize,
    credential_id: CredentialId,
    root: RootId,
    secret: Key,
}

/// What the tag of a key string says.
pub enum Proof {
    /// This deployment made it.
    Ours(KeyString),
    /// Nobody here made it.
    Forged,
    /// It may be ours; the root secret that could tell is in use but not mounted here.
    RootNotMounted(RootId),
}

impl KeyFormat {
    /// New key strings begin with `prefix`; those with one of `older` are accepted as well.
    pub fn new(prefix: Prefix, older: Vec<Prefix>) -> Self {
        let mut accepted = vec![prefix.clone()];
        accepted.extend(older);
        Self { prefix, accepted }
    }

    /// Looks at the form and the checksum of `text`.
    ///
    /// # Errors
    /// [`Malformed`] if it is not a key string, whoever made it.
    pub fn parse<'a>(&self, text: &'a str) -> Result<Unproved<'a>, Malformed> {
        if text.len() > MAX_LENGTH || !text.is_ascii() {
            return Err(Malformed);
        }
        let prefix_length = text.len().checked_sub(AFTER_PREFIX).ok_or(Malformed)?;
        let (prefix, rest) = text.split_at(prefix_length);
        if !self.accepted.iter().any(|accepted| accepted.0 == prefix) {
            return Err(Malformed);
        }
        let rest = rest.as_bytes();
        let (id, tail) = (&rest[1..=base62::WIDTH_128], &rest[AFTER_PREFIX - TAIL..]);
        let separated = rest[0] == b'_' && rest[1 + base62::WIDTH_128] == b'_';
        if !separated || !tail.iter().copied().all(base62::is_digit) {
            return Err(Malformed);
        }
        let checksum_at = text.len() - base62::WIDTH_32;
        let checksum = base62::decode::<4>(&text.as_bytes()[checksum_at..]).ok_or(Malformed)?;
        if u32::from_be_bytes(checksum) != crc32fast::hash(&text.as_bytes()[..checksum_at]) {
            return Err(Malformed);
        }
        let credential_id = CredentialId::from_bytes(base62::decode(id).ok_or(Malformed)?);
        let root = RootId::new(char::from(tail[0])).ok_or(Malformed)?;
        Ok(Unproved { text, prefix_length, credential_id, root })
    }

    /// Whether a text holds a key string anywhere, of this deployment or of one that looks the same.
    pub fn occurs_in(&self, text: &str) -> bool {
        self.accepted.iter().any(|prefix| {
            text.as_bytes()
                .windows(prefix.0.len() + AFTER_PREFIX)
                .filter(|candidate| candidate.starts_with(prefix.0.as_bytes()))
                .any(|candidate| str::from_utf8(candidate).is_ok_and(|candidate| self.parse(candidate).is_ok()))
        })
    }

    /// Makes a key string with a fresh credential id and secret.
    ///
    /// # Errors
    /// Those of the random generator.
    pub fn mint<R: TryCryptoRng>(&self, root: &RootSecret, random: &mut R) -> Result<KeyString, R::Error> {
        let mut id = [0; 16];
        random.try_fill_bytes(&mut id)?;
        let mut secret = Key::default();
        random.try_fill_bytes(secret.as_mut())?;
        Ok(KeyString::render(&self.prefix, CredentialId::from_bytes(id), root, secret))
    }
}

impl Unproved<'_> {
    /// Looks at the tag.
    pub fn prove(&self, ring: &KeyRing) -> Proof {
        let root = match ring.find(self.root) {
            Found::Mounted(root) => root,
            Found::NotMounted => return Proof::RootNotMounted(self.root),
            Found::Unknown => return Proof::Forged,
        };
        let bytes = self.text.as_bytes();
        let tag_at = bytes.len() - base62::WIDTH_32 - base62::WIDTH_64;
        let secret_at = tag_at - base62::WIDTH_256;
        let tag = base62::decode::<8>(&bytes[tag_at..tag_at + base62::WIDTH_64]);
        let ours = tag.is_some_and(|tag| tag.ct_eq(&make_tag(root, &bytes[..tag_at])).into());
        let secret = base62::decode::<32>(&bytes[secret_at..tag_at]).map(Zeroizing::new);
        match secret {
            Some(secret) if ours => Proof::Ours(KeyString {
                text: Zeroizing::new(self.text.to_owned()),
                prefix_length: self.prefix_length,
                credential_id: self.credential_id,
                root: self.root,
                secret,
            }),
            _ => Proof::Forged,
        }
    }
}

impl KeyString {
    fn render(prefix: &Prefix, credential_id: CredentialId, root: &RootSecret, secret: Key) -> Self {
        let mut text = Zeroizing::new(String::with_capacity(MAX_LENGTH));
        text.push_str(prefix.as_str());
        text.push('_');
        base62::push(&mut text, credential_id.as_bytes(), base62::WIDTH_128);
        text.push('_');
        text.push(root.id().as_char());
        base62::push(&mut text, secret.as_ref(), base62::WIDTH_256);
        let tag = make_tag(root, text.as_bytes());
        base62::push(&mut text, &tag, base62::WIDTH_64);
        let checksum = crc32fast::hash(text.as_bytes());
        base62::push(&mut text, &checksum.to_be_bytes(), base62::WIDTH_32);
        Self { text, prefix_length: prefix.0.len(), credential_id, root: root.id(), secret }
    }

    /// The whole text, secret and all. For the answer that shows it once, and for sealing.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// The prefix it was made with.
    pub fn prefix(&self) -> &str {
        &self.text[..self.prefix_length]
    }

    /// Its lookup key.
    pub fn credential_id(&self) -> CredentialId {
        self.credential_id
    }

    /// The root secret its tag was made under.
    pub fn root(&self) -> RootId {
        self.root
    }

    /// The 256 secret bits.
    pub(super) fn secret(&self) -> &[u8; 32] {
        &self.secret
    }
}

/// The part of a key string that may be shown: `<prefix>_<credential id>`.
pub fn public_part(prefix: &str, credential_id: CredentialId) -> String {
    format!("{prefix}_{credential_id}")
}

/// The first 64 bits of HMAC-SHA-256 over everything before the tag.
fn make_tag(root: &RootSecret, text: &[u8]) -> [u8; 8] {
    let mut mac = root.tag().clone();
    mac.update(text);
    let mut full = mac.finalize().into_bytes();
    let mut tag = [0; 8];
    tag.copy_from_slice(&full[..8]);
    full.zeroize();
    tag
}

impl fmt::Debug for KeyString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyString({}…)", public_part(self.prefix(), self.credential_id))
    }
}
