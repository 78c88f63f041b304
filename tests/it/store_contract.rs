//! What the store promises on every engine. A new engine holds when this suite does.

use std::{collections::BTreeMap, time::Duration};

use claviger::{
    domain::{
        ApiKey, CredentialId, DeleteReason, Error, KeyId, Reach, Scope, State, Time, WebhookFormat,
        api_key::{Deletion, Retiring, Terms},
        audit_event::{Action, Actor, AuditEvent, Change},
        error::Unavailable,
        ip_rules::IpRules,
        root_secret::RootId,
        secret_hash::Profile,
    },
    store::{Credential, ListFilter, Position, Replay, RequestKey, Store},
};
use sea_orm::{DatabaseConnection, FromQueryResult, Statement};

use crate::harness::{Engine, TestStore};

const NOW: i64 = 1_800_000_000_123_456;

fn key(number: u8, merchant: &str) -> ApiKey {
    let now = Time::from_micros(NOW + i64::from(number));
    ApiKey {
        id: KeyId::from_bytes([number; 16]),
        merchant: merchant.parse().unwrap(),
        display_name: "Käse 🧀".into(),
        current: CredentialId::from_bytes([number; 16]),
        prefix: "clv".into(),
        retiring: Some(Retiring { credential_id: CredentialId::from_bytes([99; 16]), expire_time: Time::MAX }),
        terms: Ok(Terms {
            ip_rules: IpRules {
                allowed: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::1".parse().unwrap()],
                denied: vec!["10.1.0.0/16".parse().unwrap()],
            },
            scopes: vec!["b".parse().unwrap(), "a".parse().unwrap()],
            webhook_format: WebhookFormat::MultipleJson,
            labels: BTreeMap::from([("quote\"".to_owned(), "back\\slash".to_owned())]),
        }),
        disabled: true,
        create_time: now,
        update_time: now,
        not_before_time: Some(Time::MIN),
        expire_time: Some(Time::MAX),
        rotate_time: Some(now),
        deletion: None,
        version: 1,
    }
}

fn credential(number: u8) -> Credential {
    let root = RootId::new('0').unwrap();
    let id = CredentialId::from_bytes([number; 16]);
    Credential::new(id, root, Profile::Random256, format!("$phc-{number}"), Time::from_micros(NOW))
}

fn event(key: &ApiKey, action: Action) -> AuditEvent {
    AuditEvent {
        time: key.update_time,
        actor: Actor::Upkeep,
        action,
        key_id: key.id,
        merchant: key.merchant.clone(),
        version: key.version,
        changes: vec![Change { field: "display_name", from: String::new(), to: key.display_name.clone() }],
        reason: DeleteReason::Unspecified,
        note: String::new(),
    }
}

async fn insert(store: &Store, key: &ApiKey) -> i64 {
    let tx = store.begin().await.unwrap();
    tx.api_key_insert(key, &credential(key.id.as_bytes()[0])).await.unwrap();
    tx.number()
        .await
        .unwrap()
        .commit(event(key, Action::Create), 5, |committed| committed)
        .await
        .unwrap()
        .revision
        .seq()
}

async fn find(store: &Store, key: &ApiKey) -> Option<ApiKey> {
    store.api_key_find_even_deleted(&Reach::everything(), key.id).await.unwrap()
}

/// The numbers in a table of the feed, in order.
async fn numbers(database: &DatabaseConnection, table: &str) -> Vec<i64> {
    #[derive(FromQueryResult)]
    struct Row {
        seq: i64,
    }
    let sql = format!("SELECT seq FROM {table} ORDER BY seq");
    let statement = Statement::from_string(database.get_database_backend(), sql);
    let rows = Row::find_by_statement(statement).all(database).await.unwrap();
    rows.into_iter().map(|row| row.seq).collect()
}

on_every_engine! {
    async fn what_is_written_is_read_again_to_the_microsecond(test: TestStore) {
        let mut wanted = key(1, "acme");
        insert(&test.store, &wanted).await;
        assert_eq!(find(&test.store, &wanted).await.unwrap(), wanted);
        let now = Time::from_micros(-1);
        wanted.deletion = Some(Deletion { delete_time: now, purge_time: Time::MAX, reason: DeleteReason::OwnerLeft });
        wanted.version = 2;
        wanted.update_time = now;
        wanted.retiring = None;
        wanted.not_before_time = None;
        let tx = test.store.begin().await.unwrap();
        tx.api_key_save(&wanted).await.unwrap();
        tx.number().await.unwrap().commit(event(&wanted, Action::Delete), 6, |committed| committed).await.unwrap();
        assert_eq!(find(&test.store, &wanted).await.unwrap(), wanted);
    }
}

on_every_engine! {
    async fn a_validation_is_one_statement_whether_or_not_there_is_such_a_credential(test: TestStore) {
        let wanted = key(1, "acme");
        let seq = insert(&test.store, &wanted).await;
        let before = test.store.statements();
        let found = test.store.validation_read_even_deleted(wanted.current).await.unwrap();
        let none = test.store.validation_read_even_deleted(CredentialId::from_bytes([7; 16])).await.unwrap();
        assert_eq!(test.store.statements() - before, 2);
        assert!(none.found.is_none());
        assert_eq!((found.revision.seq(), &none.revision), (seq, &found.revision));
        let (credential, key) = found.found.unwrap();
        assert_eq!((credential.phc.as_str(), key), ("$phc-1", wanted));
    }
}

on_every_engine! {
    async fn a_key_out_of_reach_is_not_there_and_names_compare_as_bytes(test: TestStore) {
        let wanted = key(1, "acme");
        insert(&test.store, &wanted).await;
        for (merchant, is_there) in [("acme", true), ("Acme", false), ("ACME", false), ("acme.", false)] {
            let reach = Reach::everything().narrowed_to(&merchant.parse().unwrap()).unwrap();
            let found = test.store.api_key_find_even_deleted(&reach, wanted.id).await.unwrap();
            assert_eq!(found.is_some(), is_there, "{merchant}");
            let tx = test.store.begin().await.unwrap();
            let locked = tx.api_key_find_even_deleted(&reach, wanted.id).await.unwrap();
            assert_eq!(locked.is_some(), is_there, "{merchant}");
            tx.rollback().await.unwrap();
        }
    }
}

on_every_engine! {
    async fn a_change_of_another_version_than_was_read_does_not_happen(test: TestStore) {
        let wanted = key(1, "acme");
        insert(&test.store, &wanted).await;
        let tx = test.store.begin().await.unwrap();
        let stale = ApiKey { version: 3, display_name: "stale".into(), ..wanted.clone() };
        assert!(matches!(tx.api_key_save(&stale).await, Err(Error::Fault(_))));
        drop(tx);
        assert_eq!(find(&test.store, &wanted).await.unwrap(), wanted);
    }
}

on_every_engine! {
    async fn numbers_are_dense_and_each_has_its_audit_entry_although_some_roll_back(test: TestStore) {
        let mut writers = tokio::task::JoinSet::new();
        for number in 1..=24_u8 {
            let store = test.store.clone();
            writers.spawn(async move {
                let key = key(number, "acme");
                loop {
                    let attempt = async {
                        let tx = store.begin().await?;
                        tx.api_key_insert(&key, &credential(number)).await?;
                        let numbered = tx.number().await?;
                        if number % 4 == 0 {
                            // Gives its number back.
                            drop(numbered);
                            return Ok(None);
                        }
                        numbered.commit(event(&key, Action::Create), i64::from(number), |committed| committed).await.map(Some)
                    };
                    match attempt.await {
                        Err(Error::Unavailable(Unavailable::Contended(_) | Unavailable::Database(_))) => {}
                        outcome => return outcome.unwrap().map(|committed| committed.revision.seq()),
                    }
                }
            });
        }
        let mut committed: Vec<i64> = writers.join_all().await.into_iter().flatten().collect();
        committed.sort_unstable();
        let dense: Vec<i64> = (1..=18).collect();
        let by_hand = test.database.by_hand().await;
        assert_eq!(committed, dense);
        assert_eq!(numbers(&by_hand, "change_log").await, dense);
        assert_eq!(numbers(&by_hand, "audit_log").await, dense);
        assert_eq!(test.store.feed_head().await.unwrap().seq(), 18);
    }
}

on_every_engine! {
    async fn a_transaction_that_is_dropped_leaves_no_trace(test: TestStore) {
        let wanted = key(1, "acme");
        let tx = test.store.begin().await.unwrap();
        tx.api_key_insert(&wanted, &credential(1)).await.unwrap();
        drop(tx.number().await.unwrap());
        assert!(find(&test.store, &wanted).await.is_none());
        assert_eq!(insert(&test.store, &wanted).await, 1, "the number was given back");
    }
}

on_every_engine! {
    async fn pages_go_newest_first_and_by_id_within_a_microsecond(test: TestStore) {
        for number in 1..=9 {
            let twin = Time::from_micros(NOW + i64::from(number / 2));
            insert(&test.store, &ApiKey { create_time: twin, ..key(number, "acme") }).await;
        }
        insert(&test.store, &key(10, "other")).await;
        let reach = Reach::everything().narrowed_to(&"acme".parse().unwrap()).unwrap();
        let filter = ListFilter { states: vec![], show_deleted: false };
        let (mut seen, mut position) = (Vec::new(), None);
        loop {
            let page = test.store.api_key_list(&reach, &filter, position, Time::MIN, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            position = Some(Position { create_time: last.create_time, id: last.id });
            seen.extend(page.iter().map(|key| key.id.as_bytes()[0]));
        }
        assert_eq!(seen, [9, 8, 7, 6, 5, 4, 3, 2, 1]);
    }
}

on_every_engine! {
    async fn the_states_of_a_filter_are_those_of_the_domain(test: TestStore) {
        let (early, now, late) = (Time::from_micros(NOW), Time::from_micros(NOW + 1), Time::from_micros(NOW + 2));
        let deletion = Deletion { delete_time: early, purge_time: late, reason: DeleteReason::Unused };
        let mut number = 0;
        for deletion in [None, Some(deletion)] {
            for disabled in [false, true] {
                for not_before_time in [None, Some(early), Some(now), Some(late)] {
                    for expire_time in [None, Some(early), Some(now), Some(late)] {
                        number += 1;
                        let base = key(number, "acme");
                        let key = ApiKey { deletion, disabled, not_before_time, expire_time, ..base };
                        insert(&test.store, &key).await;
                    }
                }
            }
        }
        let all = [State::Active, State::Disabled, State::NotYetValid, State::Expired, State::Deleted];
        let mut counted = 0;
        for state in all {
            let filter = ListFilter { states: vec![state], show_deleted: true };
            let keys = test.store.api_key_list(&Reach::everything(), &filter, None, now, 1_000).await.unwrap();
            assert!(!keys.is_empty() && keys.iter().all(|key| key.state(now) == state), "{state:?}");
            counted += keys.len();
        }
        assert_eq!(counted, usize::from(number), "each key is in exactly one state");
        let filter = ListFilter { states: vec![], show_deleted: false };
        let alive = test.store.api_key_list(&Reach::everything(), &filter, None, now, 1_000).await.unwrap();
        assert_eq!(alive.len(), usize::from(number / 2));
    }
}

on_every_engine! {
    async fn a_request_id_is_noted_once(test: TestStore) {
        let wanted = key(1, "acme");
        insert(&test.store, &wanted).await;
        let request = RequestKey { caller: KeyId::from_bytes([9; 16]), request_id: "Request-Id-000001".parse().unwrap() };
        let replay = Replay {
            fingerprint: [3; 32],
            key_id: wanted.id,
            credential_id: wanted.current,
            create_time: Time::from_micros(NOW),
            sealed: Some((RootId::new('0').unwrap(), [7; 168])),
        };
        let note = async |request: &RequestKey| {
            let tx = test.store.begin().await.unwrap();
            tx.request_insert(request, &replay).await?;
            tx.number().await.unwrap().commit(event(&wanted, Action::Create), 1, |committed| committed).await.map(drop)
        };
        note(&request).await.unwrap();
        assert!(matches!(note(&request).await, Err(Error::Unavailable(Unavailable::Contended(_)))));
        let other_case = RequestKey { request_id: "request-id-000001".parse().unwrap(), ..request.clone() };
        note(&other_case).await.unwrap();

        assert_eq!(test.store.sealed_replay_erase_before(Time::from_micros(NOW)).await.unwrap(), 0);
        assert_eq!(test.store.sealed_replay_erase_before(Time::from_micros(NOW + 1)).await.unwrap(), 2);
        let tx = test.store.begin().await.unwrap();
        let found = tx.request_find(&request).await.unwrap().unwrap();
        assert!(found == Replay { sealed: None, ..replay });
    }
}

on_every_engine! {
    async fn a_purge_takes_all_of_a_deleted_key_and_nothing_of_a_live_one(test: TestStore) {
        let (alive, gone) = (key(1, "acme"), key(2, "acme"));
        let due = Time::from_micros(NOW);
        let deletion = Deletion { delete_time: due, purge_time: due, reason: DeleteReason::Unused };
        let gone = ApiKey { deletion: Some(deletion), ..gone };
        insert(&test.store, &alive).await;
        insert(&test.store, &gone).await;
        assert_eq!(test.store.api_key_list_due_for_purge(Time::from_micros(NOW - 1), 9).await.unwrap(), []);
        assert_eq!(test.store.api_key_list_due_for_purge(due, 9).await.unwrap(), [gone.id]);
        let tx = test.store.begin().await.unwrap();
        tx.api_key_purge(gone.id).await.unwrap();
        tx.number().await.unwrap().commit(event(&gone, Action::Purge), 1, |committed| committed).await.unwrap();
        assert!(find(&test.store, &gone).await.is_none());
        assert!(test.store.validation_read_even_deleted(gone.current).await.unwrap().found.is_none());
        let tx = test.store.begin().await.unwrap();
        assert!(matches!(tx.api_key_purge(alive.id).await, Err(Error::Fault(_))));
        drop(tx);
        assert_eq!(find(&test.store, &alive).await.unwrap(), alive);
    }
}

on_every_engine! {
    async fn a_renewed_hash_takes_the_place_of_the_one_that_was_read_only(test: TestStore) {
        let wanted = key(1, "acme");
        let seq = insert(&test.store, &wanted).await;
        let renewed = Credential { phc: "$renewed".into(), ..credential(1) };
        test.store.credential_renew_hash(wanted.current, "$other", &renewed).await.unwrap();
        let read = async || test.store.validation_read_even_deleted(wanted.current).await.unwrap();
        assert_eq!(read().await.found.unwrap().0.phc, "$phc-1");
        test.store.credential_renew_hash(wanted.current, "$phc-1", &renewed).await.unwrap();
        let after = read().await;
        assert_eq!(after.revision.seq(), seq, "no number");
        let (credential, key) = after.found.unwrap();
        assert_eq!((credential.phc.as_str(), key), ("$renewed", wanted));
    }
}

on_every_engine! {
    async fn the_first_administrator_is_noted_once_and_for_ever(test: TestStore) {
        let note = async || {
            let wanted = key(1, "claviger");
            let tx = test.store.begin().await.unwrap();
            tx.bootstrap_insert(wanted.current, wanted.create_time).await?;
            tx.number().await.unwrap().commit(event(&wanted, Action::Create), 1, |committed| committed).await.map(drop)
        };
        assert!(!test.store.bootstrap_is_done().await.unwrap());
        note().await.unwrap();
        assert!(test.store.bootstrap_is_done().await.unwrap());
        assert!(matches!(note().await, Err(Error::Unavailable(Unavailable::Contended(_)))));
    }
}

on_every_engine! {
    async fn administrators_are_found_by_both_their_scopes(test: TestStore) {
        for (number, scopes) in [
            (1, vec!["claviger:admin", "claviger:all-merchants"]),
            (2, vec!["claviger:admin"]),
            (3, vec!["claviger:all-merchants", "x", "claviger:admin"]),
        ] {
            let terms = Terms { scopes: scopes.into_iter().map(Scope::reserved).collect(), ..Terms::default() };
            insert(&test.store, &ApiKey { terms: Ok(terms), ..key(number, "claviger") }).await;
        }
        let tx = test.store.begin().await.unwrap();
        let found = tx.api_key_list_full_administrators().await.unwrap();
        let mut ids: Vec<u8> = found.iter().map(|key| key.id.as_bytes()[0]).collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 3]);
    }
}

on_every_engine! {
    async fn many_processes_migrate_at_once_and_one_does_it(test: TestStore) {
        let mut openings = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let address = test.database.address.clone();
            openings.spawn(async move {
                let store = Store::open(&address, claviger::store::Options::default()).await.unwrap();
                store.schema_migrate().await.unwrap();
                store.schema_require().await.unwrap();
            });
        }
        openings.join_all().await;
        assert_eq!(insert(&test.store, &key(1, "acme")).await, 1);
    }
}

on_every_engine! {
    async fn a_step_can_be_taken_back_and_again(test: TestStore) {
        use claviger::migrations::Migrator;
        use sea_orm_migration::MigratorTrait;
        insert(&test.store, &key(1, "acme")).await;
        let by_hand = test.database.by_hand().await;
        Migrator::down(&by_hand, None).await.unwrap();
        assert!(test.store.schema_require().await.is_err());
        test.store.schema_migrate().await.unwrap();
        test.store.feed_begin("again").await.unwrap();
        test.note_root_secret().await;
        assert_eq!(insert(&test.store, &key(1, "acme")).await, 1);
    }
}

/// SQLite has one writer inside one process, which its own time-out ends; a server has frozen strangers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_writer_cannot_stop_a_revocation_on_postgres() {
    let Some(test) = TestStore::start(Engine::Postgres).await else { return };
    let (mine, theirs) = (key(1, "acme"), key(2, "acme"));
    insert(&test.store, &theirs).await;
    let frozen = test.store.begin().await.unwrap();
    frozen.api_key_insert(&mine, &credential(1)).await.unwrap();
    let frozen = frozen.number().await.unwrap();
    // It holds the feed and does nothing more. The others wait for its lock 2 s at a time, and after 5 s it is ended.
    let changed = ApiKey { version: 2, display_name: "revoked".into(), ..theirs };
    let begun = tokio::time::Instant::now();
    loop {
        let attempt = async {
            let tx = test.store.begin().await?;
            tx.api_key_save(&changed).await?;
            tx.number().await?.commit(event(&changed, Action::Update), 1, |committed| committed).await
        };
        match attempt.await {
            Ok(_) => break,
            Err(Error::Unavailable(_)) => assert!(begun.elapsed() < Duration::from_secs(30), "it never got its turn"),
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(
        frozen.commit(event(&mine, Action::Create), 2, |committed| committed).await.is_err(),
        "the frozen one changes nothing any more"
    );
    assert_eq!(find(&test.store, &changed).await.unwrap().display_name, "revoked");
    assert!(find(&test.store, &mine).await.is_none());
}
