//! The places of all connections, and which connection gives way when all places are taken.
//!
//! No peer has a fixed number of places: behind one address there can be a whole data centre. What a full house costs is
//! decided by who holds most. Clients that never authenticated come first as long as they hold more than an eighth.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{CloseReason, ConnectionHandle, Share, groups::Groups};

/// All connections of a server. Cheap to clone; clones are the same connections.
#[derive(Clone)]
pub struct Connections(Registry);

/// What connections and their owner share.
#[derive(Clone)]
pub(super) struct Registry(Arc<Inner>);

struct Inner {
    places: usize,
    state: Mutex<State>,
    /// A connection that was closed has been dropped.
    dropped: Notify,
    /// By [`CloseReason`].
    closed: [AtomicU64; CloseReason::ALL.len()],
}

#[derive(Default)]
struct State {
    next: u64,
    /// Those that never carried an authenticated call, by their peer.
    anonymous: Groups,
    /// The others, by their last caller.
    authenticated: Groups,
    /// In which group each connection is that holds a place.
    placed: HashMap<u64, Group>,
    /// Connections whose caller has changed since they were grouped.
    changed: Vec<ConnectionHandle>,
    /// Connections that were closed to make room and still exist.
    leaving: usize,
}

#[derive(Clone)]
enum Group {
    Anonymous(Share),
    Authenticated(Share),
}

impl Connections {
    /// With so many places, at least one.
    pub fn new(places: usize) -> Self {
        Self(Registry(Arc::new(Inner {
            places: places.max(1),
            state: Mutex::default(),
            dropped: Notify::new(),
            closed: Default::default(),
        })))
    }

    /// Waits while too many connections that were closed to make room still exist: each of them holds a descriptor.
    pub async fn until_room(&self) {
        let most_leaving = self.0.0.places / 32 + 1;
        loop {
            let dropped = self.0.0.dropped.notified();
            if self.0.lock().leaving < most_leaving {
                return;
            }
            dropped.await;
        }
    }

    /// Gives a place to a connection from `peer`. If all places are taken, another connection is closed and returned beside it.
    pub fn admit(&self, peer: SocketAddr) -> (Place, Option<ConnectionHandle>) {
        let mut state = self.0.lock();
        let gives_way =
            (state.placed.len() >= self.0.0.places).then(|| state.take_one_that_gives_way(self.0.0.places)).flatten();
        let number = state.next;
        state.next += 1;
        let handle = ConnectionHandle::new(number, peer, self.0.clone());
        let share = handle.peer_share().clone();
        state.anonymous.insert(&share, &handle);
        state.placed.insert(number, Group::Anonymous(share));
        drop(state);
        if let Some(gives_way) = &gives_way {
            gives_way.close(CloseReason::PlaceNeeded);
        }
        (Place(handle, self.0.clone()), gives_way)
    }

    /// How many hold a place: without an authenticated call so far, and with one.
    pub fn count(&self) -> (usize, usize) {
        let mut state = self.0.lock();
        state.regroup();
        (state.anonymous.size(), state.authenticated.size())
    }

    /// Closes connections whose clients have accepted no byte for `limit` although there is something to send.
    pub fn close_stalled(&self, now: Instant, limit: Duration) {
        for handle in self.all() {
            if handle.stalled_for(now) >= limit {
                handle.close(CloseReason::Stalled);
            }
        }
    }

    /// Returns these connections for as long as they are used elsewhere.
    pub fn weak(&self) -> impl Fn() -> Option<Self> + Send + Sync + 'static {
        let weak = Arc::downgrade(&self.0.0);
        move || Some(Self(Registry(weak.upgrade()?)))
    }

    /// How many were closed for `reason`.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.0.0.closed[reason as usize - 1].load(Ordering::Relaxed)
    }

    /// All that hold a place.
    pub fn all(&self) -> Vec<ConnectionHandle> {
        let mut state = self.0.lock();
        state.regroup();
        let State { anonymous, authenticated, .. } = &*state;
        [anonymous, authenticated].into_iter().flat_map(Groups::handles).cloned().collect()
    }
}

impl Registry {
    /// Has the connection grouped by its caller before the groups are used again.
    pub(super) fn caller_changed(&self, handle: &ConnectionHandle) {
        self.lock().changed.push(handle.clone());
    }

    pub(super) fn count_closed(&self, reason: CloseReason) {
        self.0.closed[reason as usize - 1].fetch_add(1, Ordering::Relaxed);
    }

    fn release(&self, handle: &ConnectionHandle) {
        let mut state = self.lock();
        if state.take(handle).is_none() {
            state.leaving -= 1;
            drop(state);
            self.0.dropped.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete before the lock is released, so a panic leaves it consistent.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts connections whose caller has changed into the group of that caller.
    fn regroup(&mut self) {
        for handle in std::mem::take(&mut self.changed) {
            let caller = handle.caller_for_registry();
            let (Some(caller), Some(_)) = (caller, self.take(&handle)) else { continue };
            self.authenticated.insert(&caller, &handle);
            self.placed.insert(handle.number(), Group::Authenticated(caller));
        }
    }

    /// Takes the place of the connection away, if it has one.
    fn take(&mut self, handle: &ConnectionHandle) -> Option<Group> {
        let group = self.placed.remove(&handle.number())?;
        match &group {
            Group::Anonymous(share) => self.anonymous.remove(share, handle.number()),
            Group::Authenticated(share) => self.authenticated.remove(share, handle.number()),
        }
        Some(group)
    }

    fn take_one_that_gives_way(&mut self, places: usize) -> Option<ConnectionHandle> {
        self.regroup();
        let anonymous_first = self.anonymous.size() * 8 > places;
        let found = if anonymous_first { self.anonymous.oldest_of_largest() } else { None }
            .or_else(|| self.authenticated.oldest_idle_of_largest())
            .or_else(|| self.authenticated.oldest_of_largest())
            .or_else(|| self.anonymous.oldest_of_largest())?
            .clone();
        self.take(&found);
        self.leaving += 1;
        Some(found)
    }
}

/// The place of one connection, until it is dropped.
#[must_use = "dropping a place gives it back"]
pub struct Place(ConnectionHandle, Registry);

impl Place {
    /// The connection that holds it.
    pub fn handle(&self) -> &ConnectionHandle {
        &self.0
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.1.release(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, poll};

    use super::*;

    fn peer(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 1))
    }

    fn merchant(name: &str) -> Share {
        Share::Merchant(name.into())
    }

    /// Fills `connections` with one from each of `peers`, none of which has to give way.
    fn fill(connections: &Connections, peers: impl IntoIterator<Item = u8>) -> Vec<Place> {
        peers
            .into_iter()
            .map(|last| {
                let (place, gave_way) = connections.admit(peer(last));
                assert!(gave_way.is_none());
                place
            })
            .collect()
    }

    fn number_of(gave_way: Option<ConnectionHandle>) -> u64 {
        let gave_way = gave_way.unwrap();
        assert_eq!(gave_way.closed_for(), Some(CloseReason::PlaceNeeded));
        gave_way.number()
    }

    #[test]
    fn the_peer_with_most_connections_that_never_authenticated_loses_its_oldest() {
        let connections = Connections::new(16);
        let places = fill(&connections, [1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 4]);
        // The peer 3 holds most in all, but has authenticated on all but one.
        for place in &places[7..12] {
            place.handle().note_authenticated(&merchant("a"));
        }
        let (_new, gave_way) = connections.admit(peer(5));
        assert_eq!(number_of(gave_way), 3);
        assert_eq!(connections.count(), (11, 5));
        assert_eq!(connections.closed(CloseReason::PlaceNeeded), 1);
    }

    #[test]
    fn of_peers_with_equally_many_the_oldest_connection_gives_way() {
        let connections = Connections::new(8);
        let _places = fill(&connections, 1..=8);
        let (_a, first) = connections.admit(peer(200));
        let (_b, second) = connections.admit(peer(201));
        assert_eq!((number_of(first), number_of(second)), (0, 1));
    }

    #[test]
    fn below_an_eighth_the_caller_with_most_loses_its_oldest_idle_connection() {
        let connections = Connections::new(8);
        let places = fill(&connections, 1..=8);
        for (place, caller) in places.iter().zip(["a", "a", "a", "a", "b", "b", "b"]) {
            place.handle().note_authenticated(&merchant(caller));
        }
        let _busy = places[0].handle().open_call();
        // The one that never authenticated is no more than an eighth.
        let (_new, gave_way) = connections.admit(peer(9));
        assert_eq!(number_of(gave_way), 1);
    }

    #[test]
    fn if_none_is_idle_the_oldest_of_the_caller_with_most_gives_way() {
        let connections = Connections::new(8);
        let places = fill(&connections, 1..=8);
        let mut calls = Vec::new();
        for (place, caller) in places.iter().zip(["b", "a", "a", "a", "a", "b", "b", "c"]) {
            place.handle().note_authenticated(&merchant(caller));
            calls.push(place.handle().open_call());
        }
        let (_new, gave_way) = connections.admit(peer(9));
        assert_eq!(number_of(gave_way), 1);
    }

    #[test]
    fn a_connection_counts_for_the_caller_of_its_last_call() {
        let connections = Connections::new(8);
        let places = fill(&connections, 1..=8);
        for place in &places {
            place.handle().note_authenticated(&merchant("a"));
        }
        assert!(!places[0].handle().has_several_callers());
        for place in &places[..5] {
            place.handle().note_authenticated(&merchant("b"));
        }
        assert!(places[0].handle().has_several_callers());
        let (_new, gave_way) = connections.admit(peer(9));
        assert_eq!(number_of(gave_way), 0);
        places[1].handle().note_authenticated(&merchant("a"));
        places[2].handle().note_authenticated(&merchant("a"));
        let (_newer, gave_way) = connections.admit(peer(9));
        assert_eq!(number_of(gave_way), 1, "the newcomer is anonymous and no more than an eighth");
    }

    #[test]
    fn the_share_of_the_same_key_is_made_once() {
        let connections = Connections::new(8);
        let (place, _) = connections.admit(peer(1));
        let mut made = 0;
        for key in [[1; 16], [1; 16], [2; 16], [2; 16], [1; 16]] {
            place.handle().note_authenticated_key(&key, || {
                made += 1;
                merchant("a")
            });
        }
        assert_eq!((made, place.handle().last_caller()), (3, Some(merchant("a"))));
    }

    #[tokio::test]
    async fn closing_wakes_the_task_of_the_connection() {
        let connections = Connections::new(8);
        let (place, _) = connections.admit(peer(1));
        let handle = place.handle().clone();
        let mut closed = Box::pin(handle.closed());
        assert!(poll!(&mut closed).is_pending());
        place.handle().close(CloseReason::Stalled);
        place.handle().close(CloseReason::ControlFlood);
        closed.await;
        assert_eq!(handle.closed_for(), Some(CloseReason::Stalled), "the first reason stays");
        assert_eq!(connections.closed(CloseReason::ControlFlood), 0);
    }

    #[tokio::test]
    async fn accepting_pauses_while_too_many_closed_connections_still_exist() {
        let connections = Connections::new(8);
        let mut places = fill(&connections, 1..=8);
        assert!(connections.until_room().now_or_never().is_some());
        let (_new, _) = connections.admit(peer(9));
        let waiting = connections.clone();
        let mut waits = Box::pin(waiting.until_room());
        assert!(poll!(&mut waits).is_pending());
        drop(places.remove(0));
        waits.await;
        drop(places);
        assert_eq!(connections.count(), (1, 0));
    }
}
