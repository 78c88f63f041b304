//! The order of turns, and what is refused.

use std::{future::Future, pin::Pin};

use futures_util::{FutureExt as _, poll};

use super::*;

fn changer(merchant: &str, caller: u8) -> Changer {
    Changer { share: Share::Merchant(merchant.into()), caller: [caller; 16] }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Turn, Full>>>>;

/// Waits for a turn, and is in line when this returns.
async fn wait(queue: &ChangeQueue, urgency: Urgency, merchant: &str, caller: u8) -> Waiting {
    let (queue, changer) = (queue.clone(), changer(merchant, caller));
    let mut waiting: Waiting = Box::pin(async move { queue.turn(urgency, &changer).await });
    assert!(poll!(&mut waiting).is_pending());
    waiting
}

#[tokio::test]
async fn deletes_go_before_rotations_before_changes_before_the_rest_and_merchants_alternate() {
    let queue = ChangeQueue::new(1, false);
    let mut held = Some(queue.background().await);
    let mut waiting = Vec::new();
    for (urgency, merchant, caller) in [
        (Urgency::Background, "", 0),
        (Urgency::Change, "a", 1),
        (Urgency::Rotation, "a", 1),
        (Urgency::Revocation, "a", 1),
        (Urgency::Revocation, "a", 1),
        (Urgency::Revocation, "a", 2),
        (Urgency::Revocation, "b", 3),
    ] {
        waiting.push(Some(wait(&queue, urgency, merchant, caller).await));
    }
    let mut order = Vec::new();
    while order.len() < 7 {
        drop(held.take());
        for (number, place) in waiting.iter_mut().enumerate() {
            if let Some(future) = place
                && let Some(turn) = future.now_or_never()
            {
                held = Some(turn.unwrap());
                order.push(number);
                *place = None;
            }
        }
    }
    assert_eq!(order, [3, 6, 5, 4, 2, 1, 0]);
}

#[tokio::test]
async fn the_reserved_writer_serves_revocations_alone() {
    let queue = ChangeQueue::new(1, true);
    let general = queue.background().await;
    let mut change = wait(&queue, Urgency::Change, "a", 1).await;
    let revocation = queue.turn(Urgency::Revocation, &changer("b", 2)).await.unwrap();
    assert!(revocation.is_reserved() && !general.is_reserved());
    drop(revocation);
    assert!(poll!(&mut change).is_pending());
    drop(general);
    assert!(change.await.is_ok());
}

#[tokio::test]
async fn case_55_changes_are_bounded_for_a_caller_and_a_share_and_leave_room_for_others() {
    let queue = ChangeQueue::new(1, false);
    let enter = |merchant, caller| queue.enter(Urgency::Change, changer(merchant, caller));
    let mut places: Vec<_> = (0..CHANGES_OF_CALLER).map(|_| enter("a", 1).unwrap()).collect();
    assert_eq!(enter("a", 1).err(), Some(Full::Share));
    for number in 0..CHANGES_OF_SHARE - CHANGES_OF_CALLER {
        places.push(enter("a", 2 + u8::try_from(number / CHANGES_OF_CALLER).unwrap()).unwrap());
    }
    assert_eq!(enter("a", 99).err(), Some(Full::Share));
    assert!(enter("b", 1).is_err(), "the same caller");
    assert!(enter("b", 100).is_ok());
    // A revocation needs no such place, the caller's own included.
    assert!(queue.enter(Urgency::Revocation, changer("a", 1)).is_ok());
    drop(places);
    assert!(enter("a", 1).is_ok());
}

#[tokio::test]
async fn limits_of_revocations_bind_only_while_another_merchant_waits() {
    let queue = ChangeQueue::new(1, false);
    let _held = queue.background().await;
    let mut mass = Vec::new();
    for _ in 0..REVOCATIONS + 10 {
        mass.push(wait(&queue, Urgency::Revocation, "a", 1).await);
    }
    // Another merchant finds room all the same: the newest of the mass gives way.
    let mut other = wait(&queue, Urgency::Revocation, "b", 2).await;
    assert!(matches!(mass.last_mut().unwrap().now_or_never(), Some(Err(Full::Budget))));
    assert!(queue.turn(Urgency::Revocation, &changer("a", 1)).now_or_never().unwrap().is_err(), "now the limit binds");
    assert!(poll!(&mut other).is_pending());
}

#[tokio::test]
async fn a_change_that_is_no_longer_waited_for_does_not_keep_a_writer() {
    let queue = ChangeQueue::new(1, true);
    let held = queue.background().await;
    drop(wait(&queue, Urgency::Change, "a", 1).await);
    let next = wait(&queue, Urgency::Change, "b", 2).await;
    drop(held);
    drop(next.now_or_never().unwrap());
    assert!(queue.turn(Urgency::Change, &changer("c", 3)).now_or_never().is_some());
}

#[tokio::test]
async fn a_loop_of_changes_does_not_keep_background_work_from_its_turn_and_revocations_go_before_both() {
    let queue = ChangeQueue::new(1, false);
    let mut held = queue.background().await;
    let background = queue.clone();
    let mut background = Box::pin(async move { background.background().await });
    assert!(poll!(&mut background).is_pending());
    let mut changes = Vec::new();
    for _ in 0..CHANGES_IN_A_ROW + 2 {
        changes.push(wait(&queue, Urgency::Change, "a", 1).await);
    }
    for change in changes.drain(..CHANGES_IN_A_ROW) {
        drop(held);
        held = change.now_or_never().unwrap().unwrap();
        assert!(poll!(&mut background).is_pending());
    }
    let revocation = wait(&queue, Urgency::Revocation, "b", 2).await;
    drop(held);
    held = revocation.now_or_never().unwrap().unwrap();
    assert!(poll!(&mut background).is_pending());
    drop(held);
    held = background.now_or_never().unwrap();
    drop(held);
    for change in changes {
        drop(change.now_or_never().unwrap().unwrap());
    }
}

#[tokio::test]
async fn changes_that_left_after_waiting_too_long_do_not_accumulate() {
    let queue = ChangeQueue::new(1, false);
    let _held = queue.background().await;
    for _ in 0..3 * CHANGES {
        drop(wait(&queue, Urgency::Change, "a", 1).await);
    }
    assert!(queue.waiting() <= CHANGES);
}

/// What is to happen next.
#[derive(Clone, Debug)]
enum Event {
    Arrives(Urgency, u8, u8),
    /// The one of this number, of those that wait, is no longer waited for.
    Leaves(usize),
    /// The holder of this number ends its turn.
    Ends(usize),
}

fn event() -> impl proptest::strategy::Strategy<Value = Event> {
    use proptest::prelude::*;
    let urgency = prop_oneof![
        Just(Urgency::Revocation),
        Just(Urgency::Rotation),
        Just(Urgency::Change),
        Just(Urgency::Background)
    ];
    prop_oneof![
        4 => (urgency, 0_u8..4, 0_u8..3).prop_map(|(urgency, merchant, caller)| Event::Arrives(urgency, merchant, caller)),
        1 => any::<usize>().prop_map(Event::Leaves),
        3 => any::<usize>().prop_map(Event::Ends),
    ]
}

proptest::proptest! {
    /// Whatever happens: no turn is lost or given twice, no writer is idle while something waits for it, and what gets a
    /// turn is as urgent as anything that waited.
    #[test]
    fn turns_go_to_the_most_urgent_and_none_is_lost(
        writers in 1_usize..4,
        is_reserved: bool,
        events in proptest::collection::vec(event(), 1..200),
    ) {
        let queue = ChangeQueue::new(writers, is_reserved);
        let mut waiting: Vec<(Urgency, Waiting)> = Vec::new();
        let mut held: Vec<Turn> = Vec::new();
        for event in events {
            match event {
                Event::Arrives(urgency, merchant, caller) => {
                    let (queue, changer) = (queue.clone(), changer(&format!("m{merchant}"), caller));
                    let arrived: Waiting = Box::pin(async move { queue.turn(urgency, &changer).await });
                    waiting.push((urgency, arrived));
                }
                Event::Leaves(number) if !waiting.is_empty() => drop(waiting.remove(number % waiting.len())),
                Event::Ends(number) if !held.is_empty() => drop(held.remove(number % held.len())),
                Event::Leaves(_) | Event::Ends(_) => {}
            }
            let mut still = Vec::new();
            let mut got = Vec::new();
            for (urgency, mut future) in waiting {
                match (&mut future).now_or_never() {
                    Some(turn) => { got.push(urgency); held.push(turn.unwrap()); }
                    None => still.push((urgency, future)),
                }
            }
            waiting = still;
            let reserved = held.iter().filter(|turn| turn.is_reserved()).count();
            let general = held.len() - reserved;
            proptest::prop_assert!(general <= writers && reserved <= usize::from(is_reserved));
            proptest::prop_assert!(got.len() <= 1);
            for (urgency, _) in &waiting {
                proptest::prop_assert!(general == writers, "a writer is idle while {urgency:?} waits");
                if *urgency <= Urgency::Rotation {
                    proptest::prop_assert!(!is_reserved || reserved == 1);
                }
                if let Some(got) = got.first() {
                    let is_turn_of_background = *got == Urgency::Background && *urgency == Urgency::Change;
                    proptest::prop_assert!(got <= urgency || is_turn_of_background);
                }
            }
        }
        drop(waiting);
        drop(held);
        let state = queue.lock();
        proptest::prop_assert_eq!((state.free, state.reserved_free), (writers, is_reserved.then_some(true)));
    }
}
