//! Promises of the hashes at rest, with the vector of RFC 9106.

use rand::rngs::SysRng;

use super::*;
use crate::domain::{key_string::KeyFormat, root_secret::RootId};

fn root(byte: u8) -> RootSecret {
    RootSecret::derive(RootId::new('0').unwrap(), &[byte; 32])
}

fn key() -> KeyString {
    KeyFormat::new("clv".parse().unwrap(), vec![]).mint(&root(1), &mut SysRng).unwrap()
}

fn owner(byte: u8) -> Owner {
    Owner::new(KeyId::from_bytes([byte; 16]), CredentialId::from_bytes([2; 16]), &"acme".parse().unwrap())
}

fn hash(key: &KeyString, profile: Profile) -> String {
    Hasher::default().hash(key, &owner(1), &root(1), profile, [3; 16], &mut Memory::default()).unwrap()
}

fn matches(key: &KeyString, owner: &Owner, root: &RootSecret, phc: &str) -> bool {
    let stored = StoredHash::parse(phc).unwrap();
    Hasher::default().matches(key, owner, root, &stored, &mut Memory::default()).unwrap()
}

/// RFC 9106, section 5.3: argon2id with secret input and associated data.
#[test]
fn rfc_9106_argon2id_vector_holds() {
    let params = ParamsBuilder::new()
        .m_cost(32)
        .t_cost(3)
        .p_cost(4)
        .data(AssociatedData::new(&[4; 12]).unwrap())
        .build()
        .unwrap();
    let argon2 = Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params).unwrap();
    let mut tag = [0; 32];
    argon2.hash_password_into(&[1; 32], &[2; 16], &mut tag).unwrap();
    assert_eq!(
        tag,
        [
            0x0d, 0x64, 0x0d, 0xf5, 0x8d, 0x78, 0x76, 0x6c, 0x08, 0xc0, 0x37, 0xa3, 0x4a, 0x8b, 0x53, 0xc9, 0xd0, 0x1e,
            0xf0, 0x45, 0x2d, 0x75, 0xb6, 0x5e, 0xb5, 0x25, 0x20, 0xe9, 0x6b, 0x01, 0xe6, 0x59,
        ]
    );
}

#[test]
fn the_right_secret_matches_with_both_profiles() {
    let key = key();
    for profile in Profile::ALL {
        let phc = hash(&key, profile);
        assert!(!StoredHash::parse(&phc).unwrap().is_cheaper_than(profile));
        assert!(matches(&key, &owner(1), &root(1), &phc));
    }
}

#[test]
fn another_secret_owner_or_pepper_does_not_match() {
    let (mine, phc) = (key(), String::new());
    let phc = phc + &hash(&mine, Profile::Random256);
    assert!(!matches(&key(), &owner(1), &root(1), &phc));
    assert!(!matches(&mine, &owner(9), &root(1), &phc), "moved to another row");
    assert!(!matches(&mine, &owner(1), &root(2), &phc));
}

#[test]
fn a_stored_hash_names_its_cost_and_nothing_else() {
    let phc = hash(&key(), Profile::Random256);
    assert!(phc.starts_with("$argon2id$v=19$m=1024,t=1,p=1$"), "{phc}");
    assert!(!phc.contains("data") && !phc.contains("keyid"));
}

#[test]
fn case_28_a_hash_beyond_the_bounds_is_refused_without_running_it() {
    let phc = hash(&key(), Profile::Random256);
    for params in [
        "m=4194304,t=1,p=1",
        "m=65537,t=1,p=1",
        "m=1024,t=11,p=1",
        "m=1024,t=1,p=5",
        "m=1024,t=0,p=1",
        "m=1024,t=1,p=0",
        "m=7,t=1,p=1",
        // Below the cheapest profile.
        "m=1023,t=1,p=1",
        "m=32,t=2,p=4",
        "m=512,t=10,p=1",
        "m=1024,t=1,p=1,data=AAAA",
        "m=1024,t=1,p=1,keyid=AAAA",
        "m=1024,t=1",
    ] {
        let bad = phc.replace("m=1024,t=1,p=1", params);
        assert!(StoredHash::parse(&bad).is_err(), "{params}");
    }
    for bad in [
        "",
        "banana",
        &phc.replace("argon2id", "argon2d"),
        &phc.replace("v=19", "v=16"),
        &phc.replace("$v=19", ""),
        &phc[..phc.len() - 4],
        phc.rsplit_once('$').unwrap().0,
    ] {
        assert!(StoredHash::parse(bad).is_err(), "{bad}");
    }
    let highest = phc.replace("m=1024,t=1,p=1", "m=65536,t=10,p=4");
    assert!(StoredHash::parse(&highest).is_ok());
}

#[test]
fn runs_are_counted_where_they_happen() {
    let (hasher, key) = (Hasher::default(), key());
    let phc = hasher.hash(&key, &owner(1), &root(1), Profile::Random256, [3; 16], &mut Memory::default()).unwrap();
    assert_eq!(hasher.runs(), 1);
    let stored = StoredHash::parse(&phc).unwrap();
    hasher.matches(&key, &owner(1), &root(1), &stored, &mut Memory::default()).unwrap();
    assert_eq!(hasher.runs(), 2);
}
