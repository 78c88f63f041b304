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
