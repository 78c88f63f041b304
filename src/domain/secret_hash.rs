//! Hashes of secrets at rest: argon2id (RFC 9106) in PHC strings, and the only place that runs argon2.
//!
//! The pepper is argon2's secret input. The associated data is a digest of whose secret it is, computed from the row
//! being judged and never stored, so a hash that was moved to another row matches nothing there. (The argon2 crate would
//! write associated data into the PHC string and its ready-made verify would read it back from there.)

use std::sync::atomic::{AtomicU64, Ordering};

use argon2::{
    Algorithm, Argon2, AssociatedData, Block, ParamsBuilder, Version,
    password_hash::phc::{Output, PasswordHash, Salt},
};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{CredentialId, KeyId, Merchant, key_string::KeyString, root_secret::RootSecret};

#[cfg(test)]
mod tests;

const HASH_LENGTH: usize = 32;
/// Bytes of salt in a new hash.
pub const SALT_LENGTH: usize = 16;

/// How hard a hash is to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// For secrets that Claviger made: 256 random bits cannot be guessed, whatever the hash.
    #[default]
    Random256,
    /// OWASP's first choice for passwords, for secrets that somebody else chose or by an auditor's wish.
    Owasp,
}

/// The cost of one argon2 run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cost {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
}

impl Cost {
    /// KiB that are filled, over all passes.
    fn work(self) -> u64 {
        u64::from(self.memory_kib) * u64::from(self.passes)
    }
}

/// No stored hash may cost less than what this program ever made: whoever lowers the cost in a row makes it easier to
/// guess.
const LOWEST: Cost = Cost { memory_kib: 1024, passes: 1, lanes: 1 };

/// No stored hash may cost more: 64 MiB, 10 passes, 4 lanes.
const HIGHEST: Cost = Cost { memory_kib: 64 * 1024, passes: 10, lanes: 4 };

impl Profile {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Random256, Self::Owasp];

    /// The name in settings and in the database.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random256 => "random256",
            Self::Owasp => "owasp",
        }
    }

    /// The profile of this name, if there is one.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    fn cost(self) -> Cost {
        match self {
            Self::Random256 => LOWEST,
            Self::Owasp => Cost { memory_kib: 19_456, passes: 2, lanes: 1 },
        }
    }
}

/// Whose secret it is, in 32 bytes.
#[derive(Clone, Copy)]
pub struct Owner([u8; 32]);

impl Owner {
    /// The digest of the three, each preceded by its length.
    pub fn new(key_id: KeyId, credential_id: CredentialId, merchant: &Merchant) -> Self {
        let mut digest = Sha256::new();
        for part in [key_id.as_bytes().as_slice(), credential_id.as_bytes(), merchant.as_str().as_bytes()] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        Self(digest.finalize().into())
    }

    /// The digest.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// A stored hash that was read and found within the bounds. It has not been run yet.
pub struct StoredHash {
    cost: Cost,
    salt: Salt,
    hash: [u8; HASH_LENGTH],
}

/// A stored hash that cannot be run: not argon2id version 19, with data of its own, too cheap or too expensive, or not a PHC
/// string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable;

impl StoredHash {
    /// Reads a PHC string without running anything.
    ///
    /// # Errors
    /// [`Unusable`] if it may not or cannot be run.
    pub fn parse(phc: &str) -> Result<Self, Unusable> {
        let parsed = PasswordHash::new(phc).map_err(|_| Unusable)?;
        let right_kind = parsed.algorithm.as_str() == "argon2id" && parsed.version == Some(0x13);
        let mut cost = Cost { memory_kib: 0, passes: 0, lanes: 0 };
        for (name, value) in parsed.params.iter() {
            let value = value.decimal().map_err(|_| Unusable)?;
            match name.as_str() {
                "m" => cost.memory_kib = value,
                "t" => cost.passes = value,
                "p" => cost.lanes = value,
                _ => return Err(Unusable),
            }
        }
        let bounded = (LOWEST.passes..=HIGHEST.passes).contains(&cost.passes)
            && (LOWEST.lanes..=HIGHEST.lanes).contains(&cost.lanes)
            && (LOWEST.memory_kib..=HIGHEST.memory_kib).contains(&cost.memory_kib);
        let hash = parsed.hash.and_then(|hash| hash.as_bytes().try_into().ok());
        match (parsed.salt, hash) {
            (Some(salt), Some(hash)) if right_kind && bounded && salt.len() >= SALT_LENGTH => {
                Ok(Self { cost, salt, hash })
            }
            _ => Err(Unusable),
        }
    }

    /// Whether it costs less than `profile` asks for. Hashes are only ever renewed upwards: two replicas with different
    /// settings would else renew each other's for ever.
    pub fn is_cheaper_than(&self, profile: Profile) -> bool {
        self.cost.work() < profile.cost().work()
    }
}

/// Runs argon2 and counts the runs.
#[derive(Default)]
pub struct Hasher {
    runs: AtomicU64,
}

/// Working memory of one run at a time, kept for the next.
#[derive(Default)]
pub struct Memory(Vec<Block>);

impl Hasher {
    /// How often argon2 has been run.
    pub fn runs(&self) -> u64 {
        self.runs.load(Ordering::Relaxed)
    }

    /// Hashes the secret of `key`, as `owner`'s, under the pepper of `root`, into a PHC string.
    ///
    /// # Errors
    /// [`Unusable`] if argon2 refuses, which no profile should cause.
    pub fn hash(
        &self,
        key: &KeyString,
        owner: &Owner,
        root: &RootSecret,
        profile: Profile,
        salt: [u8; SALT_LENGTH],
        memory: &mut Memory,
    ) -> Result<String, Unusable> {
        let cost = profile.cost();
        let hash = self.run(key.secret(), &salt, root.pepper(), owner.as_bytes(), cost, memory)?;
        let phc = PasswordHash {
            algorithm: Algorithm::Argon2id.ident(),
            version: Some(Version::V0x13.into()),
            params: params(cost, AssociatedData::EMPTY).and_then(|params| params.try_into().map_err(|_| Unusable))?,
            salt: Some(Salt::new(&salt).map_err(|_| Unusable)?),
            hash: Some(Output::new(hash.as_ref()).map_err(|_| Unusable)?),
        };
        Ok(phc.to_string())
    }

    /// Whether the secret of `key`, as `owner`'s and under the pepper of `root`, is the one in `stored`.
    ///
    /// # Errors
    /// [`Unusable`] if argon2 refuses the stored cost.
    pub fn matches(
        &self,
        key: &KeyString,
        owner: &Owner,
        root: &RootSecret,
        stored: &StoredHash,
        memory: &mut Memory,
    ) -> Result<bool, Unusable> {
        let hash = self.run(key.secret(), &stored.salt, root.pepper(), owner.as_bytes(), stored.cost, memory)?;
        Ok(hash.ct_eq(&stored.hash).into())
    }

    fn run(
        &self,
        secret: &[u8],
        salt: &[u8],
        pepper: &[u8],
        associated: &[u8; 32],
        cost: Cost,
        memory: &mut Memory,
    ) -> Result<Zeroizing<[u8; HASH_LENGTH]>, Unusable> {
        let params = params(cost, AssociatedData::new(associated).map_err(|_| Unusable)?)?;
        let blocks = params.block_count();
        if memory.0.len() < blocks {
            memory.0.resize(blocks, Block::default());
        }
        let argon2 =
            Argon2::new_with_secret(pepper, Algorithm::Argon2id, Version::V0x13, params).map_err(|_| Unusable)?;
        let mut hash = Zeroizing::new([0; HASH_LENGTH]);
        self.runs.fetch_add(1, Ordering::Relaxed);
        argon2
            .hash_password_into_with_memory(secret, salt, hash.as_mut(), &mut memory.0[..blocks])
            .map_err(|_| Unusable)?;
        Ok(hash)
    }
}

fn params(cost: Cost, data: AssociatedData) -> Result<argon2::Params, Unusable> {
    ParamsBuilder::new()
        .m_cost(cost.memory_kib)
        .t_cost(cost.passes)
        .p_cost(cost.lanes)
        .output_len(HASH_LENGTH)
        .data(data)
        .build()
        .map_err(|_| Unusable)
}
