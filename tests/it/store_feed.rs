//! What the store promises about the feed and about usage, on every engine.

use std::time::Duration;

use claviger::{
    domain::{
        DeleteReason, KeyId, Reach, Time,
        audit_event::{Action, Actor, AuditEvent},
    },
    store::{LastUse, Options, Polled, Store},
};
use sea_orm::ConnectionTrait;

use crate::harness::{Engine, TestStore};

const PATIENCE: Duration = Duration::from_secs(20);

/// Commits a change of a key that is only a number.
async fn change(store: &Store, key: u8, action: Action) -> i64 {
    let event = AuditEvent {
        time: Time::from_micros(5),
        actor: Actor::Upkeep,
        action,
        key_id: KeyId::from_bytes([key; 16]),
        merchant: "acme".parse().unwrap(),
        version: i64::from(key) + 100,
        changes: Vec::new(),
        reason: DeleteReason::Unspecified,
        note: String::new(),
    };
    let tx = store.begin().await.unwrap();
    tx.number().await.unwrap().commit(event, i64::from(key) * 7, |committed| committed).await.unwrap().revision.seq()
}

async fn poll(store: &Store, applied: Option<i64>) -> Polled {
    let mut reader = store.feed_reader();
    reader.connect(PATIENCE).await.unwrap();
    reader.poll(applied, PATIENCE).await.unwrap()
}

fn numbers(polled: &Polled) -> Vec<i64> {
    polled.changes.iter().map(|change| change.seq).collect()
}

on_every_engine! {
    async fn a_poll_tells_the_head_and_the_log_from_the_applied_change_on(test: TestStore) {
        let empty = poll(&test.store, None).await;
        assert_eq!((empty.head.revision.seq(), empty.changes.len(), empty.is_writer), (0, 0, true));
        assert_eq!((empty.head.lease, empty.head.wait), (Duration::from_millis(1_000), Duration::from_millis(1_050)));
        assert_eq!(empty.head, test.store.feed_state().await.unwrap());
        for key in 1..=5 {
            change(&test.store, key, Action::Delete).await;
        }
        for (applied, expected) in [
            (Some(0), vec![1, 2, 3, 4, 5]),
            (Some(3), vec![3, 4, 5]),
            (Some(5), vec![5]),
            // Further than there is: from the head on, and so at the first poll.
            (Some(9), vec![5]),
            (None, vec![5]),
        ] {
            let polled = poll(&test.store, applied).await;
            assert_eq!((polled.head.revision.seq(), numbers(&polled)), (5, expected), "{applied:?}");
        }
        let last = poll(&test.store, Some(5)).await.changes[0];
        assert_eq!(
            (last.key_id, last.kind, last.nonce, last.version),
            (Some(KeyId::from_bytes([5; 16])), Action::Delete as i64, 35, 105)
        );
    }
}

on_every_engine! {
    async fn a_poll_sees_rows_beyond_the_head_and_is_bounded(test: TestStore) {
        for key in 1..=3 {
            change(&test.store, key, Action::Update).await;
        }
        let by_hand = test.database.by_hand().await;
        by_hand.execute_unprepared("UPDATE feed_head SET seq = 2").await.unwrap();
        assert_eq!(numbers(&poll(&test.store, Some(3)).await), [2, 3]);
        // A thousand more than a page.
        let filler = match test.database.address.engine() {
            claviger::store::Engine::Sqlite => {
                "WITH RECURSIVE n(i) AS (SELECT 4 UNION ALL SELECT i + 1 FROM n WHERE i < 2003) INSERT INTO change_log \
                 (seq, key_id, kind, nonce, time, version) SELECT i, x'00', 2, i, 0, 0 FROM n"
            }
            claviger::store::Engine::Postgres => {
                "INSERT INTO change_log (seq, key_id, kind, nonce, time, version) SELECT i, '\\x00', 2, i, 0, 0 FROM \
                 generate_series(4, 2003) AS i"
            }
        };
        by_hand.execute_unprepared(filler).await.unwrap();
        by_hand.execute_unprepared("UPDATE feed_head SET seq = 2003").await.unwrap();
        let page = poll(&test.store, Some(2)).await;
        assert_eq!((numbers(&page).first(), numbers(&page).last(), page.changes.len()), (Some(&2), Some(&1_001), 1_000));
        assert_eq!(page.changes[9].key_id, None, "a key id that is none");
    }
}

on_every_engine! {
    async fn a_reader_that_failed_connects_anew(test: TestStore) {
        let mut reader = test.store.feed_reader();
        assert!(reader.poll(None, PATIENCE).await.is_err(), "there is no connection yet");
        reader.connect(PATIENCE).await.unwrap();
        let by_hand = test.database.by_hand().await;
        by_hand.execute_unprepared("ALTER TABLE change_log RENAME TO change_log_away").await.unwrap();
        assert!(reader.poll(None, PATIENCE).await.is_err());
        assert!(reader.poll(None, PATIENCE).await.is_err(), "the connection is gone");
        by_hand.execute_unprepared("ALTER TABLE change_log_away RENAME TO change_log").await.unwrap();
        reader.connect(PATIENCE).await.unwrap();
        assert!(reader.poll(None, PATIENCE).await.is_ok());
    }
}

on_every_engine! {
    async fn the_lease_and_its_wait_rise_at_once_and_the_wait_sinks_by_itself_never(test: TestStore) {
        let second = Duration::from_secs(1);
        let longer = test.store.feed_set_lease(5 * second, 6 * second).await.unwrap();
        assert_eq!((longer.lease, longer.wait), (5 * second, 6 * second));
        let shorter = test.store.feed_set_lease(second, 2 * second).await.unwrap();
        assert_eq!((shorter.lease, shorter.wait), (second, 6 * second));
        let again = test.store.feed_set_lease(second, 2 * second).await.unwrap();
        assert!(!test.store.feed_sink_wait(&shorter, 2 * second).await.unwrap(), "somebody set it meanwhile");
        assert_eq!(test.store.feed_state().await.unwrap().wait, 6 * second);
        assert!(test.store.feed_sink_wait(&again, 2 * second).await.unwrap());
        assert_eq!(test.store.feed_state().await.unwrap().wait, 2 * second);
        // A change is told the wait that stands in the row when it takes its number.
        let tx = test.store.begin().await.unwrap();
        let numbered = tx.number().await.unwrap();
        let event = AuditEvent {
            time: Time::from_micros(0),
            actor: Actor::Upkeep,
            action: Action::Update,
            key_id: KeyId::from_bytes([1; 16]),
            merchant: "acme".parse().unwrap(),
            version: 1,
            changes: Vec::new(),
            reason: DeleteReason::Unspecified,
            note: String::new(),
        };
        assert_eq!(numbered.commit(event, 1, |committed| committed).await.unwrap().wait, 2 * second);
    }
}

on_every_engine! {
    async fn case_47_a_wait_never_sinks_under_the_lease_that_another_operator_set(test: TestStore) {
        let second = Duration::from_secs(1);
        let short = test.store.feed_set_lease(second, 2 * second).await.unwrap();
        let long = test.store.feed_set_lease(10 * second, 11 * second).await.unwrap();
        assert_ne!(short.lease_changes, long.lease_changes, "each is answered what it set itself");
        assert!(!test.store.feed_sink_wait(&short, 2 * second).await.unwrap());
        assert!(!test.store.feed_sink_wait(&long, 2 * second).await.unwrap(), "not even under its own guard");
        let head = test.store.feed_state().await.unwrap();
        assert_eq!((head.lease, head.wait), (10 * second, 11 * second));
    }
}

on_every_engine! {
    async fn a_new_history_keeps_its_numbers_and_an_acceptance_is_counted(test: TestStore) {
        let seq = change(&test.store, 1, Action::Create).await;
        let head = test.store.feed_new_epoch("other").await.unwrap();
        assert_eq!((&**head.revision.epoch(), head.revision.seq(), head.accepts), ("other", seq, 0));
        assert_eq!(test.store.feed_accept().await.unwrap().accepts, 1);
        assert_eq!(test.store.feed_last_change().await.unwrap(), Some(Time::from_micros(5)));
    }
}

on_every_engine! {
    async fn a_later_use_is_kept(test: TestStore) {
        let id = |number: u16| {
            let mut bytes = [0; 16];
            bytes[..2].copy_from_slice(&number.to_be_bytes());
            KeyId::from_bytes(bytes)
        };
        let used = |micros: i64, ip: Option<&str>| LastUse {
            time: Time::from_micros(micros),
            ip: ip.map(|ip| ip.parse().unwrap()),
        };
        let many: Vec<_> = (0..1_200).map(|number| (id(number), used(10, Some("2001:db8::1")))).collect();
        test.store.usage_save(&many).await.unwrap();
        test.store.usage_save(&[(id(1), used(20, None)), (id(2), used(5, Some("192.0.2.1")))]).await.unwrap();
        let ids: Vec<_> = (0..1_300).map(id).collect();
        let found = test.store.usage_find(&ids).await.unwrap();
        assert_eq!(found.len(), 1_200);
        assert_eq!((found[&id(1)], found[&id(2)]), (used(20, None), used(10, Some("2001:db8::1"))));
        test.store.usage_save(&[]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_takes_no_changes_is_no_answer() {
    let Some(test) = TestStore::start(Engine::Postgres).await else { return };
    let by_hand = test.database.by_hand().await;
    let name = test.database.url().rsplit_once('/').unwrap().1.to_owned();
    by_hand.execute_unprepared(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on")).await.unwrap();
    // For connections made from now on, as they would be made to a standby.
    let polled = poll(&test.store, None).await;
    assert!(!polled.is_writer && !polled.was_writer && !polled.is_other_session);
    assert!(Store::open(&test.database.address, Options::default()).await.is_err());
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> \
               pg_backend_pid()";
    by_hand.execute_unprepared(end).await.unwrap();
    let read = test.store.validation_read_even_deleted(claviger::domain::CredentialId::from_bytes([1; 16])).await;
    assert!(matches!(read, Err(claviger::domain::Error::Unavailable(_))));
    // What it does not know may be there all the same: Get and Rotate must not be told that there is no such key.
    let key = test.store.api_key_find_even_deleted(&Reach::everything(), KeyId::from_bytes([1; 16])).await;
    assert!(matches!(key, Err(claviger::domain::Error::Unavailable(_))));
}
