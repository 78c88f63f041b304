//! Keys in great numbers: what they are, who asks for which, and how they come into a database.
//!
//! A key follows from its number: its id, its key string, its row. So a bench holds no list of a million key strings, and
//! any of them can be made again when it is asked for. They are written straight into the tables, thousands in one
//! statement, because a Create each would take hours; nobody looks at the database meanwhile.

use std::{
    convert::Infallible,
    fmt::Write as _,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use argon2::{Algorithm, Argon2, AssociatedData, ParamsBuilder, Version, password_hash::phc};
use claviger::{
    domain::{
        KeyId, Merchant,
        key_string::{KeyFormat, KeyString, Prefix},
        root_secret::{RootId, RootSecret},
        secret_hash::{Hasher, Memory, Owner, Profile, SALT_LENGTH},
    },
    store::Engine,
};
use hkdf::Hkdf;
use rand::{TryCryptoRng, TryRng};
use sea_orm::ConnectionTrait;
use sha2::Sha256;
use tokio::sync::mpsc;

use super::dice::Dice;
use crate::harness::TestDatabase;

/// What every key holds and, of these, what every call requires.
pub const SCOPES: [&str; 3] = ["charge:create", "charge:read", "refund:create"];
pub const REQUIRED: [&str; 2] = ["charge:create", "charge:read"];
/// Where every key is used from: the last block of its list lets it in.
pub const CALLER_IP: &str = "192.0.2.7";

/// The root secret of every database that a bench makes.
const ROOT: (char, [u8; 32]) = ('0', [7; 32]);
/// Keys in one statement.
const CHUNK: u64 = 1_000;
/// Keys are made a millisecond apart, from here on: what is listed has an order.
const FIRST_CREATE_TIME: u64 = 1_700_000_000_000_000;

/// What kind of key it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A client's, with this many blocks of addresses, three scopes and two labels.
    Client { blocks: usize },
    /// Of a service that validates keys of all merchants.
    Validator,
    /// Of a service that lists them.
    Lister,
}

/// What is stored of the secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hashes {
    /// As a deployment stores them.
    True,
    /// argon2 over 8 KiB, a hundredth of the work: proved all the same, and then renewed off the way of the call, one at
    /// a time and few in line. For a million keys, whose true hashes take many minutes to make, and as many to prove.
    Cheap,
}

/// Makes keys by their numbers.
pub struct Mint {
    root: RootSecret,
    format: KeyFormat,
}

/// A key by its number.
pub struct Minted {
    pub id: KeyId,
    pub key: KeyString,
    secret: [u8; 32],
}

/// Predictable bytes, which no key outside of a bench may be made from.
struct Predictable {
    dice: Dice,
    /// The last ones that filled 32 bytes.
    last: [u8; 32],
}

impl Mint {
    /// The mint of the databases.
    pub fn new() -> Self {
        Self::with(ROOT.1)
    }

    /// The mint of somebody who has another root secret and gives it our name.
    pub fn forger() -> Self {
        Self::with([8; 32])
    }

    fn with(secret: [u8; 32]) -> Self {
        let root = RootSecret::derive(RootId::new(ROOT.0).unwrap(), &secret);
        Self { root, format: KeyFormat::new(Prefix::default(), vec![]) }
    }

    /// Its root secret.
    pub fn into_root(self) -> RootSecret {
        self.root
    }

    /// The key of this number.
    pub fn key(&self, number: u64) -> Minted {
        let mut random = Predictable { dice: Dice::new(number.wrapping_mul(0xD134_2543_DE82_EF95)), last: [0; 32] };
        let mut id = [0; 16];
        random.fill(&mut id);
        let key = self.format.mint(&self.root, &mut random).unwrap();
        Minted { id: KeyId::from_bytes(id), key, secret: random.last }
    }

    /// The key string of this number.
    pub fn text(&self, number: u64) -> String {
        self.key(number).key.reveal().to_owned()
    }
}

impl Predictable {
    fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.dice.bits().to_le_bytes()[..part.len()]);
        }
        if let Ok(bytes) = (&*bytes).try_into() {
            self.last = bytes;
        }
    }
}

impl TryRng for Predictable {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok((self.dice.bits() >> 32) as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.dice.bits())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Predictable {}

/// Puts the keys of these numbers into a migrated database, on as many threads as hash at once.
pub async fn fill(database: &TestDatabase, numbers: Range<u64>, shape: Shape, hashes: Hashes) {
    let engine = database.address.engine();
    let connection = database.by_hand().await;
    // What is lost with the machine is made anew; and each credential has its key, which is written just before.
    let relaxed = match engine {
        Engine::Sqlite => "PRAGMA synchronous = OFF; PRAGMA cache_size = -200000",
        Engine::Postgres => "SET session_replication_role = replica",
    };
    connection.execute_unprepared(relaxed).await.unwrap();
    let (tell, mut made) = mpsc::channel(2);
    let next = Arc::new(AtomicU64::new(numbers.start));
    for _ in 0..2 {
        let (tell, next, end) = (tell.clone(), Arc::clone(&next), numbers.end);
        thread::spawn(move || {
            let mut writer = Writer::new(engine, shape, hashes);
            loop {
                let first = next.fetch_add(CHUNK, Ordering::Relaxed);
                if first >= end || tell.blocking_send(writer.statements(first..end.min(first + CHUNK))).is_err() {
                    return;
                }
            }
        });
    }
    drop(tell);
    while let Some(statements) = made.recv().await {
        connection.execute_unprepared(&statements).await.unwrap();
    }
    // The planner knows what is there, as it does in a database that grew slowly; and no checkpoint is left for later.
    let settled = match engine {
        Engine::Sqlite => "ANALYZE; PRAGMA wal_checkpoint(TRUNCATE)",
        Engine::Postgres => "VACUUM ANALYZE api_key",
    };
    connection.execute_unprepared(settled).await.unwrap();
    if engine == Engine::Postgres {
        // Neither runs in one batch with another.
        connection.execute_unprepared("VACUUM ANALYZE credential").await.unwrap();
        connection.execute_unprepared("CHECKPOINT").await.unwrap();
    }
    connection.close().await.unwrap();
}

/// Writes statements, with what it needs for it.
struct Writer {
    engine: Engine,
    shape: Shape,
    hashes: Hashes,
    mint: Mint,
    pepper: [u8; 32],
    hasher: Hasher,
    memory: Memory,
}

impl Writer {
    fn new(engine: Engine, shape: Shape, hashes: Hashes) -> Self {
        // As `domain::root_secret` derives it, which keeps it to itself. Were it derived otherwise, no key would be valid.
        let mut pepper = [0; 32];
        Hkdf::<Sha256>::new(None, &ROOT.1).expand(b"claviger.v1 pepper", &mut pepper).unwrap();
        let (mint, memory) = (Mint::new(), Memory::default());
        Self { engine, shape, hashes, mint, pepper, hasher: Hasher::default(), memory }
    }

    fn statements(&mut self, numbers: Range<u64>) -> String {
        let mut keys = String::from(
            "INSERT INTO api_key (id, merchant_username, display_name, credential_id, prefix, allowed_ips, denied_ips, \
             scopes, labels, full_administrator, webhook_format, disabled, create_time, update_time, delete_reason, \
             version) VALUES ",
        );
        let mut credentials =
            String::from("; INSERT INTO credential (id, key_id, root, profile, phc, pepper_root, create_time) VALUES ");
        let terms = self.terms();
        for number in numbers.clone() {
            let minted = self.mint.key(number);
            let (id, credential_id) = (minted.id.as_bytes(), minted.key.credential_id());
            let (id, credential) = (self.bytes(id), self.bytes(credential_id.as_bytes()));
            let merchant = format!("merchant-{}", number % 1_000).parse::<Merchant>().unwrap();
            let time = FIRST_CREATE_TIME + number * 1_000;
            let phc = self.hash(number, &minted, &Owner::new(minted.id, credential_id, &merchant));
            let comma = if number == numbers.start { "" } else { "," };
            write!(
                keys,
                "{comma}({id},'{merchant}','Till {number}',{credential},'{}',{terms},'{{\"shop\":\"{number}\",\"till\":\
                 \"4\"}}',FALSE,1,FALSE,{time},{time},0,1)",
                minted.key.prefix()
            )
            .unwrap();
            let (root, profile) = (ROOT.0, Profile::Random256.name());
            write!(credentials, "{comma}({credential},{id},'{root}','{profile}','{phc}','{root}',{time})").unwrap();
        }
        keys + &credentials
    }

    /// From where and for what: the same for all keys of a shape, in the order of the columns.
    fn terms(&self) -> String {
        let json = |list: &[String]| serde_json::to_string(list).unwrap();
        let (blocks, scopes) = match self.shape {
            Shape::Client { blocks } => (blocks, SCOPES.to_vec()),
            Shape::Validator => (0, vec!["claviger:validate", "claviger:all-merchants"]),
            Shape::Lister => (0, vec!["claviger:keys.read", "claviger:all-merchants"]),
        };
        // Of both families, as addresses are; the one that matters comes last.
        let mut allowed: Vec<String> = (1..blocks)
            .map(|block| if block % 2 == 0 { format!("10.{block}.0.0/16") } else { format!("2001:db8:{block:x}::/48") })
            .collect();
        allowed.extend((blocks > 0).then(|| "192.0.2.0/24".to_owned()));
        let scopes = scopes.iter().map(ToString::to_string).collect::<Vec<_>>();
        format!("'{}','[]','{}'", json(&allowed), json(&scopes))
    }

    fn bytes(&self, bytes: &[u8]) -> String {
        let hex = bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        match self.engine {
            Engine::Sqlite => format!("x'{hex}'"),
            Engine::Postgres => format!("'\\x{hex}'"),
        }
    }

    fn hash(&mut self, number: u64, minted: &Minted, owner: &Owner) -> String {
        let mut salt = [0; SALT_LENGTH];
        salt[..8].copy_from_slice(&number.to_be_bytes());
        if self.hashes == Hashes::True {
            let (hasher, root, profile) = (&self.hasher, &self.mint.root, Profile::Random256);
            return hasher.hash(&minted.key, owner, root, profile, salt, &mut self.memory).unwrap();
        }
        let cost = |data| ParamsBuilder::new().m_cost(8).t_cost(1).p_cost(1).output_len(32).data(data).build().unwrap();
        let bound = cost(AssociatedData::new(owner.as_bytes()).unwrap());
        let mut hash = [0; 32];
        let argon2 = Argon2::new_with_secret(&self.pepper, Algorithm::Argon2id, Version::V0x13, bound).unwrap();
        argon2.hash_password_into(&minted.secret, &salt, &mut hash).unwrap();
        let phc = phc::PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: cost(AssociatedData::EMPTY).try_into().unwrap(),
            salt: Some(phc::Salt::new(&salt).unwrap()),
            hash: Some(phc::Output::new(&hash).unwrap()),
        };
        phc.to_string()
    }
}
