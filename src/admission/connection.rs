//! One connection of a client: who calls on it, what it carries, and how it is closed from outside.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering},
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;

use super::{Share, connections::Registry, unread::Unread};

/// Why a connection was closed by this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// All places were taken and another client connected.
    PlaceNeeded = 1,
    /// The client accepted no byte for too long while there was something to send.
    Stalled,
    /// The client sent too many bytes that were no part of a call.
    ControlFlood,
    /// The client left answers unread for too long, or too many bytes of them.
    AnswersUnread,
}

impl CloseReason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::PlaceNeeded, Self::Stalled, Self::ControlFlood, Self::AnswersUnread];

    /// The name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::PlaceNeeded => "place_needed",
            Self::Stalled => "stalled",
            Self::ControlFlood => "control_flood",
            Self::AnswersUnread => "answers_unread",
        }
    }
}

/// The state of one connection, shared by the transport and the calls on it. Cheap to clone.
#[derive(Clone)]
pub struct ConnectionHandle(Arc<State>);

struct State {
    /// Connections are numbered in the order in which they were accepted.
    number: u64,
    peer: SocketAddr,
    peer_share: Share,
    registry: Registry,
    /// The [`CloseReason`]; 0 while the connection is open.
    closed: AtomicU8,
    /// Wakes the task that drives the connection.
    waker: AtomicWaker,
    /// Since when the client has accepted no byte although there is something to send.
    stalled_since: Mutex<Option<Instant>>,
    open_calls: AtomicU32,
    unread: Unread,
    /// Whether its caller has left too many bytes of answers unread.
    is_over_budget: AtomicBool,
    /// The first half of the id of the key that called last, so that most calls need no lock to note their caller.
    last_key: AtomicU64,
    callers: Mutex<Callers>,
    /// Whether the registry has yet to learn that the caller changed.
    caller_changed: AtomicBool,
}

/// Who calls on a connection.
#[derive(Default)]
struct Callers {
    last: Option<Share>,
    are_several: bool,
}

impl ConnectionHandle {
    pub(super) fn new(number: u64, peer: SocketAddr, registry: Registry) -> Self {
        Self(Arc::new(State {
            number,
            peer,
            peer_share: Share::of_peer(peer.ip()),
            registry,
            closed: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            stalled_since: Mutex::default(),
            open_calls: AtomicU32::new(0),
            unread: Unread::default(),
            is_over_budget: AtomicBool::new(false),
            last_key: AtomicU64::new(0),
            callers: Mutex::default(),
            caller_changed: AtomicBool::new(false),
        }))
    }

    pub(super) fn number(&self) -> u64 {
        self.0.number
    }

    /// The address of the client.
    pub fn peer(&self) -> SocketAddr {
        self.0.peer
    }

    /// The share of the client's address.
    pub fn peer_share(&self) -> &Share {
        &self.0.peer_share
    }

    /// The caller of the last authenticated call.
    pub fn last_caller(&self) -> Option<Share> {
        self.callers().last.clone()
    }

    /// On whose behalf the connection holds what it holds: its last caller, or the peer before the first authenticated call.
    pub fn share(&self) -> Share {
        self.last_caller().unwrap_or_else(|| self.0.peer_share.clone())
    }

    /// Whether more than one caller made authenticated calls on it, as on a proxy's connection.
    pub fn has_several_callers(&self) -> bool {
        self.callers().are_several
    }

    /// Notes that `share` made an authenticated call.
    pub fn note_authenticated(&self, share: &Share) {
        let mut callers = self.callers();
        if callers.last.as_ref() == Some(share) {
            return;
        }
        callers.are_several |= callers.last.is_some();
        callers.last = Some(share.clone());
        drop(callers);
        // The registry asks for the caller when it has to know, so callers that take turns cost no lock of all connections.
        if !self.0.caller_changed.swap(true, Ordering::AcqRel) {
            self.0.registry.caller_changed(self);
        }
    }

    /// As [`note_authenticated`](Self::note_authenticated), for the fast path: `share` is made only if another key than
    /// `key` called last.
    pub fn note_authenticated_key(&self, key: &[u8; 16], share: impl FnOnce() -> Share) {
        let key = key.first_chunk().copied().map_or(0, u64::from_le_bytes);
        if self.0.last_key.load(Ordering::Relaxed) != key {
            self.note_authenticated(&share());
            self.0.last_key.store(key, Ordering::Relaxed);
        }
    }

    /// Makes the caller known to the registry, which from now on has to be notified of the next change.
    pub(super) fn caller_for_registry(&self) -> Option<Share> {
        self.0.caller_changed.store(false, Ordering::Release);
        self.last_caller()
    }

    /// Counts a call until the guard is dropped.
    pub fn open_call(&self) -> OpenCall {
        self.0.open_calls.fetch_add(1, Ordering::Relaxed);
        OpenCall(self.clone())
    }

    /// Whether no call is open on it.
    pub fn is_idle(&self) -> bool {
        self.0.open_calls.load(Ordering::Relaxed) == 0
    }

    pub(super) fn unread(&self) -> &Unread {
        &self.0.unread
    }

    pub(super) fn set_over_budget(&self, is_over_budget: bool) {
        self.0.is_over_budget.store(is_over_budget, Ordering::Relaxed);
    }

    /// Whether its caller has left too many bytes of answers unread, so that its calls are refused.
    pub fn is_over_budget(&self) -> bool {
        self.0.is_over_budget.load(Ordering::Relaxed)
    }

    /// Notes since when the client accepts no byte although there is something to send; none: it accepts bytes.
    pub fn note_stalled(&self, since: Option<Instant>) {
        *self.0.stalled_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// For how long the client has accepted no byte although there is something to send.
    pub(super) fn stalled_for(&self, now: Instant) -> Duration {
        let since = *self.0.stalled_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Closes the connection. The task that drives it learns of it when it polls it the next time, and is woken for that.
    pub fn close(&self, reason: CloseReason) {
        if self.0.closed.compare_exchange(0, reason as u8, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.0.registry.count_closed(reason);
            self.0.waker.wake();
        }
    }

    /// Whether it was closed by this process.
    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire) != 0
    }

    /// Why it was closed by this process.
    pub fn closed_for(&self) -> Option<CloseReason> {
        let closed = self.0.closed.load(Ordering::Acquire);
        CloseReason::ALL.into_iter().find(|reason| *reason as u8 == closed)
    }

    /// Ready once it was closed; until then `waker` is woken when that happens. One task alone may poll this.
    pub fn poll_closed(&self, waker: &Waker) -> Poll<()> {
        self.0.waker.register(waker);
        if self.is_closed() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until it is closed. One task alone may wait.
    pub async fn closed(&self) {
        std::future::poll_fn(|context| self.poll_closed(context.waker())).await;
    }

    fn callers(&self) -> MutexGuard<'_, Callers> {
        self.0.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that is open on a connection, from its headers until its answer was dropped.
pub struct OpenCall(ConnectionHandle);

impl OpenCall {
    /// The connection.
    pub fn connection(&self) -> &ConnectionHandle {
        &self.0
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.0.open_calls.fetch_sub(1, Ordering::Relaxed);
    }
}
