//! The steps of the argument, one by one. What their threads do to each other is in `tests/model`.
//!
//! Not in the files themselves, which the model compiles on synchronisation of its own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt as _;

use super::{
    absent::Absent,
    follow::{Anomaly, Followed, Follower, Outcome},
    lease::Lease,
    memory::{Found, Generation, Memory},
    recall::{Fence, LaggingNode, read_lease, still_stands},
    revoked::Revoked,
    spread::Spread,
};
use crate::{
    clock::Uptime,
    domain::key_ring::RootStates,
    domain::{CredentialId, KeyId, audit_event::Action, key_string::Digest},
    store::{Head, LoggedChange, Polled, Revision},
};

const KEY: KeyId = KeyId::from_bytes([1; 16]);
const CREDENTIAL: CredentialId = CredentialId::from_bytes([2; 16]);
const DIGEST: Digest = Digest::from_words([3, 4, 5]);
const NOW: Uptime = Uptime::new(Duration::from_secs(100));
const LEASE: Duration = Duration::from_secs(1);

fn followed() -> Followed<&'static str> {
    Followed {
        lease: Lease::default(),
        memory: Memory::new(10, 4),
        absent: Absent::new(10),
        revoked: Revoked::new(10),
        lag: AtomicU64::new(0),
    }
}

fn keep(memory: &Memory<&'static str>, generation: Generation, row: &'static str, as_of: i64) {
    let row = Arc::new(row);
    memory.keep(generation, Found { credential: CREDENTIAL, digest: DIGEST, stored: 7, key: KEY, row, as_of });
}

fn found(memory: &Memory<&'static str>) -> Option<&'static str> {
    memory.find(CREDENTIAL, &DIGEST).map(|remembered| *remembered.row)
}

#[test]
fn case_15_a_read_from_before_a_drop_is_not_kept_after_it() {
    let memory = Memory::new(10, 4);
    let before = memory.generation();
    memory.drop_key(KEY, 7);
    keep(&memory, before, "old", 6);
    assert_eq!(found(&memory), None);
    keep(&memory, memory.generation(), "new", 7);
    assert_eq!(found(&memory), Some("new"));
}

#[test]
fn case_15_a_drop_takes_what_was_kept_before_it_and_leaves_what_knows_of_the_change() {
    let memory = Memory::new(10, 4);
    keep(&memory, memory.generation(), "old", 6);
    memory.drop_key(KEY, 7);
    assert_eq!(found(&memory), None);
    keep(&memory, memory.generation(), "new", 8);
    memory.drop_key(KEY, 8);
    assert_eq!(found(&memory), Some("new"));
    memory.drop_everything();
    assert_eq!((found(&memory), memory.len()), (None, 0));
}

#[test]
fn a_row_never_takes_the_place_of_a_younger_one() {
    let memory = Memory::new(10, 4);
    let generation = memory.generation();
    keep(&memory, generation, "younger", 9);
    keep(&memory, generation, "older", 8);
    assert_eq!(found(&memory), Some("younger"));
}

#[test]
fn a_proof_is_of_bytes_and_not_of_an_id() {
    let memory = Memory::new(10, 4);
    keep(&memory, memory.generation(), "row", 1);
    assert!(memory.find(CREDENTIAL, &Digest::from_words([3, 4, 6])).is_none());
    assert!(memory.find(CredentialId::from_bytes([9; 16]), &DIGEST).is_none());
}

#[test]
fn a_row_from_before_a_credential_was_made_knows_nothing_of_it() {
    let memory = Memory::new(10, 4);
    let generation = memory.generation();
    keep(&memory, generation, "before", 5);
    let rotated = CredentialId::from_bytes([9; 16]);
    let row = Arc::new("after");
    memory.drop_key(KEY, 6);
    memory.keep(memory.generation(), Found { credential: rotated, digest: DIGEST, stored: 7, key: KEY, row, as_of: 6 });
    memory.drop_key(KEY, 7);
    keep(&memory, memory.generation(), "later", 7);
    assert_eq!(memory.find(rotated, &DIGEST).map(|remembered| remembered.as_of), Some(7));
}

fn keep_another(memory: &Memory<&'static str>, number: u8) {
    let (credential, key) = (CredentialId::from_bytes([number; 16]), KeyId::from_bytes([number; 16]));
    let found = Found { credential, digest: DIGEST, stored: 7, key, row: Arc::new("another"), as_of: 6 };
    memory.keep(memory.generation(), found);
}

#[test]
fn a_row_that_made_room_is_gone_although_its_proof_is_left() {
    let memory = Memory::new(4, 1);
    keep(&memory, memory.generation(), "good", 6);
    (10..14).for_each(|number| keep_another(&memory, number));
    assert!(memory.is_proved(CREDENTIAL, &DIGEST, 7), "there is room for a quarter more of proofs");
    assert_eq!((found(&memory), memory.len()), (None, 4));
    // Who cannot be dropped any more must not be found either.
    memory.drop_key(KEY, 7);
    keep(&memory, memory.generation(), "new", 7);
    assert_eq!(found(&memory), Some("new"));
}

#[test]
fn a_row_that_is_asked_for_does_not_make_room() {
    let memory = Memory::new(4, 1);
    keep(&memory, memory.generation(), "good", 6);
    for number in 10..40 {
        assert_eq!(found(&memory), Some("good"), "{number}");
        keep_another(&memory, number);
    }
    assert_eq!(memory.len(), 4);
}

#[test]
fn what_was_found_stands_until_something_is_dropped_or_the_lease_ends() {
    let on = followed();
    let mut follower = following(&on);
    let stands = |since, at: Duration| {
        let uptime = || NOW.after(at);
        still_stands(&on, read_lease(&on, uptime), uptime, since).now_or_never().unwrap()
    };
    let since = on.memory.generation();
    keep(&on.memory, since, "good", 5);
    assert!(stands(since, Duration::ZERO));
    assert!(!stands(since, LEASE), "the lease has run out");
    assert_eq!(
        follower.apply(&polled(6, &[change(5, Action::Update), change(6, Action::Update)]), NOW, &on),
        Outcome::UpToDate
    );
    assert!(!stands(since, Duration::ZERO), "a change was applied");
    let since = on.memory.generation();
    assert!(stands(since, Duration::ZERO));
    on.memory.drop_everything();
    assert!(!stands(since, Duration::ZERO), "everything was dropped");
}

#[test]
fn an_absence_ends_with_the_next_credential_that_is_made() {
    let on = followed();
    let generation = on.memory.generation();
    on.absent.keep(generation, CREDENTIAL, 5);
    assert_eq!(on.absent.find(CREDENTIAL), Some(5));
    on.absent.forget_before(6);
    assert_eq!(on.absent.find(CREDENTIAL), None);
    on.absent.keep(generation, CREDENTIAL, 5);
    assert_eq!(on.absent.find(CREDENTIAL), None, "a read from before it");
    on.absent.keep(generation, CREDENTIAL, 6);
    assert_eq!(on.absent.find(CREDENTIAL), Some(6));
    on.memory.drop_everything();
    on.absent.drop_everything(on.memory.generation());
    on.absent.keep(generation, CREDENTIAL, 9);
    assert_eq!((on.absent.find(CREDENTIAL), on.absent.len()), (None, 0), "a read of another history");
}

fn change(seq: i64, action: Action) -> LoggedChange {
    LoggedChange { seq, key_id: Some(KEY), kind: i64::from(action as i16), nonce: seq * 11, version: 2 }
}

fn polled(head: i64, changes: &[LoggedChange]) -> Polled {
    Polled {
        was_writer: true,
        is_other_session: false,
        root_states: RootStates::default(),
        newer_schema_required: None,
        is_writer: true,
        head: Head {
            revision: Revision::new("one", head),
            lease: LEASE,
            wait: LEASE,
            lease_changes: 0,
            accepts: 0,
            is_lease_valid: true,
        },
        changes: changes.to_vec(),
    }
}

/// A follower that applied change 5, with a lease from [`NOW`].
fn following(on: &Followed<&'static str>) -> Follower {
    let mut follower = Follower::default();
    assert_eq!(follower.apply(&polled(5, &[change(5, Action::Update)]), NOW, on), Outcome::UpToDate);
    assert_eq!(follower.applied(), Some(5));
    follower
}

#[test]
fn a_lease_runs_from_the_beginning_of_a_poll() {
    let on = followed();
    assert!(!on.lease.grant().is_fresh(Uptime::default()), "before the first poll nothing is believed");
    following(&on);
    let grant = on.lease.grant();
    assert!(grant.is_fresh(NOW.after(Duration::from_millis(999))) && !grant.is_fresh(NOW.after(LEASE)));
    assert_eq!(grant.position().map(Revision::seq), Some(5));
}

#[test]
fn new_changes_drop_their_keys_and_extend_the_lease() {
    let on = followed();
    let mut follower = following(&on);
    keep(&on.memory, on.memory.generation(), "row", 5);
    let changes = [change(5, Action::Update), change(6, Action::Delete)];
    assert_eq!(follower.apply(&polled(6, &changes), NOW.after(LEASE), &on), Outcome::UpToDate);
    assert_eq!(found(&on.memory), None);
    assert!(on.lease.grant().is_fresh(NOW.after(LEASE)));
}

#[test]
fn a_backlog_is_applied_and_extends_nothing() {
    let on = followed();
    let mut follower = following(&on);
    keep(&on.memory, on.memory.generation(), "row", 5);
    let page: Vec<_> =
        (5..5 + i64::try_from(crate::seeded::POLLED_ROWS).unwrap()).map(|seq| change(seq, Action::Update)).collect();
    let head = page.last().unwrap().seq + 1;
    assert_eq!(follower.apply(&polled(head, &page), NOW.after(LEASE), &on), Outcome::Behind);
    assert_eq!((found(&on.memory), follower.applied()), (None, Some(head - 1)));
    assert!(!on.lease.grant().is_fresh(NOW.after(LEASE)));
    assert!(on.lease.grant().is_fresh(NOW), "the lease that was granted before holds for what it knows of");
}

#[test]
fn a_node_that_is_not_the_writer_grants_nothing() {
    let on = followed();
    let mut follower = following(&on);
    let standby = Polled { is_writer: false, ..polled(5, &[change(5, Action::Update)]) };
    assert_eq!(follower.apply(&standby, NOW.after(LEASE), &on), Outcome::NotTheWriter);
    assert!(!on.lease.grant().is_fresh(NOW.after(LEASE)));
}

#[test]
fn case_20_every_anomaly_drops_everything_and_ends_the_lease() {
    let other_nonce = LoggedChange { nonce: 1, ..change(5, Action::Update) };
    let unknown = LoggedChange { kind: 77, ..change(6, Action::Update) };
    let unreadable = LoggedChange { key_id: None, ..change(6, Action::Update) };
    let known = change(5, Action::Update);
    let next = |seq| change(seq, Action::Update);
    let another =
        Polled { head: Head { revision: Revision::new("two", 5), ..polled(5, &[]).head }, ..polled(5, &[known]) };
    for (answer, anomaly) in [
        (another, Anomaly::NewEpoch),
        (polled(4, &[next(4), known]), Anomaly::SteppedBack),
        (polled(5, &[known, next(6)]), Anomaly::SteppedBack),
        (polled(5, &[other_nonce]), Anomaly::OtherNonce),
        (polled(5, &[]), Anomaly::Hole),
        (polled(7, &[known, next(7)]), Anomaly::Hole),
        (polled(7, &[known, next(6)]), Anomaly::Hole),
        (polled(6, &[known, next(6), next(6)]), Anomaly::Duplicate),
        (polled(6, &[known, known, next(6)]), Anomaly::Duplicate),
        (polled(6, &[known, unknown]), Anomaly::UnknownKind),
        (polled(6, &[known, unreadable]), Anomaly::UnknownKind),
    ] {
        let on = followed();
        let mut follower = following(&on);
        keep(&on.memory, on.memory.generation(), "row", 5);
        on.absent.keep(on.memory.generation(), CREDENTIAL, 5);
        let under_way = on.memory.generation();
        assert_eq!(follower.apply(&answer, NOW, &on), Outcome::Dropped(anomaly), "{answer:?}");
        keep(&on.memory, under_way, "row", 5);
        assert_eq!((found(&on.memory), on.absent.find(CREDENTIAL)), (None, None), "{anomaly:?}");
        assert!(!on.lease.grant().is_fresh(NOW) && follower.applied().is_none(), "{anomaly:?}");
        // The next poll follows what there is now.
        assert_eq!(follower.apply(&polled(9, &[next(9)]), NOW, &on), Outcome::UpToDate);
        assert_eq!(follower.applied(), Some(9));
    }
}

#[test]
fn a_read_is_remembered_only_within_the_history_that_was_followed_before_it() {
    let on = followed();
    let before = Fence::before_reading(&on);
    assert_eq!(before.admits(&Revision::new("one", 5)), Ok(None), "no history was followed");
    following(&on);
    let fence = Fence::before_reading(&on);
    assert_eq!(fence.admits(&Revision::new("one", 5)), Ok(Some(on.memory.generation())));
    assert_eq!(fence.admits(&Revision::new("two", 5)), Ok(None));
    assert_eq!(fence.admits(&Revision::new("one", 4)), Err(LaggingNode));
}

#[test]
fn a_thread_keeps_its_part_and_others_have_others() {
    let counts = Spread::<AtomicU64>::default();
    let count = || {
        counts.mine().fetch_add(1, Ordering::Relaxed);
        counts.mine().fetch_add(1, Ordering::Relaxed);
    };
    std::thread::scope(|scope| (0..48).for_each(|_| drop(scope.spawn(count))));
    let counted: Vec<u64> = counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
    assert_eq!(counted.iter().sum::<u64>(), 2 * 48);
    assert!(counted.iter().all(|count| count % 2 == 0), "{counted:?}");
    assert!(counted.iter().filter(|count| **count > 0).count() > 1, "{counted:?}");
}
