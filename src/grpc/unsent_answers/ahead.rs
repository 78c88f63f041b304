//! Bytes of an answer that the transport holds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
};

use futures_util::task::AtomicWaker;
use prost::bytes::Bytes;

use crate::admission::{ConnectionHandle, UnreadAnswer};

/// How much of one answer the transport holds.
#[derive(Default)]
pub(super) struct Ahead {
    bytes: AtomicUsize,
    waker: AtomicWaker,
}

impl Ahead {
    /// How many bytes it holds. If these are `most` or more, `waker` is woken when it has dropped some.
    pub(super) fn bytes(&self, most: usize, waker: &Waker) -> usize {
        let bytes = self.bytes.load(Ordering::Acquire);
        if bytes < most {
            return bytes;
        }
        self.waker.register(waker);
        self.bytes.load(Ordering::Acquire)
    }

    /// Wakes the task of the answer.
    pub(super) fn wake(&self) {
        self.waker.wake();
    }
}

/// Bytes that count until the transport drops them.
struct Held {
    bytes: Bytes,
    ahead: Option<Arc<Ahead>>,
    _unread: UnreadAnswer,
}

/// The same bytes, counted on `connection`, and in `ahead`, until the transport drops them.
pub(super) fn hold(bytes: Bytes, connection: &ConnectionHandle, ahead: Option<&Arc<Ahead>>) -> Bytes {
    if bytes.is_empty() {
        return bytes;
    }
    if let Some(ahead) = ahead {
        ahead.bytes.fetch_add(bytes.len(), Ordering::AcqRel);
    }
    let unread = connection.count_unread(bytes.len());
    Bytes::from_owner(Held { bytes, ahead: ahead.cloned(), _unread: unread })
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(ahead) = &self.ahead {
            ahead.bytes.fetch_sub(self.bytes.len(), Ordering::AcqRel);
            ahead.wake();
        }
    }
}
