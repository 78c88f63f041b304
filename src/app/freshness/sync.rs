//! What the core of freshness is synchronised by. The model (`tests/model`) puts the checked kind in its place.

pub(super) use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};
use std::{cell::Cell, sync::atomic::AtomicUsize};

/// Parts of what is [spread](super::spread) over threads.
pub(super) const PARTS: usize = 16;

thread_local! {
    /// [`PARTS`]: none was given yet.
    static PART: Cell<usize> = const { Cell::new(PARTS) };
}

/// Threads that were given a part.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// The part of the thread that asks, always the same.
pub(super) fn part() -> usize {
    let part = PART.get();
    if part < PARTS {
        return part;
    }
    let part = THREADS.fetch_add(1, Ordering::Relaxed) % PARTS;
    PART.set(part);
    part
}
