//! What the core of freshness is synchronised by. The model (`tests/model`) puts the checked kind in its place.

pub(super) use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};
