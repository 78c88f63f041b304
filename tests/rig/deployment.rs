//! A deployment whose root secret the rig knows: it can make the administrator's key string beforehand, and key strings
//! with a right tag that nobody ever issued.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use claviger::domain::{
    key_ring::KeyRing,
    key_string::{KeyFormat, Prefix, Proof},
    root_secret::{RootId, RootSecret, RootState},
};
use rand::{TryCryptoRng, TryRng, rngs::SysRng};
use tempfile::TempDir;

use super::{Outcome, doing};

/// A folder with a root secret and the first administrator's key.
pub struct Deployment {
    folder: TempDir,
    ring: KeyRing,
    admin: String,
}

impl Deployment {
    /// Makes one.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn new() -> Outcome<Self> {
        let folder = tempfile::Builder::new().prefix("claviger-rig-").tempdir().map_err(doing("making a folder"))?;
        // A PostgreSQL server of another user may live below it.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711)).map_err(doing("making a folder"))?;
        let id = RootId::new('0').ok_or("0 is a name of a root secret")?;
        let mut bytes = [0_u8; 32];
        SysRng.try_fill_bytes(&mut bytes).map_err(doing("asking for randomness"))?;
        let root = RootSecret::derive(id, &bytes);
        let digits = bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        fs::create_dir(folder.path().join("root-secrets")).map_err(doing("making a folder"))?;
        write_private(&folder.path().join("root-secrets/0"), &format!("{digits}\n"))?;
        let ring = KeyRing::new(vec![root], [(id, RootState::Active)].into());
        let admin = mint(&ring, &mut SysRng)?;
        write_private(&folder.path().join("admin.key"), &format!("{admin}\n"))?;
        Ok(Self { folder, ring, admin })
    }

    /// The folder that holds everything of this deployment, and is gone with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The folder of root secrets.
    pub fn root_secrets(&self) -> PathBuf {
        self.folder.path().join("root-secrets")
    }

    /// The file with the first administrator's key string.
    pub fn admin_key_file(&self) -> PathBuf {
        self.folder.path().join("admin.key")
    }

    /// The first administrator's key string.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// A key string of the same credential as `key` with a right tag and a secret that nobody issued.
    ///
    /// # Errors
    /// If there is no randomness.
    pub fn forge(&self, key: &str) -> Outcome<String> {
        let unproved = format().parse(key).map_err(|_| "that is no key string")?;
        let Proof::Ours(shown) = unproved.prove(&self.ring) else {
            return Err("that is no key string of this deployment".to_owned());
        };
        mint(&self.ring, &mut FirstThen { first: *shown.credential_id().as_bytes(), used: 0 })
    }

    /// The key string that a replica with this seed makes as its `number`th: only the build of the checker can be foretold.
    #[cfg(feature = "checker")]
    pub fn foretell(&self, seed: u64, number: u64) -> Option<String> {
        mint(&self.ring, &mut claviger::seeded::PredictableRandom::of(seed, number)).ok()
    }

    /// The key string that a replica with this seed makes as its `number`th: only the build of the checker can be foretold.
    #[cfg(not(feature = "checker"))]
    #[expect(clippy::unused_self, reason = "the build of the checker needs it")]
    pub fn foretell(&self, _seed: u64, _number: u64) -> Option<String> {
        None
    }
}

fn format() -> KeyFormat {
    KeyFormat::new(Prefix::default(), vec![])
}

/// Makes a key string under the active root secret.
fn mint<R: TryCryptoRng>(ring: &KeyRing, random: &mut R) -> Outcome<String> {
    let root = ring.active().map_err(doing("looking for the root secret"))?;
    let key = format().mint(root, random).map_err(doing("asking for randomness"))?;
    Ok(key.reveal().to_owned())
}

fn write_private(path: &Path, text: &str) -> Outcome<()> {
    fs::write(path, text).map_err(doing("writing a file"))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(doing("writing a file"))
}

/// Gives chosen bytes first and random ones after them: the credential id is the first thing a mint asks for.
struct FirstThen {
    first: [u8; 16],
    used: usize,
}

impl TryRng for FirstThen {
    type Error = <SysRng as TryRng>::Error;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        SysRng.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        SysRng.try_next_u64()
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Self::Error> {
        let chosen = into.len().min(self.first.len() - self.used);
        into[..chosen].copy_from_slice(&self.first[self.used..self.used + chosen]);
        self.used += chosen;
        SysRng.try_fill_bytes(&mut into[chosen..])
    }
}

impl TryCryptoRng for FirstThen {}
