//! The promise, and each step of the argument taken away.

use std::panic::{AssertUnwindSafe, catch_unwind};

use shuttle::{
    rand::Rng,
    scheduler::PctScheduler,
    sync::{Arc, atomic::Ordering},
    thread,
};

use crate::{
    freshness::follow::{Follower, Outcome},
    seeded::{self, Bug},
    world::{END, Row, World, dawdle},
};

/// Orders that are tried of the code as it is.
const CLEAN: usize = 5_000;
/// Orders within which a bug has to be found.
const SEEDED: usize = 20_000;

/// How often in one run a thread is overtaken that had the way: enough for one to stand still in the middle of a step while
/// another takes several.
const SWITCHES: usize = 4;

fn run(orders: usize, scenario: fn()) {
    let mut config = shuttle::Config::new();
    config.failure_persistence = shuttle::FailurePersistence::None;
    config.silence_warnings = true;
    shuttle::Runner::new(PctScheduler::new(SWITCHES, orders), config).run(scenario);
}

/// No order breaks the promise.
fn holds(scenario: fn()) {
    run(CLEAN, scenario);
}

/// With this bug some order breaks the promise, and by nothing else than the promise.
fn is_caught(bug: Bug, scenario: fn()) {
    seeded::plant(Some(bug));
    let caught = catch_unwind(AssertUnwindSafe(|| run(SEEDED, scenario)));
    seeded::plant(None);
    let told = caught.expect_err("the bug was not caught");
    let told = told.downcast_ref::<String>().cloned().or_else(|| Some((*told.downcast_ref::<&str>()?).to_owned()));
    assert!(told.as_ref().is_some_and(|told| told.contains(BROKEN)), "{told:?}");
}

const BROKEN: &str = "the promise is broken";

/// A replica that follows, reads and is asked, beside time and somebody who changes the key.
fn live(world: &Arc<World>, change: impl FnOnce(&World) + Send + 'static, asked: fn(&World)) {
    let mut follower = Follower::default();
    assert_eq!(world.poll(&mut follower), Outcome::UpToDate);
    world.read();
    let spawn = |work: Box<dyn FnOnce(&World) + Send>| {
        let world = Arc::clone(world);
        thread::spawn(move || work(&world))
    };
    let threads = [
        spawn(Box::new(World::pass_time)),
        spawn(Box::new(change)),
        spawn(Box::new(move |world| {
            for _ in 0..3 {
                while world.poll(&mut follower) != Outcome::UpToDate {
                    dawdle();
                }
                dawdle();
            }
        })),
        spawn(Box::new(|world| {
            world.read();
            dawdle();
            world.read();
        })),
        spawn(Box::new(asked)),
    ];
    for thread in threads {
        thread.join().unwrap();
    }
}

/// Asks until time is over: whoever asks after the answer is not told that the key is good.
fn never_good_after_the_answer(world: &World) {
    let (asks_again, mut found) = (shuttle::rand::thread_rng().r#gen(), None);
    while world.time_is_left() {
        let answered = world.answered.load(Ordering::SeqCst) == 1;
        let row = if asks_again { world.ask_again(&mut found) } else { world.ask_memory() };
        assert!(!answered || row != Some(Row::Good), "{BROKEN}: good from memory after it was answered as revoked");
        thread::yield_now();
    }
}

fn a_revocation() {
    let world = World::new(Some(Row::Good));
    live(&world, |world| world.revoke_after(0), never_good_after_the_answer);
}

fn a_revocation_behind_others() {
    let world = World::new(Some(Row::Good));
    live(&world, |world| world.revoke_after(3), never_good_after_the_answer);
}

fn a_change_by_hand() {
    let world = World::new(Some(Row::Good));
    live(&world, World::revoke_by_hand, never_good_after_the_answer);
}

fn a_removed_root_secret() {
    let world = World::new(Some(Row::Good));
    live(&world, World::remove_root, never_good_after_the_answer);
}

fn a_promoted_standby() {
    let world = World::new(Some(Row::Good));
    live(&world, World::fail_over, never_good_after_the_answer);
}

fn a_broken_lease() {
    let world = World::new(Some(Row::Good));
    live(&world, World::revoke_after_breaking_the_lease, never_good_after_the_answer);
}

fn a_creation() {
    let world = World::new(None);
    live(&world, World::create, |world| {
        while world.time_is_left() {
            let (answered, begun) = (world.answered.load(Ordering::SeqCst) == 1, world.polls_begun());
            let absent = world.ask_absence(begun) || world.ask_absence_a_little_later(begun);
            assert!(!(answered && absent), "{BROKEN}: absent after it was created");
        }
    });
}

#[test]
fn no_order_lets_a_revoked_key_in_from_memory() {
    holds(a_revocation);
    holds(a_revocation_behind_others);
}

#[test]
fn no_order_lets_a_key_in_that_was_revoked_by_hand() {
    holds(a_change_by_hand);
}

#[test]
fn no_order_hides_a_key_that_was_created() {
    holds(a_creation);
}

#[test]
fn an_entry_that_is_read_before_the_lease_is_caught() {
    is_caught(Bug::EntryBeforeLease, a_revocation);
}

#[test]
fn a_lease_that_runs_from_the_end_of_the_poll_is_caught() {
    is_caught(Bug::LeaseFromPollEnd, a_revocation);
}

#[test]
fn a_lease_that_is_not_read_is_caught() {
    is_caught(Bug::LeaseNotRead, a_revocation);
}

#[test]
fn a_lease_that_is_extended_with_a_backlog_is_caught() {
    is_caught(Bug::LeaseExtendedWithBacklog, a_revocation_behind_others);
}

#[test]
fn a_fill_without_its_generation_is_caught() {
    is_caught(Bug::FillWithoutGeneration, a_revocation);
}

#[test]
fn generations_that_are_kept_when_everything_is_dropped_are_caught() {
    is_caught(Bug::GenerationsKept, a_change_by_hand);
}

#[test]
fn an_absence_that_is_kept_over_a_creation_is_caught() {
    is_caught(Bug::AbsenceKept, a_creation);
}

#[test]
fn no_order_accepts_a_key_string_of_a_removed_root_secret() {
    holds(a_removed_root_secret);
}

#[test]
fn case_49_no_order_accepts_a_revoked_key_by_the_answer_of_a_promoted_standby() {
    holds(a_promoted_standby);
}

#[test]
fn no_order_accepts_a_revoked_key_under_a_lease_longer_than_the_wait() {
    holds(a_broken_lease);
}

#[test]
fn a_ring_that_is_read_before_the_lease_is_caught() {
    is_caught(Bug::RingNotUnderLease, a_removed_root_secret);
}

#[test]
fn a_role_that_is_not_asked_at_connect_is_caught() {
    is_caught(Bug::RoleNotCheckedAtConnect, a_promoted_standby);
}

#[test]
fn a_lease_that_breaks_the_invariant_is_caught() {
    is_caught(Bug::BrokenLeaseGranted, a_broken_lease);
}

#[test]
fn time_is_long_enough_for_every_wait() {
    const { assert!(END > 2 * crate::world::WAIT) };
}
