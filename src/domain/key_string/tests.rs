//! Promises of the key string, and the vectors that others build scanners by.

use proptest::prelude::*;

use super::*;
use crate::domain::{key_ring::KeyRing, root_secret::RootState};

fn root(name: char, byte: u8) -> RootSecret {
    RootSecret::derive(RootId::new(name).unwrap(), &[byte; 32])
}

fn ring() -> KeyRing {
    KeyRing::new(vec![root('0', 7)], [(RootId::new('0').unwrap(), RootState::Active)].into())
}

fn format(prefix: &str, older: &[&str]) -> KeyFormat {
    KeyFormat::new(prefix.parse().unwrap(), older.iter().map(|p| p.parse().unwrap()).collect())
}

fn render(prefix: &str, id: [u8; 16], secret: [u8; 32]) -> KeyString {
    KeyString::render(&prefix.parse().unwrap(), CredentialId::from_bytes(id), &root('0', 7), secret.into())
}

fn is_ours(format: &KeyFormat, text: &str) -> bool {
    format
        .parse(text)
        .is_ok_and(|unproved| matches!(unproved.prove(&ring()), Proof::Ours(tagged) if tagged.key_string().is_some()))
}

/// Gives `text` the checksum that belongs to it.
fn with_checksum(text: &str) -> String {
    let mut out = text[..text.len() - base62::WIDTH_32].to_owned();
    let checksum = crc32fast::hash(out.as_bytes());
    base62::push(&mut out, &checksum.to_be_bytes(), base62::WIDTH_32);
    out
}

/// With a stolen root secret anybody can make a tag, and not a secret that no number spells.
#[test]
fn a_secret_that_no_number_spells_is_no_key_string_although_its_tag_is_right() {
    let format = format("clv", &[]);
    let mut text = String::from("clv_");
    base62::push(&mut text, &[7; 16], base62::WIDTH_128);
    text.push_str("_0");
    text.push_str(&"z".repeat(base62::WIDTH_256));
    let (tag, _) = authenticate(&root('0', 7), text.as_bytes());
    base62::push(&mut text, &tag.to_be_bytes(), base62::WIDTH_64);
    let checksum = crc32fast::hash(text.as_bytes());
    base62::push(&mut text, &checksum.to_be_bytes(), base62::WIDTH_32);
    let Proof::Ours(tagged) = format.parse(&text).unwrap().prove(&ring()) else { panic!("the tag is right") };
    assert!(tagged.key_string().is_none());
}

/// The digest stands for the whole text: of two key strings of one credential, each has its own.
#[test]
fn other_secrets_of_the_same_credential_have_other_digests() {
    let format = format("clv", &[]);
    let digest = |key: &KeyString| match format.parse(key.reveal()).unwrap().prove(&ring()) {
        Proof::Ours(tagged) => tagged.digest(),
        _ => panic!("ours"),
    };
    let (one, other) = (render("clv", [7; 16], [1; 32]), render("clv", [7; 16], [2; 32]));
    assert!(digest(&one).matches(&digest(&one)) && !digest(&one).matches(&digest(&other)));
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
    let stranger =
        KeyString::render(&"clv".parse().unwrap(), CredentialId::from_bytes([1; 16]), &root('0', 8), [2; 32].into());
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
    let public = public_part("clv", key.credential_id());
    for text in ["clv_", "clv", "🦀clv_🦀", "", &public, &format!("{public}_"), &format!("{public} is used up")] {
        assert!(!format.occurs_in(text), "{text}");
    }
}

#[test]
fn case_71_a_key_string_is_found_wherever_it_was_cut_after_its_public_part() {
    let format = format("clv", &["acme_live"]);
    for prefix in ["clv", "acme_live"] {
        let key = render(prefix, [1; 16], [2; 32]);
        let public = public_part(prefix, key.credential_id()).len();
        for length in 0..=key.reveal().len() {
            let cut = &key.reveal()[..length];
            assert_eq!(format.occurs_in(cut), length > public + 1, "{cut}");
            assert_eq!(format.occurs_in(format!("a{cut}-")), length > public + 1, "{cut}");
        }
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
    let readme = include_str!("../../../README.md");
    assert!(vectors.iter().all(|vector| readme.contains(vector.as_str())), "the README publishes them");
    assert!(readme.contains(root_hex));
}

proptest! {
    #[test]
    fn rendering_what_was_parsed_gives_the_same_text(id in any::<[u8; 16]>(), secret in any::<[u8; 32]>()) {
        let key = render("clv", id, secret);
        let format = format("clv", &[]);
        let Proof::Ours(tagged) = format.parse(key.reveal()).unwrap().prove(&ring()) else { panic!("ours") };
        let parsed = tagged.key_string().unwrap();
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
