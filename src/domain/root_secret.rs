//! Root secrets: the 256 bits from which everything secret about a deployment is derived.
//!
//! From each root secret HKDF-SHA-256 (RFC 5869) derives a key for tags, a pepper for hashes, a key for page tokens,
//! a key for sealing and a fingerprint, each under its own label. The root secret itself is forgotten at once.

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::request_id::RequestId;

/// 32 secret bytes, wiped when dropped.
pub type Key = Zeroizing<[u8; 32]>;

/// The name of a root secret: one base62 character, which every key string carries as its `k`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootId(u8);

impl RootId {
    /// The root secret named by `c`; none if that is no base62 character.
    pub fn new(c: char) -> Option<Self> {
        u8::try_from(c).ok().filter(u8::is_ascii_alphanumeric).map(Self)
    }

    /// The name.
    pub fn as_char(self) -> char {
        char::from(self.0)
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_char().fmt(f)
    }
}

impl fmt::Debug for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootId({self})")
    }
}

/// What was derived from one root secret.
pub struct RootSecret {
    id: RootId,
    fingerprint: [u8; 16],
    tag: Hmac<Sha256>,
    pepper: Key,
    page_token: Key,
    sealing: Key,
}

impl RootSecret {
    /// Derives everything from the root secret `bytes` named `id`.
    pub fn derive(id: RootId, bytes: &[u8; 32]) -> Self {
        let hkdf = Hkdf::<Sha256>::new(None, bytes);
        let key = |label: &str| {
            let mut out = Key::default();
            // Expansion fails only for outputs of more than 8,160 bytes.
            let expanded = hkdf.expand(format!("claviger.v1 {label}").as_bytes(), out.as_mut());
            debug_assert!(expanded.is_ok());
            out
        };
        let mut fingerprint = [0; 16];
        fingerprint.copy_from_slice(&key("fingerprint")[..16]);
        Self {
            id,
            fingerprint,
            tag: hmac(&key("tag")),
            pepper: key("pepper"),
            page_token: key("page token"),
            sealing: key("sealing"),
        }
    }

    /// Reads the content of a root secret's file: 64 hexadecimal digits, perhaps followed by a line end.
    ///
    /// # Errors
    /// What is wrong with it; never what it says.
    pub fn parse(id: RootId, text: &str) -> Result<Self, String> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        let mut bytes = Key::default();
        if text.len() != 64 {
            return Err(format!("has {} characters; a root secret is 64 hexadecimal digits", text.len()));
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else {
                return Err("holds other characters than hexadecimal digits; a root secret is 64 of them".to_owned());
            };
            *byte = high << 4 | low;
        }
        if bytes.iter().all(|byte| *byte == bytes[0]) {
            return Err("is one digit pair over and over; make one with `openssl rand -hex 32`".to_owned());
        }
        Ok(Self::derive(id, &bytes))
    }

    /// Its name.
    pub fn id(&self) -> RootId {
        self.id
    }

    /// Tells root secrets apart without telling what they are.
    pub fn fingerprint(&self) -> &[u8; 16] {
        &self.fingerprint
    }

    /// The state of HMAC-SHA-256 under the tag key, to be cloned.
    pub(super) fn tag(&self) -> &Hmac<Sha256> {
        &self.tag
    }

    /// argon2's secret input.
    pub(super) fn pepper(&self) -> &[u8; 32] {
        &self.pepper
    }

    /// The key that page tokens are sealed under.
    pub fn page_token_key(&self) -> &Key {
        &self.page_token
    }

    /// The key that the key string of `request_id` is sealed under until it can no longer be replayed: HKDF over the
    /// sealing key and the id. The database stores neither of them, so the database and the root secret together do not
    /// open a replay whose id cannot be guessed.
    pub fn replay_key(&self, request_id: &RequestId) -> Key {
        let mut out = Key::default();
        let info = [b"claviger.v1 replay ".as_slice(), request_id.as_bytes()];
        // Expansion fails only for outputs of more than 8,160 bytes.
        let expanded = Hkdf::<Sha256>::new(None, self.sealing.as_ref()).expand_multi_info(&info, out.as_mut());
        debug_assert!(expanded.is_ok());
        out
    }
}

/// The keyed state of HMAC-SHA-256. RFC 2104 pads a short key with zeros to the block of 64 bytes, as is done here.
fn hmac(key: &Key) -> Hmac<Sha256> {
    let mut block = Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key.as_ref());
    Hmac::new(&(*block).into())
}

/// What the database knows of a root secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootState {
    /// New key strings and hashes are made under it.
    Active,
    /// Key strings made under it are still accepted.
    Accepted,
    /// Nothing made under it is accepted any more.
    Removed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(name: char, byte: u8) -> RootSecret {
        RootSecret::derive(RootId::new(name).unwrap(), &[byte; 32])
    }

    #[test]
    fn case_63_what_holds_a_derived_key_is_wiped_when_dropped() {
        fn wiped<T: zeroize::ZeroizeOnDrop>() {}
        // Does not compile without the features `zeroize` of these crates. The states of HMAC and HKDF consist of those of
        // SHA-256; the types themselves say nothing.
        wiped::<Key>();
        wiped::<Sha256>();
        wiped::<hmac::digest::CtOutput<Hmac<Sha256>>>();
        wiped::<chacha20poly1305::XChaCha20Poly1305>();
    }

    #[test]
    fn everything_derived_differs() {
        let root = root('0', 7);
        let replay_key = |id: &str| root.replay_key(&id.parse().unwrap());
        let (one, other) = (replay_key("0123456789abcdef"), replay_key("0123456789abcdeg"));
        let keys = [root.pepper(), &**root.page_token_key(), &*root.sealing, &*one, &*other];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[i + 1..].iter().all(|b| a != b));
            assert_ne!(a[..16], root.fingerprint()[..]);
        }
    }

    #[test]
    fn case_41_a_file_that_is_no_root_secret_is_refused_without_being_shown() {
        let id = RootId::new('0').unwrap();
        let good = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";
        assert!(RootSecret::parse(id, &format!("{good}\n")).is_ok());
        let message = |text: &str| RootSecret::parse(id, text).err().unwrap();
        insta::assert_snapshot!(message("abc"), @"has 3 characters; a root secret is 64 hexadecimal digits");
        insta::assert_snapshot!(message(&good.replace('F', "g")), @"holds other characters than hexadecimal digits; a root secret is 64 of them");
        insta::assert_snapshot!(message(&"0".repeat(64)), @"is one digit pair over and over; make one with `openssl rand -hex 32`");
    }
}
