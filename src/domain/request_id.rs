//! The `request_id` of a Create or Rotate: what a caller chose so that a retry is safe.
//!
//! A replay is sealed under a key that is derived from it, so it is kept like a secret: it is stored only as a digest,
//! and no log shows it.

use std::{fmt, str::FromStr};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::{KeyId, text::quoted};

/// 16 to 64 visible ASCII characters.
#[derive(Clone, PartialEq, Eq)]
pub struct RequestId(Zeroizing<String>);

impl RequestId {
    /// Its characters.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// What is stored of it: SHA-256 over the caller's key id (16 bytes) and the request id. No root secret takes part,
    /// so a retry after a rotation of the root secret still finds what the first call did.
    pub fn digest(&self, caller: KeyId) -> [u8; 32] {
        Sha256::new().chain_update(caller.as_bytes()).chain_update(self.as_bytes()).finalize().into()
    }
}

impl FromStr for RequestId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let right = "a request id has 16 to 64 visible ASCII characters, such as a UUID";
        if let Some(c) = text.chars().find(|c| !c.is_ascii_graphic()) {
            Err(format!("holds {}; {right}", quoted(&c.to_string())))
        } else if (16..=64).contains(&text.len()) {
            Ok(Self(Zeroizing::new(text.to_owned())))
        } else {
            Err(format!("has {} characters; {right}", text.len()))
        }
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestId(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_sha256_over_caller_and_id() {
        let id: RequestId = "0123456789abcdef".parse().unwrap();
        let caller = KeyId::from_bytes([7; 16]);
        let plain = [[7; 16].as_slice(), b"0123456789abcdef"].concat();
        assert_eq!(id.digest(caller), <[u8; 32]>::from(Sha256::digest(plain)));
        assert_ne!(id.digest(caller), id.digest(KeyId::from_bytes([8; 16])));
    }

    #[test]
    fn a_request_id_is_not_shown_by_debug() {
        let id: RequestId = "0123456789abcdef".parse().unwrap();
        assert!(!format!("{id:?}").contains("0123"));
    }
}
