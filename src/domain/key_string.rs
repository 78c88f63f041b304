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
    key_ring::{Found, KeyRing},
    root_secret::{Key, RootId, RootSecret},
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

/// What a process remembers of a key string in place of its secret: the 192 bits of the MAC that follow those of the tag.
///
/// It is of every character before the tag, under a key that only this deployment has: other bytes have another one, also
/// those of somebody who stole the root secret and can make tags.
#[derive(Clone, Copy)]
pub struct Digest([u64; 3]);

impl Digest {
    /// The digest of these bits.
    pub const fn from_words(words: [u64; 3]) -> Self {
        Self(words)
    }

    /// Its bits.
    pub fn words(&self) -> [u64; 3] {
        self.0
    }

    /// Whether both are of the same bytes; takes equally long whatever they are.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

/// A text whose tag was checked, before its secret is looked at.
pub struct Tagged<'a> {
    unproved: Unproved<'a>,
    digest: Digest,
}

/// What the tag of a key string says.
pub enum Proof<'a> {
    /// This deployment made it, or somebody who knows its root secret.
    Ours(Tagged<'a>),
    /// Nobody here made it.
    Forged,
    /// It may be ours; the root secret that could tell is in use but not mounted here.
    RootNotMounted(RootId),
    /// It may be ours if the deployment has learned of a root secret that this process does not know yet.
    RootUnknown(RootId),
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
        if !separated || !base62::are_digits(tail) {
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

    /// Bytes that suffice to know a key string by: the longest prefix, the credential id, and one character more.
    pub const LONGEST_TRACE: usize = 20 + 1 + base62::WIDTH_128 + 1 + 1;

    /// Whether a text holds a key string anywhere, of this deployment or of one that looks the same: whole, or cut
    /// anywhere after its public part. The public part alone is not one.
    pub fn occurs_in(&self, text: impl AsRef<[u8]>) -> bool {
        self.accepted.iter().any(|prefix| {
            let trace = prefix.0.len() + 1 + base62::WIDTH_128 + 1 + 1;
            text.as_ref().windows(trace).any(|candidate| {
                candidate.strip_prefix(prefix.0.as_bytes()).is_some_and(|rest| {
                    let (id, end) = rest[1..].split_at(base62::WIDTH_128);
                    rest[0] == b'_' && end[0] == b'_' && base62::are_digits(id) && base62::are_digits(&end[1..])
                })
            })
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

impl<'a> Unproved<'a> {
    /// Looks at the tag.
    pub fn prove(self, ring: &KeyRing) -> Proof<'a> {
        let root = match ring.find(self.root) {
            Found::Mounted(root) => root,
            Found::NotMounted => return Proof::RootNotMounted(self.root),
            Found::Removed => return Proof::Forged,
            Found::Unknown => return Proof::RootUnknown(self.root),
        };
        let bytes = self.text.as_bytes();
        let tag_at = bytes.len() - base62::WIDTH_32 - base62::WIDTH_64;
        let (tag, digest) = authenticate(root, &bytes[..tag_at]);
        match base62::decode::<8>(&bytes[tag_at..tag_at + base62::WIDTH_64]) {
            Some(shown) if u64::from_be_bytes(shown).ct_eq(&tag).into() => {
                Proof::Ours(Tagged { unproved: self, digest })
            }
            _ => Proof::Forged,
        }
    }
}

impl Tagged<'_> {
    /// Its lookup key.
    pub fn credential_id(&self) -> CredentialId {
        self.unproved.credential_id
    }

    /// The root secret its tag was made under.
    pub fn root(&self) -> RootId {
        self.unproved.root
    }

    /// By which it is remembered.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The key string itself; none if its secret is spelled as no secret is.
    pub fn key_string(&self) -> Option<KeyString> {
        let Unproved { text, prefix_length, credential_id, root } = self.unproved;
        let tag_at = text.len() - base62::WIDTH_32 - base62::WIDTH_64;
        let secret = &text.as_bytes()[tag_at - base62::WIDTH_256..tag_at];
        let secret = base62::decode::<32>(secret).map(Zeroizing::new)?;
        Some(KeyString { text: Zeroizing::new(text.to_owned()), prefix_length, credential_id, root, secret })
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
        let (tag, _) = authenticate(root, text.as_bytes());
        base62::push(&mut text, &tag.to_be_bytes(), base62::WIDTH_64);
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

/// HMAC-SHA-256 over everything before the tag: its first 64 bits are the tag, the others the digest. One run makes both,
/// and it is the dearest part of a decision (115 ns).
fn authenticate(root: &RootSecret, text: &[u8]) -> (u64, Digest) {
    let mut mac = root.tag().clone();
    mac.update(text);
    let mut full = mac.finalize().into_bytes();
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(full.chunks_exact(8)) {
        *word = bytes.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    }
    full.zeroize();
    let [tag, digest @ ..] = words;
    (tag, Digest(digest))
}

impl fmt::Debug for KeyString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyString({}…)", public_part(self.prefix(), self.credential_id))
    }
}
