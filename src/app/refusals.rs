//! Writing refused acts down, at most one a second and off the way of the call; the rest is counted.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use super::App;
use crate::{
    domain::{Caller, Time},
    store::RefusedAct,
};

/// How far apart two entries are at least.
const INTERVAL: Duration = Duration::from_secs(1);

/// When the last entry was written, and how many were not since.
#[derive(Default)]
pub(super) struct Refusals {
    last: Mutex<Option<Time>>,
    suppressed: AtomicI64,
}

impl App {
    /// Notes that `caller` was refused `rpc` for `reason`, both as the API names them.
    pub fn note_refusal(self: &Arc<Self>, caller: &Caller, rpc: &'static str, reason: &'static str) {
        let now = self.now();
        {
            let mut last = self.refusals.last.lock().unwrap_or_else(PoisonError::into_inner);
            // A clock that was set back counts as long ago, or it would silence the log.
            let recent = last.is_some_and(|last| now >= last && now.since(last) < INTERVAL);
            if recent {
                self.refusals.suppressed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            *last = Some(now);
        }
        let act = RefusedAct {
            time: now,
            actor: caller.key_id(),
            merchant: caller.merchant(),
            peer: caller.peer(),
            rpc,
            reason,
            suppressed: self.refusals.suppressed.swap(0, Ordering::Relaxed),
        };
        let app = Arc::clone(self);
        self.mutations.spawn(async move {
            let _turn = app.changes.background().await;
            if let Err(error) = app.store.refusal_insert(&act).await {
                tracing::warn!(?error, rpc, reason, "a refused act could not be written down");
            }
        });
    }
}
