//! Answers that were made and not sent: how many bytes of them there may be, and what happens beyond that.
//!
//! List pages are large and few: each holds a part of a [`Budget`] while it exists, and can be taken back. All other answers
//! are small and very many: each connection counts its own ([`super::unread`]), and [`AnswerBudgets::sweep`] adds them up a
//! few times a second. Answers that were made just now do not count then, since nearly all of them are on their way.

use std::{
    cmp::Reverse,
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{Budget, CloseReason, ConnectionHandle, Connections, GivesWay, Share, unread::Found};

/// Bounds on answers that were made and not sent.
#[derive(Clone, Copy, Debug)]
pub struct AnswerLimits {
    /// Bytes of all pages.
    pub pages: u64,
    /// Bytes of the pages of one caller.
    pub pages_of_caller: u64,
    /// Bytes of all other answers.
    pub others: u64,
    /// Bytes of the other answers of one caller; beyond that its further calls are refused, revocations excepted.
    pub others_of_caller: u64,
    /// How long the client may accept none of an answer.
    pub stall: Duration,
    /// How long it may take until an answer is sent.
    pub sent_within: Duration,
    /// How old an answer is at least that counts as unread.
    pub unread_after: Duration,
}

impl Default for AnswerLimits {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            pages: 48 * MIB,
            pages_of_caller: 4 * MIB,
            others: 16 * MIB,
            others_of_caller: MIB,
            stall: Duration::from_secs(10),
            sent_within: Duration::from_secs(60),
            unread_after: Duration::from_millis(500),
        }
    }
}

/// The budgets of answers that were made and not sent.
pub struct AnswerBudgets {
    limits: AnswerLimits,
    pages: Budget,
}

impl AnswerBudgets {
    /// With these limits.
    pub fn new(limits: AnswerLimits) -> Self {
        let pages = Budget::with_share_limit(limits.pages, limits.pages_of_caller, GivesWay::Oldest);
        Self { limits, pages }
    }

    /// The limits.
    pub fn limits(&self) -> &AnswerLimits {
        &self.limits
    }

    /// The budget that each page holds a part of.
    pub fn pages(&self) -> &Budget {
        &self.pages
    }

    /// Whether `share` may have a further page made that is as large as `largest`.
    pub fn may_make_page(&self, share: &Share, largest: u64) -> bool {
        let held = self.pages.used_by(share);
        held == 0 || held + largest <= self.limits.pages_of_caller
    }

    /// Adds up what all connections hold, closes those that hold unsent answers for too long or hold too much, and marks
    /// those whose caller holds too much.
    ///
    /// A connection that several callers share, as a proxy's, is closed only if all others together are not enough.
    pub fn sweep(&self, connections: &Connections, now: Instant) {
        let mut of_callers: HashMap<Share, u64> = HashMap::new();
        let (mut holders, mut held) = (Vec::new(), 0);
        let all = connections.all();
        for connection in &all {
            let found = connection.unread().sweep(now);
            if found.age < self.limits.unread_after {
                continue;
            }
            let is_shared = connection.has_several_callers();
            if !is_shared && self.is_too_late(found) {
                connection.close(CloseReason::AnswersUnread);
                continue;
            }
            if !is_shared {
                *of_callers.entry(connection.share()).or_default() += found.bytes;
            }
            held += found.bytes;
            holders.push((is_shared, Reverse(found.bytes), connection));
        }
        for connection in &all {
            let of_caller = of_callers.get(&connection.share());
            connection.set_over_budget(of_caller.is_some_and(|bytes| *bytes > self.limits.others_of_caller));
        }
        self.close_largest(holders, held);
    }

    /// Whether a connection holds an answer that should have been sent long ago. Streams that can be reset were reset before:
    /// the body of each has the same limits without what is added here.
    fn is_too_late(&self, found: Found) -> bool {
        let with_grace = |limit: Duration| limit + limit / 4;
        found.stalled >= with_grace(self.limits.stall) || found.age >= with_grace(self.limits.sent_within)
    }

    fn close_largest(&self, mut holders: Vec<(bool, Reverse<u64>, &ConnectionHandle)>, mut held: u64) {
        holders.sort_by_key(|(is_shared, bytes, _)| (*is_shared, *bytes));
        for (_, Reverse(bytes), connection) in holders {
            if held <= self.limits.others {
                return;
            }
            connection.close(CloseReason::AnswersUnread);
            held -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::admission::{Place, UnreadAnswer};

    const MIB: usize = 1024 * 1024;

    struct World {
        budgets: AnswerBudgets,
        connections: Connections,
        begin: Instant,
    }

    impl World {
        fn new() -> Self {
            Self {
                budgets: AnswerBudgets::new(AnswerLimits::default()),
                connections: Connections::new(1_000),
                begin: Instant::now(),
            }
        }

        fn connection(&self, callers: &[&str]) -> Place {
            let (place, _) = self.connections.admit(SocketAddr::from(([192, 0, 2, 1], 1)));
            for caller in callers {
                place.handle().note_authenticated(&Share::Merchant((*caller).into()));
            }
            place
        }

        fn sweep(&self, after: u64) {
            self.budgets.sweep(&self.connections, self.begin + Duration::from_secs(after));
        }
    }

    fn unread(place: &Place, bytes: usize) -> UnreadAnswer {
        place.handle().count_unread(bytes)
    }

    #[test]
    fn an_answer_that_is_not_sent_closes_its_connection_unless_others_share_it() {
        let world = World::new();
        let (alone, shared) = (world.connection(&["a"]), world.connection(&["a", "b"]));
        let _unread = [unread(&alone, 1), unread(&shared, 1)];
        (0..=12).for_each(|second| world.sweep(second));
        assert!(!alone.handle().is_closed());
        world.sweep(13);
        assert_eq!(alone.handle().closed_for(), Some(CloseReason::AnswersUnread));
        world.sweep(100);
        assert!(!shared.handle().is_closed());
    }

    #[test]
    fn an_answer_that_is_too_slow_closes_its_connection_although_others_are_sent() {
        let world = World::new();
        let slow = world.connection(&["a"]);
        let _stuck = unread(&slow, 1);
        let mut others: Vec<_> = (0..100).map(|_| unread(&slow, 1)).collect();
        for second in 0..75 {
            world.sweep(second);
            others.pop();
        }
        assert!(!slow.handle().is_closed());
        world.sweep(75);
        assert!(slow.handle().is_closed());
    }

    #[test]
    fn a_caller_that_leaves_too_much_unread_is_over_budget_on_all_its_connections_until_it_reads() {
        let world = World::new();
        let places = [world.connection(&["a"]), world.connection(&["a"]), world.connection(&["b"])];
        let answers = [unread(&places[0], MIB / 2), unread(&places[1], MIB / 2)];
        let over = || places.each_ref().map(|place| place.handle().is_over_budget());
        world.sweep(0);
        assert_eq!(over(), [false; 3], "they may be on their way");
        world.sweep(1);
        assert_eq!(over(), [true, true, false]);
        drop(answers);
        world.sweep(2);
        assert_eq!(over(), [false; 3]);
    }

    #[test]
    fn beyond_the_bound_of_all_the_largest_holder_is_closed_and_shared_connections_last() {
        let world = World::new();
        let shared = world.connection(&["a", "b"]);
        let places: Vec<_> = (0..10).map(|number| world.connection(&[&number.to_string()])).collect();
        let mut answers = vec![unread(&shared, 12 * MIB)];
        answers.extend(places.iter().zip(1..).map(|(place, size)| unread(place, size * MIB / 10)));
        world.sweep(0);
        world.sweep(1);
        let closed: Vec<_> = places.iter().map(|place| place.handle().is_closed()).collect();
        assert_eq!(closed, [false, false, false, false, false, false, false, false, true, true]);
        assert!(!shared.handle().is_closed());
        answers.push(unread(&shared, 8 * MIB));
        world.sweep(2);
        assert!(shared.handle().is_closed());
    }

    #[test]
    fn a_caller_with_pages_that_are_not_read_gets_no_further_one() {
        let budgets = AnswerBudgets::new(AnswerLimits::default());
        let (share, page) = (Share::Merchant("a".into()), 3 * MIB as u64);
        assert!(budgets.may_make_page(&share, page));
        let small = budgets.pages().try_take_revocable(&share, MIB as u64).unwrap();
        assert!(budgets.may_make_page(&share, page));
        let _large = budgets.pages().try_take_revocable(&share, page).unwrap();
        assert!(!budgets.may_make_page(&share, page));
        drop(small);
        assert!(!budgets.may_make_page(&share, page));
        assert!(budgets.may_make_page(&Share::Merchant("b".into()), page));
    }
}
