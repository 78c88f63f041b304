//! The checker's build: a bug for the whole process, delays in the races, key strings that can be foretold.

use std::{
    env, fs,
    path::PathBuf,
    process,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{TryCryptoRng, TryRng, rngs::SysRng};
use sha2::{Digest, Sha256};

use super::Bug;

/// The most rows of the feed that one poll reads: few, so that backlogs are an everyday matter.
pub const POLLED_ROWS: u64 = 4;

/// The longest delay in a race.
const LONGEST_DELAY: Duration = Duration::from_millis(120);
/// One race in so many is delayed; the others yield.
const DELAYED_ONE_IN: u64 = 8;
/// One race in so many is delayed for longer than enforcement waits, or nobody could come late to what is under way.
const LONG_ONE_IN: u64 = 512;
/// The same of the poller's, of which there are few.
const LONG_ONE_IN_POLLS: u64 = 128;
/// How long that is.
const LONG_DELAY: Duration = Duration::from_millis(1_600);

static PLANTED: AtomicU8 = AtomicU8::new(0);
static DELAYING: AtomicBool = AtomicBool::new(true);
/// Zero: keys are made from the operating system's generator.
static SEED: AtomicU64 = AtomicU64::new(0);
static MADE: AtomicU64 = AtomicU64::new(0);
static RACES: AtomicU64 = AtomicU64::new(0);
/// As long as this file is there, a change that holds its number takes it away and freezes the whole process.
static FREEZE: OnceLock<PathBuf> = OnceLock::new();

/// Whether this bug is planted.
pub fn bug(bug: Bug) -> bool {
    PLANTED.load(Ordering::Relaxed) == bug as u8
}

/// Plants a bug for the whole process, or none.
pub fn plant(bug: Option<Bug>) {
    PLANTED.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
}

/// Makes key strings, from the next on, from this seed: the n-th of the process, counted from 0, is what
/// [`PredictableRandom::of`] with the same seed and n makes. Zero ends it.
pub fn predict_keys(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
}

/// Whether races are delayed at all: a phase of measurement goes without.
pub fn delay_races(yes: bool) {
    DELAYING.store(yes, Ordering::Relaxed);
}

/// Takes the bug from `SEEDED_BUG`, the seed of key strings from `SEEDED_KEYS`, from `SEEDED_CALM` that races are not
/// delayed, and from `SEEDED_FREEZE` the file that has the process freeze with a number in its hand.
///
/// # Errors
/// The variable that is wrong.
#[expect(clippy::disallowed_methods, reason = "the checker's replicas are told by their environment which bug to have")]
pub fn from_environment() -> Result<(), String> {
    if let Ok(name) = env::var("SEEDED_BUG") {
        plant(Some(Bug::named(&name).ok_or_else(|| format!("SEEDED_BUG: there is no bug `{name}`"))?));
    }
    if let Ok(seed) = env::var("SEEDED_KEYS") {
        predict_keys(seed.parse().map_err(|_| format!("SEEDED_KEYS: `{seed}` is no number"))?);
    }
    delay_races(env::var_os("SEEDED_CALM").is_none());
    if let Some(file) = env::var_os("SEEDED_FREEZE") {
        // Set once: there is one environment.
        let _ = FREEZE.set(file.into());
    }
    Ok(())
}

/// A change holds its number and has not committed: freezes the process, as SIGSTOP does, if it was asked to. Whoever
/// asked sends SIGCONT.
pub fn numbered() {
    let asked = FREEZE.get().is_some_and(|file| fs::remove_file(file).is_ok());
    if asked {
        let id = process::id().to_string();
        // The signal stops this thread before `kill` could be waited for in vain.
        if let Err(error) = process::Command::new("kill").args(["-STOP", &id]).status() {
            tracing::error!(%error, "could not freeze");
        }
    }
}

/// Lets others go first, and now and then for a while. `name` is for whoever reads the code, and tells the poller's apart.
#[expect(clippy::disallowed_methods, reason = "a delay is what the checker wants")]
pub async fn race(name: &'static str) {
    if !DELAYING.load(Ordering::Relaxed) {
        return;
    }
    let dice = scattered(RACES.fetch_add(1, Ordering::Relaxed));
    let long_one_in = if name.starts_with("poll") { LONG_ONE_IN_POLLS } else { LONG_ONE_IN };
    if dice.is_multiple_of(long_one_in) {
        tokio::time::sleep(LONG_DELAY).await;
    } else if dice.is_multiple_of(DELAYED_ONE_IN) {
        let part = u32::try_from(dice >> 32 & 0xFF).unwrap_or(0);
        tokio::time::sleep(LONGEST_DELAY * part / 0xFF).await;
    } else {
        tokio::task::yield_now().await;
    }
}

/// Steele, Lea and Flood's `SplitMix64`, one step.
fn scattered(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(u64::from(process::id()));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What the next key string of this process is made from.
pub fn minting_random() -> PredictableRandom {
    match SEED.load(Ordering::Relaxed) {
        0 => PredictableRandom(None),
        seed => PredictableRandom::of(seed, MADE.fetch_add(1, Ordering::Relaxed)),
    }
}

/// Bytes that follow from a seed and a number, or those of the operating system.
pub struct PredictableRandom(Option<Stream>);

struct Stream {
    seed: u64,
    number: u64,
    block: u64,
}

impl PredictableRandom {
    /// The bytes for the key string `number` of a process with this `seed`.
    pub fn of(seed: u64, number: u64) -> Self {
        Self(Some(Stream { seed, number, block: 0 }))
    }
}

impl TryRng for PredictableRandom {
    type Error = <SysRng as TryRng>::Error;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, into: &mut [u8]) -> Result<(), Self::Error> {
        let Some(stream) = &mut self.0 else { return SysRng.try_fill_bytes(into) };
        for chunk in into.chunks_mut(32) {
            let mut digest = Sha256::new();
            for part in [stream.seed, stream.number, stream.block] {
                digest.update(part.to_be_bytes());
            }
            stream.block += 1;
            chunk.copy_from_slice(&digest.finalize()[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for PredictableRandom {}
