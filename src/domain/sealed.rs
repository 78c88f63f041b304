//! Sealing small texts: XChaCha20-Poly1305 with a random nonce in front.

use chacha20poly1305::{
    Key as AeadKey, XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use rand::TryCryptoRng;
use zeroize::Zeroizing;

use super::root_secret::Key;

const NONCE: usize = 24;
const TAG: usize = 16;

/// Bytes that a sealed text is longer than its plain text.
pub const OVERHEAD: usize = NONCE + TAG;

/// Seals `plain` so that only the holder of `key` reads it, and only beside the same `context`.
///
/// # Errors
/// Those of the random generator.
pub fn seal<R: TryCryptoRng>(key: &Key, context: &[u8], plain: &[u8], random: &mut R) -> Result<Vec<u8>, R::Error> {
    let mut nonce = [0; NONCE];
    random.try_fill_bytes(&mut nonce)?;
    let mut out = nonce.to_vec();
    let sealed = cipher(key).encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: context });
    // Encryption fails only for texts of more than 256 GiB.
    debug_assert!(sealed.is_ok());
    out.extend(sealed.unwrap_or_default());
    Ok(out)
}

/// Opens what [`seal`] made; none if it was made otherwise, under another key or beside another context.
pub fn open(key: &Key, context: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, text) = sealed.split_first_chunk::<NONCE>()?;
    cipher(key).decrypt(&XNonce::from(*nonce), Payload { msg: text, aad: context }).ok().map(Zeroizing::new)
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&AeadKey::from(**key))
}

#[cfg(test)]
mod tests {
    use rand::rngs::SysRng;

    use super::*;

    #[test]
    fn only_the_same_key_and_context_open() {
        let (key, other) = (Key::new([1; 32]), Key::new([2; 32]));
        let sealed = seal(&key, b"context", b"text", &mut SysRng).unwrap();
        assert_eq!(open(&key, b"context", &sealed).unwrap().as_slice(), b"text");
        assert!(open(&other, b"context", &sealed).is_none());
        assert!(open(&key, b"another", &sealed).is_none());
        for cut in 0..sealed.len() {
            assert!(open(&key, b"context", &sealed[..cut]).is_none());
        }
    }
}
