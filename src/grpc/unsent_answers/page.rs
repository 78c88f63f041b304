//! A page of keys that waits for its client, and can be taken back while it does.
//!
//! While a client opens no window, the transport does not ask the body for more, so the body cannot notice that it has
//! waited too long. A task of the page's own frees it then.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use prost::bytes::Bytes;
use tokio::{
    task::AbortHandle,
    time::{Instant, sleep_until, timeout_at},
};

use super::ahead::Ahead;
use crate::admission::{AnswerBudgets, Grant, Share};

/// See the module.
pub(super) struct Page {
    waiting: Arc<Waiting>,
    watch: AbortHandle,
}

struct Waiting {
    /// None once it was taken back.
    bytes: Mutex<Option<(Bytes, Grant)>>,
    /// How many chunks were handed on.
    chunks: AtomicU64,
}

impl Page {
    /// Keeps `bytes` on behalf of `share`; none if it may not hold so many. `ahead` is woken when it is taken back.
    pub(super) fn keep(bytes: Bytes, budgets: &AnswerBudgets, share: &Share, ahead: &Arc<Ahead>) -> Option<Self> {
        let grant = budgets.pages().try_take_revocable(share, bytes.len() as u64).ok()?;
        let revoked = grant.revoked();
        let waiting = Arc::new(Waiting { bytes: Mutex::new(Some((bytes, grant))), chunks: AtomicU64::new(0) });
        let (stall, sent_within) = (budgets.limits().stall, budgets.limits().sent_within);
        let (watched, ahead) = (Arc::clone(&waiting), Arc::clone(ahead));
        let watch = tokio::spawn(async move {
            let stalled = async {
                loop {
                    let before = watched.chunks.load(Ordering::Relaxed);
                    sleep_until(Instant::now() + stall).await;
                    if watched.chunks.load(Ordering::Relaxed) == before {
                        return;
                    }
                }
            };
            let over = async {
                tokio::select! { () = revoked => {}, () = stalled => {} }
            };
            drop(timeout_at(Instant::now() + sent_within, over).await);
            watched.lock().take();
            ahead.wake();
        });
        Some(Self { waiting, watch: watch.abort_handle() })
    }

    /// The next bytes, at most `most` of them; nothing if there are no more, none if the page was taken back.
    pub(super) fn next_chunk(&self, most: usize) -> Option<Bytes> {
        let mut waiting = self.waiting.lock();
        let (bytes, _) = waiting.as_mut()?;
        self.waiting.chunks.fetch_add(1, Ordering::Relaxed);
        Some(bytes.split_to(most.min(bytes.len())))
    }

    pub(super) fn is_taken_back(&self) -> bool {
        self.waiting.lock().is_none()
    }
}

impl Waiting {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Bytes, Grant)>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
