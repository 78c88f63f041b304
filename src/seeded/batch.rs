//! The checker's build: a lease that is judged once for a whole batch of items of a stream.

use std::{
    cell::RefCell,
    future::Future,
    sync::{Arc, OnceLock},
};

use futures_util::future::poll_fn;

use super::{Bug, bug};
use crate::clock::Uptime;

/// What a stream does until it has nothing to do, and when its lease was judged.
#[derive(Clone, Debug, Default)]
pub struct Batch(Arc<OnceLock<Uptime>>);

thread_local! {
    /// Of the item that this thread works on.
    static CURRENT: RefCell<Option<Batch>> = const { RefCell::new(None) };
}

/// The work on one item of a batch.
pub fn in_batch<F: Future>(batch: Batch, work: F) -> impl Future<Output = F::Output> {
    let mut work = Box::pin(work);
    poll_fn(move |context| {
        let before = CURRENT.replace(Some(batch.clone()));
        let polled = work.as_mut().poll(context);
        CURRENT.set(before);
        polled
    })
}

/// When the lease is judged: now, or with the bug, when that of the batch was.
pub fn when_judged(now: impl FnOnce() -> Uptime) -> Uptime {
    match CURRENT.with_borrow(Clone::clone).filter(|_| bug(Bug::LeaseOncePerBatch)) {
        Some(Batch(judged)) => *judged.get_or_init(now),
        None => now(),
    }
}
