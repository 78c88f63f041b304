//! A bounded amount of something, divided among shares.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::{Notify, oneshot};

use super::Share;

/// Which of the revocable grants of the share that holds most ends first when the budget is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivesWay {
    /// The grant that was taken last.
    Newest,
    /// The grant that was taken first.
    Oldest,
}

/// Why nothing was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The share holds all that one share may hold.
    #[error("the share holds the most that one share may hold of the budget")]
    Share,
    /// The budget is full, and no other share that holds more can give way.
    #[error("the budget is full")]
    Budget,
}

/// A bound on an amount (of permits, bytes, streams) that is fair between shares. Cheap to clone; clones are the same
/// budget.
#[derive(Clone)]
pub struct Budget(Arc<Inner>);

struct Inner {
    total: u64,
    share_limit: u64,
    gives_way: GivesWay,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: u64,
    /// The number of the next grant.
    next: u64,
    shares: HashMap<Share, Holding>,
    waiting: Vec<Waiter>,
}

/// What one share holds.
#[derive(Default)]
struct Holding {
    amount: u64,
    /// Grants that can be taken back, by their number.
    revocable: BTreeMap<u64, (u64, Arc<Revocation>)>,
}

struct Waiter {
    share: Share,
    amount: u64,
    granted: oneshot::Sender<Grant>,
}

#[derive(Default)]
struct Revocation {
    is_revoked: AtomicBool,
    notify: Notify,
}

impl Budget {
    /// A budget of `total`. When it is full, revocable grants end in the order that `gives_way` says.
    pub fn new(total: u64, gives_way: GivesWay) -> Self {
        Self::with_share_limit(total, (total - total / 8).max(1), gives_way)
    }

    /// A budget of `total`, of which one share may hold `share_limit`.
    pub fn with_share_limit(total: u64, share_limit: u64, gives_way: GivesWay) -> Self {
        Self(Arc::new(Inner { total, share_limit, gives_way, state: Mutex::default() }))
    }

    /// The most that one share may hold: seven eighths of the total, and at least 1, unless it was limited further.
    pub fn share_limit(&self) -> u64 {
        self.0.share_limit
    }

    /// How much is held now, in all.
    pub fn used(&self) -> u64 {
        self.0.lock().used
    }

    /// How much `share` holds now.
    pub fn used_by(&self, share: &Share) -> u64 {
        self.0.lock().held_by(share)
    }

    /// Takes `amount` for `share`; it cannot be taken back.
    ///
    /// # Errors
    /// [`Full`]; then nothing is held.
    pub fn try_take(&self, share: &Share, amount: u64) -> Result<Grant, Full> {
        let mut state = self.0.lock();
        self.0.make_room(&mut state, share, amount)?;
        Ok(self.0.grant(&mut state, share, amount, None))
    }

    /// Takes `amount` for `share` until the grant is dropped or [revoked](Grant::revoked).
    ///
    /// # Errors
    /// [`Full`]; then nothing is held.
    pub fn try_take_revocable(&self, share: &Share, amount: u64) -> Result<Grant, Full> {
        let mut state = self.0.lock();
        self.0.make_room(&mut state, share, amount)?;
        Ok(self.0.grant(&mut state, share, amount, Some(Arc::default())))
    }

    /// Takes `amount` for `share` until the grant is dropped or [revoked](Grant::revoked), even if the budget is full or the
    /// share holds all that it may: then revocable grants of the share that holds most end, which may be this one.
    ///
    /// # Errors
    /// [`Full`] if too little of what is held can be taken back.
    pub fn take_displacing(&self, share: &Share, amount: u64) -> Result<Grant, Full> {
        let mut state = self.0.lock();
        loop {
            let own_is_full = state.held_by(share).saturating_add(amount) > self.0.share_limit;
            if !own_is_full && self.0.total - state.used.min(self.0.total) >= amount {
                return Ok(self.0.grant(&mut state, share, amount, Some(Arc::default())));
            }
            let victim = if own_is_full { Some(share.clone()) } else { state.largest_revocable(share) };
            let Some(victim) = victim else { return Err(Full::Budget) };
            if !state.revoke_one_of(&victim, self.0.gives_way) {
                return Err(Full::Share);
            }
        }
    }

    /// Takes `amount` for `share`, waiting for it while the budget is full. It cannot be taken back. Cancel safe.
    ///
    /// Among the shares that wait, the one that holds least is next; within a share, the call that waits longest.
    ///
    /// # Errors
    /// [`Full`] at once if the share itself is the reason: it is at its limit, or no other share holds more.
    pub async fn take(&self, share: &Share, amount: u64) -> Result<Grant, Full> {
        let granted = {
            let mut state = self.0.lock();
            match self.0.make_room(&mut state, share, amount) {
                Ok(()) => return Ok(self.0.grant(&mut state, share, amount, None)),
                Err(Full::Budget) if state.some_other_holds_more(share) => {}
                Err(full) => return Err(full),
            }
            let (granted, receive) = oneshot::channel();
            state.waiting.push(Waiter { share: share.clone(), amount, granted });
            receive
        };
        granted.await.map_err(|_| Full::Budget)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is complete before the lock is released, so a panic leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes sure that `amount` is free for `share`, if need be by revoking grants of the share that holds most.
    fn make_room(&self, state: &mut State, share: &Share, amount: u64) -> Result<(), Full> {
        let own = state.held_by(share);
        if own.saturating_add(amount) > self.share_limit {
            return Err(Full::Share);
        }
        while self.total - state.used.min(self.total) < amount {
            let victim = state
                .shares
                .iter()
                .filter(|(other, holding)| *other != share && holding.amount > own && !holding.revocable.is_empty())
                .max_by_key(|(_, holding)| holding.amount)
                .map(|(victim, _)| victim.clone())
                .ok_or(Full::Budget)?;
            state.revoke_one_of(&victim, self.gives_way);
        }
        Ok(())
    }

    fn grant(
        self: &Arc<Self>,
        state: &mut State,
        share: &Share,
        amount: u64,
        revocation: Option<Arc<Revocation>>,
    ) -> Grant {
        let number = state.next;
        state.next += 1;
        state.used += amount;
        let holding = state.shares.entry(share.clone()).or_default();
        holding.amount += amount;
        if let Some(revocation) = &revocation {
            holding.revocable.insert(number, (amount, Arc::clone(revocation)));
        }
        Grant { budget: Arc::downgrade(self), share: share.clone(), number, amount, revocation }
    }

    /// Grants what has become free to those who wait.
    fn serve_waiting(self: &Arc<Self>, state: &mut State) {
        loop {
            state.waiting.retain(|waiter| !waiter.granted.is_closed());
            // The first of equals is the one that has waited longest.
            let next = (0..state.waiting.len())
                .filter(|index| {
                    let waiter = &state.waiting[*index];
                    let own = state.held_by(&waiter.share);
                    self.total - state.used.min(self.total) >= waiter.amount && own + waiter.amount <= self.share_limit
                })
                .min_by_key(|index| state.held_by(&state.waiting[*index].share));
            let Some(next) = next else { return };
            let Waiter { share, amount, granted } = state.waiting.remove(next);
            let grant = self.grant(state, &share, amount, None);
            if let Err(mut unwanted) = granted.send(grant) {
                // Its drop would take the lock that is held here.
                state.release(&unwanted.share, unwanted.number, unwanted.amount);
                unwanted.budget = Weak::new();
            }
        }
    }
}

impl State {
    fn held_by(&self, share: &Share) -> u64 {
        self.shares.get(share).map_or(0, |holding| holding.amount)
    }

    fn some_other_holds_more(&self, share: &Share) -> bool {
        let own = self.held_by(share);
        self.shares.iter().any(|(other, holding)| other != share && holding.amount > own)
    }

    fn release(&mut self, share: &Share, number: u64, amount: u64) {
        let Some(holding) = self.shares.get_mut(share) else { return };
        holding.revocable.remove(&number);
        holding.amount -= amount;
        self.used -= amount;
        if holding.amount == 0 && holding.revocable.is_empty() {
            self.shares.remove(share);
        }
    }

    /// The share that holds most of those that hold something that can be taken back; of equal ones `own`.
    fn largest_revocable(&self, own: &Share) -> Option<Share> {
        let revocable = self.shares.iter().filter(|(_, holding)| !holding.revocable.is_empty());
        revocable.max_by_key(|(share, holding)| (holding.amount, *share == own)).map(|(share, _)| share.clone())
    }

    /// Whether there was one to revoke.
    fn revoke_one_of(&mut self, share: &Share, gives_way: GivesWay) -> bool {
        let Some(holding) = self.shares.get_mut(share) else { return false };
        let found = match gives_way {
            GivesWay::Newest => holding.revocable.last_key_value(),
            GivesWay::Oldest => holding.revocable.first_key_value(),
        };
        let Some((number, (amount, revocation))) = found else { return false };
        let (number, amount, revocation) = (*number, *amount, Arc::clone(revocation));
        revocation.is_revoked.store(true, Ordering::Release);
        revocation.notify.notify_waiters();
        self.release(share, number, amount);
        true
    }
}

/// A part of a [`Budget`]. Dropping it gives it back.
#[must_use = "dropping a grant gives it back"]
pub struct Grant {
    budget: Weak<Inner>,
    share: Share,
    number: u64,
    amount: u64,
    revocation: Option<Arc<Revocation>>,
}

impl Grant {
    /// Whether the budget took this back. What it was for has to end now.
    pub fn is_revoked(&self) -> bool {
        self.revocation.as_ref().is_some_and(|revocation| revocation.is_revoked.load(Ordering::Acquire))
    }

    /// Waits until the budget takes this back; pending forever if that cannot be.
    pub fn revoked(&self) -> impl Future<Output = ()> + Send + 'static {
        let revocation = self.revocation.clone();
        async move {
            let Some(revocation) = revocation else { return std::future::pending().await };
            let mut notified = Box::pin(revocation.notify.notified());
            notified.as_mut().enable();
            if !revocation.is_revoked.load(Ordering::Acquire) {
                notified.await;
            }
        }
    }

    /// Makes sure that this is not taken back any more.
    ///
    /// # Errors
    /// [`Full`] if it was taken back before.
    pub fn keep(&mut self) -> Result<(), Full> {
        let Some(budget) = self.budget.upgrade() else { return Err(Full::Budget) };
        let mut state = budget.lock();
        if self.is_revoked() {
            return Err(Full::Budget);
        }
        if let Some(holding) = state.shares.get_mut(&self.share) {
            holding.revocable.remove(&self.number);
        }
        self.revocation = None;
        Ok(())
    }

    /// How much is held.
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// Holds `more` on top.
    ///
    /// # Errors
    /// [`Full`], also if this was revoked; then it holds what it held.
    pub fn try_grow(&mut self, more: u64) -> Result<(), Full> {
        let Some(budget) = self.budget.upgrade() else { return Err(Full::Budget) };
        let mut state = budget.lock();
        if self.is_revoked() {
            return Err(Full::Budget);
        }
        // While room is made for it, it must not be taken back itself: only other shares give way.
        budget.make_room(&mut state, &self.share, more)?;
        state.used += more;
        // A grant that was shrunk to nothing may be all that its share has.
        let holding = state.shares.entry(self.share.clone()).or_default();
        holding.amount += more;
        if let Some((amount, _)) = holding.revocable.get_mut(&self.number) {
            *amount += more;
        }
        self.amount += more;
        Ok(())
    }

    /// Gives a part of it back; at most what it holds.
    pub fn shrink(&mut self, less: u64) {
        let Some(budget) = self.budget.upgrade() else { return };
        let mut state = budget.lock();
        let less = less.min(self.amount);
        if self.is_revoked() || less == 0 {
            return;
        }
        state.used -= less;
        if let Some(holding) = state.shares.get_mut(&self.share) {
            holding.amount -= less;
            if let Some((amount, _)) = holding.revocable.get_mut(&self.number) {
                *amount -= less;
            }
        }
        self.amount -= less;
        budget.serve_waiting(&mut state);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let Some(budget) = self.budget.upgrade() else { return };
        let mut state = budget.lock();
        // What was revoked was given back then. Revocation happens under the lock that is held here.
        if !self.is_revoked() {
            state.release(&self.share, self.number, self.amount);
            budget.serve_waiting(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt as _, poll};

    use super::*;

    fn merchant(name: &str) -> Share {
        Share::Merchant(name.into())
    }

    #[test]
    fn displacing_ends_the_oldest_of_the_share_that_holds_most_its_own_included() {
        let budget = Budget::with_share_limit(4, 3, GivesWay::Oldest);
        let (a, b) = (merchant("a"), merchant("b"));
        let take =
            |share, count: usize| -> Vec<_> { (0..count).map(|_| budget.take_displacing(share, 1).unwrap()).collect() };
        let revoked = |grants: &[Grant]| grants.iter().map(Grant::is_revoked).collect::<Vec<_>>();
        let mut of_a = take(&a, 3);
        // The share is full: its own oldest gives way.
        of_a.extend(take(&a, 1));
        assert_eq!(revoked(&of_a), [true, false, false, false]);
        // The budget is full: the share with most gives way.
        let mut of_b = take(&b, 2);
        assert_eq!(revoked(&of_a), [true, true, false, false]);
        // Both hold as much: the share that wants more gives way.
        of_b.extend(take(&b, 1));
        assert_eq!(revoked(&of_b), [true, false, false]);
        assert_eq!((budget.used_by(&a), budget.used_by(&b)), (2, 2));
        drop((of_a, of_b));
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn displacing_never_ends_what_cannot_be_taken_back() {
        let budget = Budget::with_share_limit(2, 2, GivesWay::Oldest);
        let share = Share::Merchant("a".into());
        let held = [budget.try_take(&share, 1).unwrap(), budget.try_take(&share, 1).unwrap()];
        assert!(budget.take_displacing(&share, 1).is_err());
        assert!(budget.take_displacing(&Share::Merchant("b".into()), 1).is_err());
        drop(held);
        assert!(budget.take_displacing(&share, 1).is_ok());
    }

    #[test]
    fn one_share_takes_seven_eighths_and_another_still_finds_room() {
        let budget = Budget::new(16, GivesWay::Newest);
        let (a, b) = (merchant("a"), merchant("b"));
        let all: Vec<_> = (0..14).map(|_| budget.try_take(&a, 1).unwrap()).collect();
        assert_eq!(budget.try_take(&a, 1).err(), Some(Full::Share));
        let _b = budget.try_take(&b, 2).unwrap();
        drop(all);
        assert_eq!(budget.used(), 2);
    }

    #[test]
    fn the_share_that_holds_most_gives_way_with_its_newest() {
        let budget = Budget::new(8, GivesWay::Newest);
        let (a, b, c) = (merchant("a"), merchant("b"), merchant("c"));
        let of_a: Vec<_> = (0..5).map(|_| budget.try_take_revocable(&a, 1).unwrap()).collect();
        let of_b: Vec<_> = (0..3).map(|_| budget.try_take_revocable(&b, 1).unwrap()).collect();
        let _c = budget.try_take_revocable(&c, 1).unwrap();
        let revoked: Vec<_> = of_a.iter().map(Grant::is_revoked).collect();
        assert_eq!(revoked, [false, false, false, false, true]);
        assert!(!of_b.iter().any(Grant::is_revoked));
        assert_eq!((budget.used(), budget.used_by(&a)), (8, 4));
        // The grant that was revoked gives nothing back twice.
        drop(of_a);
        assert_eq!(budget.used(), 4);
    }

    #[test]
    fn the_oldest_gives_way_where_that_is_the_rule() {
        let budget = Budget::new(2, GivesWay::Oldest);
        let first = budget.try_take_revocable(&merchant("a"), 1).unwrap();
        let second = budget.try_take_revocable(&merchant("b"), 1).unwrap();
        assert_eq!(budget.try_take_revocable(&merchant("b"), 1).err(), Some(Full::Budget), "a tie: the newcomer");
        let _third = budget.try_take_revocable(&merchant("c"), 1).unwrap();
        assert_ne!(first.is_revoked(), second.is_revoked());
    }

    #[test]
    fn the_largest_share_cannot_push_others_out() {
        let budget = Budget::new(8, GivesWay::Newest);
        let (a, b) = (merchant("a"), merchant("b"));
        let _a: Vec<_> = (0..6).map(|_| budget.try_take_revocable(&a, 1).unwrap()).collect();
        let b: Vec<_> = (0..2).map(|_| budget.try_take_revocable(&b, 1).unwrap()).collect();
        assert_eq!(budget.try_take_revocable(&a, 1).err(), Some(Full::Budget));
        assert!(!b.iter().any(Grant::is_revoked));
    }

    #[tokio::test]
    async fn others_wait_while_the_largest_share_is_refused() {
        let budget = Budget::new(8, GivesWay::Newest);
        let (a, b) = (merchant("a"), merchant("b"));
        let mut of_a: Vec<_> = (0..7).map(|_| budget.try_take(&a, 1).unwrap()).collect();
        let _b = budget.try_take(&b, 1).unwrap();
        assert_eq!(budget.take(&a, 1).await.err(), Some(Full::Share));
        let mut waits = Box::pin(budget.take(&b, 1));
        assert!(poll!(&mut waits).is_pending());
        of_a.pop();
        let _granted = waits.await.unwrap();
        assert_eq!(budget.used(), 8);
    }

    #[tokio::test]
    async fn the_share_that_holds_least_is_served_first_and_who_left_is_not() {
        let budget = Budget::new(8, GivesWay::Newest);
        let (a, b, c) = (merchant("a"), merchant("b"), merchant("c"));
        let mut of_a: Vec<_> = (0..6).map(|_| budget.try_take(&a, 1).unwrap()).collect();
        let _b: Vec<_> = (0..2).map(|_| budget.try_take(&b, 1).unwrap()).collect();
        let mut by_b = Box::pin(budget.take(&b, 1));
        let mut left = Box::pin(budget.take(&c, 1));
        let mut by_c = Box::pin(budget.take(&c, 1));
        assert!(poll!(&mut by_b).is_pending() && poll!(&mut left).is_pending() && poll!(&mut by_c).is_pending());
        drop(left);
        of_a.pop();
        let _of_c = by_c.now_or_never().unwrap().unwrap();
        assert!(poll!(&mut by_b).is_pending());
        of_a.pop();
        let _of_b = by_b.now_or_never().unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_grant_that_is_received_too_late_is_given_back() {
        let budget = Budget::new(8, GivesWay::Newest);
        let (a, b) = (merchant("a"), merchant("b"));
        let of_a: Vec<_> = (0..7).map(|_| budget.try_take(&a, 1).unwrap()).collect();
        let of_b = budget.try_take(&b, 1).unwrap();
        let mut waits = Box::pin(budget.take(&b, 1));
        assert!(poll!(&mut waits).is_pending());
        drop(of_a);
        // It was granted, and its future is dropped before it was polled.
        drop(waits);
        drop(of_b);
        assert_eq!(budget.used(), 0);
    }

    #[tokio::test]
    async fn a_revoked_grant_wakes_its_holder_and_does_not_grow() {
        let budget = Budget::new(8, GivesWay::Newest);
        let mut of_a = budget.try_take_revocable(&merchant("a"), 6).unwrap();
        let mut revoked = Box::pin(of_a.revoked());
        assert!(poll!(&mut revoked).is_pending());
        let _b = budget.try_take_revocable(&merchant("b"), 4).unwrap();
        revoked.await;
        of_a.revoked().await;
        assert_eq!(of_a.try_grow(1).err(), Some(Full::Budget));
    }

    #[test]
    fn a_grant_grows_and_shrinks_within_the_budget() {
        let budget = Budget::new(8, GivesWay::Newest);
        let mut grant = budget.try_take_revocable(&merchant("a"), 1).unwrap();
        grant.try_grow(6).unwrap();
        assert_eq!(grant.try_grow(1).err(), Some(Full::Share));
        grant.shrink(5);
        assert_eq!((grant.amount(), budget.used()), (2, 2));
        drop(grant);
        assert_eq!(budget.used(), 0);
    }

    mod random {
        use proptest::prelude::*;

        use super::*;

        proptest! {
            /// Whatever is taken, grown, shrunk and dropped: the budget is never exceeded, no share exceeds its limit, and
            /// the sums agree.
            #[test]
            fn the_sums_always_agree(steps in proptest::collection::vec((0_u8..5, 0_usize..4, 1_u64..6), 1..200)) {
                let budget = Budget::new(32, GivesWay::Newest);
                let shares = ["a", "b", "c", "d"].map(merchant);
                let mut grants: Vec<Grant> = Vec::new();
                for (step, share, amount) in steps {
                    match step {
                        0 => grants.extend(budget.try_take(&shares[share], amount)),
                        1 => grants.extend(budget.try_take_revocable(&shares[share], amount)),
                        2 if !grants.is_empty() => { let at = share % grants.len(); let _ = grants[at].try_grow(amount); }
                        3 if !grants.is_empty() => { let at = share % grants.len(); grants[at].shrink(amount); }
                        _ => { if !grants.is_empty() { let at = share % grants.len(); drop(grants.swap_remove(at)); } }
                    }
                    let held: u64 = grants.iter().filter(|grant| !grant.is_revoked()).map(Grant::amount).sum();
                    prop_assert_eq!(budget.used(), held);
                    prop_assert!(budget.used() <= 32);
                    for share in &shares {
                        prop_assert!(budget.used_by(share) <= budget.share_limit());
                    }
                }
                drop(grants);
                prop_assert_eq!(budget.used(), 0);
            }
        }
    }
}
