//! What a key that is held costs in memory.
//!
//! The process is this one, so the first thousand keys are validated before anything is counted: what is there once, such
//! as connections and threads, is there then. Key strings are made when they are asked for. When keys were last used is
//! written down as often as a busy server does, for it is held only until then. Resident memory is the system's word
//! (`VmRSS`), with what the allocator keeps for itself, which is the one that the service has.
//!
//! A hash that cost less than is wanted is renewed once it was proved, which leaves a second proof in memory. A lock on
//! the table keeps the first renewal waiting, and so the few that wait in line behind it.

use std::{
    fs,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use sea_orm::{ConnectionTrait as _, TransactionTrait as _};
use tokio::task::JoinSet;

use super::Sizes;
use crate::{
    asking::{Ask, Code, InProcess, Wrong, pause, settings},
    harness::TestDatabase,
    population::Mint,
};

const IN_FLIGHT: usize = 64;
/// Keys validated before memory is looked at first.
const BEGUN: u64 = 1_000;
/// Keys after which their uses are written down, and renewals that wait are let go on.
const AT_ONCE: u64 = 50_000;

/// Bytes for each key held.
pub struct Held {
    middling: (u64, f64),
    large: (u64, f64),
}

/// Has all keys of the database held, and gives the service that holds them.
pub async fn measure(database: &TestDatabase, sizes: Sizes, wrong: &mut Wrong) -> (Held, Arc<InProcess>) {
    // Memory is divided, and its parts do not fill alike.
    let room = usize::try_from(sizes.large).unwrap() * 5 / 4 + 10_000;
    let service = Arc::new(InProcess::start(database, settings(room)).await);
    let began = Instant::now();
    let first = BEGUN.min(sizes.middling / 2);
    hold(database, &service, 0..first, wrong).await;
    let before = resident();
    let each = |keys: u64| (resident() - before) / (keys - first) as f64;
    hold(database, &service, first..sizes.middling, wrong).await;
    let middling = (sizes.middling, each(sizes.middling));
    hold(database, &service, sizes.middling..sizes.large, wrong).await;
    let large = (sizes.large, each(sizes.large));
    let held = service.app.freshness().keys_held();
    println!("holding {held} keys took {:.0} s; {:.0} MB resident", began.elapsed().as_secs_f64(), resident() / 1e6);
    // The callers are two more.
    if (held as u64) < sizes.large {
        wrong.add(format!("held {held} keys of {}", sizes.large), 1);
    }
    (Held { middling, large }, service)
}

impl Held {
    pub fn tell(&self) {
        let (keys, bytes) = self.middling;
        println!("bytes_per_key_{keys}: {bytes:.0}");
        println!("bytes_per_key: {:.0}", self.large.1);
    }
}

/// Has the keys of these numbers held.
async fn hold(database: &TestDatabase, service: &Arc<InProcess>, numbers: Range<u64>, wrong: &mut Wrong) {
    let by_hand = database.by_hand().await;
    for first in numbers.clone().step_by(AT_ONCE as usize) {
        let lock = by_hand.begin().await.unwrap();
        lock.execute_unprepared("LOCK TABLE credential IN SHARE MODE").await.unwrap();
        validate(service, first..numbers.end.min(first + AT_ONCE), wrong).await;
        // Not for long: a renewal that is given up keeps a connection until the lock is gone.
        lock.rollback().await.unwrap();
        service.app.flush_usage().await.unwrap();
    }
}

/// Validates each key of these once.
pub async fn validate(service: &Arc<InProcess>, numbers: Range<u64>, wrong: &mut Wrong) {
    let next = Arc::new(AtomicU64::new(numbers.start));
    let mut callers = JoinSet::new();
    for _ in 0..IN_FLIGHT {
        let (service, next, end) = (Arc::clone(service), Arc::clone(&next), numbers.end);
        callers.spawn(async move {
            let (ask, mint, mut others) = (Ask::new(), Mint::new(), Vec::new());
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= end {
                    return others;
                }
                let text = mint.text(number);
                let mut answer = ask.decide(&service, &text).await;
                while let Code::Overloaded(retry_after) = answer {
                    pause(retry_after).await;
                    answer = ask.decide(&service, &text).await;
                }
                if answer != Code::Valid {
                    others.push(answer);
                }
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        wrong.note_all("a key that is to be held", ended.unwrap(), Code::Valid);
    }
}

/// Resident memory of this process, in bytes.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1_024.0
}
