//! Turns at a computation, which shares take one after the other.
//!
//! A [`Budget`](super::Budget) refuses a share that has all that it may have. Here it waits, however many of its own are in
//! front of it, and a share with one waiting computation does not wait behind all those of another.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::Share;

/// So many computations at once, in turn by share. Cheap to clone; clones are the same turns.
#[derive(Clone)]
pub struct Turns(Arc<Mutex<State>>);

struct State {
    free: usize,
    waiting: HashMap<Share, VecDeque<oneshot::Sender<Turn>>>,
    /// The shares that wait, the next one first.
    order: VecDeque<Share>,
}

impl Turns {
    /// So many at once, at least one.
    pub fn new(at_once: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: at_once.max(1), waiting: HashMap::new(), order: VecDeque::new() })))
    }

    /// Waits for a turn of `share`. Cancel safe.
    pub async fn take(&self, share: &Share) -> Turn {
        let turn = {
            let mut state = self.lock();
            if state.free > 0 {
                state.free -= 1;
                return Turn(Some(self.clone()));
            }
            let (send, receive) = oneshot::channel();
            let queue = state.waiting.entry(share.clone()).or_default();
            queue.push_back(send);
            if queue.len() == 1 {
                state.order.push_back(share.clone());
            }
            receive
        };
        // A sender is dropped only after it sent.
        turn.await.unwrap_or(Turn(None))
    }

    fn pass_on(&self) {
        let mut state = self.lock();
        while let Some(share) = state.order.pop_front() {
            let Some(queue) = state.waiting.get_mut(&share) else { continue };
            let next = queue.pop_front();
            if queue.is_empty() {
                state.waiting.remove(&share);
            } else {
                state.order.push_back(share);
            }
            match next.map(|next| next.send(Turn(Some(self.clone())))) {
                Some(Ok(())) => return,
                // It waits no more. The drop of its turn would take the lock that is held here.
                Some(Err(mut unwanted)) => unwanted.0 = None,
                None => {}
            }
        }
        state.free += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete before the lock is released, so a panic leaves it consistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A turn, until it is dropped.
#[must_use = "dropping a turn ends it"]
pub struct Turn(Option<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(turns) = self.0.take() {
            turns.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, poll};

    use super::*;

    fn share(name: &str) -> Share {
        Share::Merchant(name.into())
    }

    #[tokio::test]
    async fn shares_alternate_however_many_of_one_wait() {
        let turns = Turns::new(1);
        let (a, b) = (share("a"), share("b"));
        let mut turn = turns.take(&a).await;
        let mut of_a: Vec<_> = (0..100).map(|_| Box::pin(turns.take(&a))).collect();
        for waits in &mut of_a {
            assert!(poll!(waits).is_pending());
        }
        let mut of_b: Vec<_> = (0..2).map(|_| Box::pin(turns.take(&b))).collect();
        for waits in &mut of_b {
            assert!(poll!(waits).is_pending());
        }
        for (share, number) in [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("a", 3)] {
            drop(turn);
            let waits = if share == "a" { &mut of_a[number] } else { &mut of_b[number] };
            turn = waits.now_or_never().unwrap();
        }
    }

    #[tokio::test]
    async fn a_turn_of_a_computation_that_was_given_up_goes_to_the_next() {
        let turns = Turns::new(2);
        let (a, b) = (share("a"), share("b"));
        let (first, second) = (turns.take(&a).await, turns.take(&a).await);
        let (mut gone, mut late, mut last) =
            (Box::pin(turns.take(&a)), Box::pin(turns.take(&b)), Box::pin(turns.take(&a)));
        assert!(poll!(&mut gone).is_pending() && poll!(&mut late).is_pending() && poll!(&mut last).is_pending());
        drop(gone);
        drop(first);
        // Its turn came and it never learned of it.
        drop(late);
        let third = last.now_or_never().unwrap();
        drop((second, third));
        assert_eq!(turns.lock().free, 2);
        assert!(turns.lock().waiting.is_empty() && turns.lock().order.is_empty());
    }
}
