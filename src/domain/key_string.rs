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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::root_secret::RootState;

    fn root(name: char, byte: u8) -> RootSecret {
        RootSecret::derive(RootId::new(name).unwrap(), &[byte; 32])
    }

    fn ring() -> KeyRing {
        KeyRing::new(vec![root('0', 7)], [(RootId::new('0').unwrap(), RootState::Active)].into()).unwrap()
    }

    fn format(prefix: &str, older: &[&str]) -> KeyFormat {
        KeyFormat::new(prefix.parse().unwrap(), older.iter().map(|p| p.parse().unwrap()).collect())
    }

    fn render(prefix: &str, id: [u8; 16], secret: [u8; 32]) -> KeyString {
        KeyString::render(&prefix.parse().unwrap(), CredentialId::from_bytes(id), &root('0', 7), secret.into())
    }

    fn is_ours(format: &KeyFormat, text: &str) -> bool {
        format.parse(text).is_ok_and(|unproved| matches!(unproved.prove(&ring()), Proof::Ours(_)))
    }

    /// Gives `text` the checksum that belongs to it.
    fn with_checksum(text: &str) -> String {
        let mut out = text[..text.len() - base62::WIDTH_32].to_owned();
        let checksum = crc32fast::hash(out.as_bytes());
        base62::push(&mut out, &checksum.to_be_bytes(), base62::WIDTH_32);
        out
    }

    #[test]
    fn a_key_string_with_the_default_prefix_has_88_characters() {
        assert_eq!(render("clv", [1; 16], [2; 32]).reveal().len(), 88);
    }

    #[test]
    fn case_1_a_key_string_cut_short_is_malformed() {
        let key = render("clv", [1; 16], [2; 32]);
        for cut in [1, 6, 17, 61, 85, 87, 88] {
            assert!(format("clv", &[]).parse(&key.reveal()[..88 - cut]).is_err(), "cut by {cut}");
        }
    }

    #[test]
    fn case_2_a_longer_text_is_malformed() {
        let key = render("clv", [1; 16], [2; 32]);
        let format = format("clv", &[]);
        assert!(format.parse(&format!("{}0", key.reveal())).is_err());
        assert!(format.parse(&format!("{}{}", key.reveal(), "0".repeat(100 * 1024))).is_err());
    }

    #[test]
    fn case_3_the_same_beginning_is_not_the_same_key() {
        let (a, b) = (render("clv", [1; 16], [2; 32]), render("clv", [1; 16], [3; 32]));
        let mixed = format!("{}{}", &a.reveal()[..72], &b.reveal()[72..]);
        assert!(!is_ours(&format("clv", &[]), &mixed));
        assert!(!is_ours(&format("clv", &[]), &with_checksum(&mixed)));
    }

    #[test]
    fn case_4_nothing_is_trimmed() {
        let key = render("clv", [1; 16], [2; 32]);
        for extra in [" ", "\t", "\r\n", "\0", "\u{FEFF}", "\u{200D}"] {
            let format = format("clv", &[]);
            assert!(format.parse(&format!("{extra}{}", key.reveal())).is_err(), "{extra:?} before");
            assert!(format.parse(&format!("{}{extra}", key.reveal())).is_err(), "{extra:?} after");
        }
    }

    #[test]
    fn case_5_every_flipped_letter_is_refused() {
        let key = render("clv", [0xA1; 16], [0xB2; 32]);
        for (position, c) in key.reveal().char_indices().filter(|(_, c)| c.is_ascii_alphabetic()) {
            let flipped = if c.is_ascii_lowercase() { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
            let mut text = key.reveal().to_owned();
            text.replace_range(position..=position, &flipped.to_string());
            assert!(!is_ours(&format("clv", &[]), &text), "letter {position}");
            let in_checksum = position >= text.len() - base62::WIDTH_32;
            let mended = with_checksum(&text);
            assert!(in_checksum || !is_ours(&format("clv", &[]), &mended), "letter {position} with its checksum");
        }
    }

    #[test]
    fn case_6_a_forged_tag_is_refused_though_the_checksum_is_right() {
        let stranger = KeyString::render(
            &"clv".parse().unwrap(),
            CredentialId::from_bytes([1; 16]),
            &root('0', 8),
            [2; 32].into(),
        );
        let unproved = format("clv", &[]).parse(stranger.reveal()).unwrap();
        assert!(matches!(unproved.prove(&ring()), Proof::Forged));
    }

    #[test]
    fn case_7_a_number_out_of_range_is_malformed() {
        let key = render("clv", [0xFF; 16], [0xFF; 32]);
        assert!(is_ours(&format("clv", &[]), key.reveal()));
        // One above the largest credential id; its spelling would otherwise wrap to zero.
        let over = key.reveal().replace("7n42DGM5Tflk9n8mt7Fhc7", "7n42DGM5Tflk9n8mt7Fhc8");
        assert!(format("clv", &[]).parse(&with_checksum(&over)).is_err());
    }

    #[test]
    fn case_9_the_empty_text_is_malformed() {
        assert!(format("clv", &[]).parse("").is_err());
    }

    #[test]
    fn older_prefixes_stay_accepted_by_a_setting() {
        let old = render("clv", [1; 16], [2; 32]);
        assert!(is_ours(&format("acme_live", &["clv"]), old.reveal()));
        assert!(!is_ours(&format("acme_live", &[]), old.reveal()));
        assert!(is_ours(&format("acme_live", &[]), render("acme_live", [1; 16], [2; 32]).reveal()));
    }

    #[test]
    fn prefixes_are_short_and_lower_case() {
        for text in ["", "_a", "a_", "A", "a-b", "abcdefghijklmnopqrstu"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
        insta::assert_snapshot!("Acme".parse::<Prefix>().unwrap_err(), @"`Acme` is no key prefix; it has 1 to 20 lower-case letters, digits and inner underscores, such as acme_live");
    }

    #[test]
    fn a_key_string_is_found_inside_other_text() {
        let format = format("clv", &["acme_live", "aaa"]);
        let key = render("clv", [1; 16], [2; 32]);
        for text in [
            format!("my key is {}, keep it safe", key.reveal()),
            format!("clv_clv_{}", key.reveal()),
            format!("🦀{}🦀", key.reveal()),
            format!("aa{}", render("aaa", [1; 16], [2; 32]).reveal()),
            render("acme_live", [1; 16], [2; 32]).reveal().to_owned(),
        ] {
            assert!(format.occurs_in(&text), "{text}");
        }
        for text in ["clv_", "clv", "🦀clv_🦀", "", public_part("clv", key.credential_id()).as_str()] {
            assert!(!format.occurs_in(text), "{text}");
        }
    }

    #[test]
    fn debug_shows_the_public_part_only() {
        let key = render("clv", [1; 16], [2; 32]);
        insta::assert_snapshot!(format!("{key:?}"), @"KeyString(clv_01tRy6czI6jAOLpZvq3hw1…)");
    }

    /// The vectors published in the README: change one, and every scanner and every issued key string is wrong.
    #[test]
    fn the_published_vectors_hold() {
        let root_hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        let vectors: Vec<String> = [
            ("clv", [0x00; 16], [0x00; 32]),
            ("clv", [0xFF; 16], [0xFF; 32]),
            ("acme_live", *b"credential id 16", *b"a secret of exactly 32 bytes long".first_chunk::<32>().unwrap()),
        ]
        .into_iter()
        .map(|(prefix, id, secret)| {
            let root = RootSecret::parse(RootId::new('0').unwrap(), root_hex).unwrap();
            KeyString::render(&prefix.parse().unwrap(), CredentialId::from_bytes(id), &root, secret.into())
                .reveal()
                .to_owned()
        })
        .collect();
        insta::assert_snapshot!(vectors.join("\n"), @"
        clv_0000000000000000000000_0000000000000000000000000000000000000000000004I5fdDB6lw01xfXX
        clv_7n42DGM5Tflk9n8mt7Fhc7_0yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp17tm0GxO6oIL1i3ARg
        acme_live_31eWD1qOtaAB97lAL4Hm1W_0N1y24FEq5Ee6VmGxZPlezPP0iPEYbSYx5xKmg6gxJq295P3AKmRtqd277K79
        ");
        let readme = include_str!("../../README.md");
        assert!(vectors.iter().all(|vector| readme.contains(vector.as_str())), "the README publishes them");
        assert!(readme.contains(root_hex));
    }

    proptest! {
        #[test]
        fn rendering_what_was_parsed_gives_the_same_text(id in any::<[u8; 16]>(), secret in any::<[u8; 32]>()) {
            let key = render("clv", id, secret);
            let format = format("clv", &[]);
            let Proof::Ours(parsed) = format.parse(key.reveal()).unwrap().prove(&ring()) else { panic!("ours") };
            prop_assert_eq!(parsed.credential_id(), key.credential_id());
            prop_assert_eq!(parsed.secret(), key.secret());
            let again = KeyString::render(&"clv".parse().unwrap(), parsed.credential_id(), &root('0', 7), parsed.secret);
            prop_assert_eq!(again.reveal(), key.reveal());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC*") {
            prop_assert!(format("clv", &["a"]).parse(&text).is_err());
            prop_assert!(!format("clv", &["a"]).occurs_in(&text));
        }

        #[test]
        fn one_changed_character_is_refused(position in 0_usize..88, replacement in "[0-9A-Za-z_]") {
            let key = render("clv", [1; 16], [2; 32]);
            let mut text = key.reveal().to_owned();
            text.replace_range(position..=position, &replacement);
            prop_assume!(text != key.reveal());
            prop_assert!(format("clv", &[]).parse(&text).is_err());
        }
    }
}
