//! What was erased is in no file: sealed key strings that can no longer be replayed, and those of the schema before.

use std::{collections::HashSet, process::Command, time::Duration};

use claviger::{
    app::{App, NewKey, Rights},
    domain::{CredentialId, Error, KeyId, RequestId, ip_rules::CallerIp, sealed},
    grpc::proto,
    migrations::{Migrator, VERSION},
    store::Address,
};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use sea_orm_migration::MigratorTrait;

use crate::{
    calls::{number, sealed_replays},
    harness::{Engine, Service, TestDatabase, app_settings, dump, key_of, root},
};

/// The files of an embedded database. Read by another process: this one would lose SQLite's locks by closing them.
fn raw(database: &TestDatabase) -> Vec<u8> {
    let Address::Sqlite(path) = &database.address else { return Vec::new() };
    let script = "cat \"$0\" \"$0-wal\" 2>/dev/null || true";
    Command::new("sh").args(["-c", script]).arg(path).output().unwrap().stdout
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

async fn blobs(database: &DatabaseConnection, query: &str) -> Vec<Vec<u8>> {
    let statement = Statement::from_string(database.get_database_backend(), query.to_owned());
    let rows = database.query_all_raw(statement).await.unwrap();
    rows.iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

async fn sealed_texts(database: &DatabaseConnection) -> HashSet<Vec<u8>> {
    let query = "SELECT sealed FROM sealed_replay_0 UNION ALL SELECT sealed FROM sealed_replay_1";
    blobs(database, query).await.into_iter().collect()
}

async fn create(service: &Service, id: &str) -> proto::CreateResponse {
    let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), request_id: id.into() };
    service.admin().create(request).await.unwrap().into_inner()
}

/// Makes keys with request ids, and gives what was sealed of them.
async fn make(service: &Service, by_hand: &DatabaseConnection, ids: std::ops::Range<u32>) -> HashSet<Vec<u8>> {
    let before = sealed_texts(by_hand).await;
    for id in ids {
        create(service, &format!("request-id-of-{id:08}")).await;
    }
    let made: HashSet<_> = sealed_texts(by_hand).await.difference(&before).cloned().collect();
    assert!(!made.is_empty());
    made
}

on_every_engine! {
    async fn case_61_a_replay_older_than_15_minutes_is_in_no_file(service: Service) {
        let by_hand = service.database.by_hand().await;
        // Enough for several pages; and some that can still be replayed when the others are erased.
        let mut old = make(&service, &by_hand, 0..60).await;
        service.clock.advance(Duration::from_mins(6));
        old.extend(make(&service, &by_hand, 60..120).await);
        service.clock.advance(Duration::from_mins(10));
        let young = make(&service, &by_hand, 120..160).await;
        if matches!(service.database.address, Address::Sqlite(_)) {
            let raw = raw(&service.database);
            assert!(old.iter().chain(&young).all(|sealed| holds(&raw, sealed)), "the test looks in the right place");
        }
        service.clock.advance(Duration::from_mins(5) + Duration::from_micros(1));
        service.app.upkeep().await.unwrap();
        let (raw, dumped) = (raw(&service.database), dump::dump(&by_hand).await.to_ascii_lowercase());
        let left = old.iter().filter(|sealed| holds(&raw, sealed)).count();
        assert_eq!(left, 0, "of {} erased key strings", old.len());
        assert!(!old.iter().any(|sealed| dumped.contains(&hexadecimal(sealed))));
        assert!(young.iter().all(|sealed| dumped.contains(&hexadecimal(sealed))));
        assert!(create(&service, "request-id-of-00000120").await.replayed);

        service.clock.advance(Duration::from_mins(15));
        service.app.upkeep().await.unwrap();
        let raw = self::raw(&service.database);
        assert!(!old.iter().chain(&young).any(|sealed| holds(&raw, sealed)));
        assert_eq!(sealed_replays(&service).await, 0);
        let rows = "SELECT (SELECT count(*) FROM sealed_replay_0) + (SELECT count(*) FROM sealed_replay_1)";
        assert_eq!(number(&service, rows).await, 0);
    }
}

on_every_engine! {
    async fn case_61_database_and_root_secret_open_no_replay_without_its_request_id(service: Service) {
        let id = "3f9c01d2a4b58e67f0112233c4d5e6f7";
        let made = create(&service, id).await;
        let by_hand = service.database.by_hand().await;
        assert!(!dump::holds(&dump::dump(&by_hand).await, id));
        assert!(!holds(&raw(&service.database), id.as_bytes()));

        // All that the database holds of it, and the root secret.
        let column = async |query: &str| -> [u8; 16] { blobs(&by_hand, query).await[0].as_slice().try_into().unwrap() };
        let caller = column("SELECT id FROM api_key WHERE merchant_username = 'claviger'").await;
        let key = KeyId::from_bytes(column("SELECT key_id FROM completed_request").await);
        let credential = CredentialId::from_bytes(column("SELECT credential_id FROM completed_request").await);
        let sealed = sealed_texts(&by_hand).await.into_iter().next().unwrap();
        let context = [caller, *key.as_bytes(), *credential.as_bytes()].concat();
        let open = |id: &str| sealed::open(&root('0', 7).replay_key(&id.parse().unwrap()), &context, &sealed);
        let opened = open(id).expect("the test knows how it is sealed");
        assert_eq!(std::str::from_utf8(&opened).unwrap().trim_end_matches('\0'), made.key);
        assert!(open("3f9c01d2a4b58e67f0112233c4d5e6f8").is_none());
        assert!(sealed::open(root('0', 7).page_token_key(), &context, &sealed).is_none());
    }
}

/// Puts the schema back to the step before, and into it what `id` did, with what was sealed then.
async fn take_back(by_hand: &DatabaseConnection, id: &str, old_sealed: &[u8]) {
    let of_the_request = "SELECT fingerprint FROM completed_request UNION ALL SELECT key_id FROM completed_request UNION \
                          ALL SELECT credential_id FROM completed_request UNION ALL SELECT id FROM api_key WHERE \
                          merchant_username = 'claviger'";
    let parts = blobs(by_hand, of_the_request).await;
    let [fingerprint, key, credential, caller] = parts.as_slice() else { panic!("{parts:?}") };
    let time: i64 = dump::number(by_hand, "SELECT create_time AS n FROM completed_request").await;
    Migrator::down(by_hand, Some(1)).await.unwrap();
    let is_sqlite = by_hand.get_database_backend() == sea_orm::DbBackend::Sqlite;
    let blob = |bytes: &[u8]| {
        let digits = hexadecimal(bytes);
        if is_sqlite { format!("X'{digits}'") } else { format!("'\\x{digits}'") }
    };
    if is_sqlite {
        // As it was: what is deleted stays in the file.
        by_hand.execute_unprepared("PRAGMA secure_delete = off; PRAGMA user_version = 0").await.unwrap();
    }
    // More rows than the migration moves at once, all but one of other callers.
    for (number, caller) in std::iter::once((0_u32, caller.clone())).chain((1..1_200).map(|n| (n, vec![7; 16]))) {
        let request = if number == 0 { id.to_owned() } else { format!("{id}-{number}") };
        let sealed = [old_sealed, &number.to_be_bytes()].concat();
        let values = [&caller, request.as_bytes(), fingerprint, key, credential].map(blob).join(", ");
        let insert = format!("INSERT INTO request_log VALUES ({values}, {time}, {}, '0')", blob(&sealed));
        by_hand.execute_unprepared(&insert).await.unwrap();
    }
}

on_every_engine! {
    async fn case_61_an_upgrade_keeps_request_ids_and_erases_what_was_sealed_before(service: Service) {
        let (mut service, id) = (service, "0123456789abcdef");
        create(&service, id).await;
        service.stop().await;
        let by_hand = service.database.by_hand().await;
        let old_sealed = b"a ciphertext of the version before, which the root secret alone opens";
        take_back(&by_hand, id, old_sealed).await;
        by_hand.close().await.unwrap();
        if matches!(service.database.address, Address::Sqlite(_)) {
            assert!(holds(&raw(&service.database), old_sealed), "the test looks in the right place");
        }

        let store = service.database.open().await;
        store.schema_migrate().await.unwrap();
        let app = App::start(store, service.clock.clone(), app_settings(), vec![root('0', 7)]).await.unwrap();
        assert_eq!(number(&service, "SELECT count(*) FROM completed_request").await, 1_200);
        let current = format!("SELECT count(*) FROM schema_version WHERE version = {VERSION}");
        assert_eq!(number(&service, &current).await, 1);
        let dumped = dump::dump(&service.database.by_hand().await).await;
        assert!(!dump::holds(&dumped, "a ciphertext of the version before") && !dump::holds(&dumped, id));
        let raw = raw(&service.database);
        assert!(!holds(&raw, old_sealed) && !holds(&raw, id.as_bytes()));

        // A retry that straddles the upgrade makes no second key, and says so.
        let peer = CallerIp::new([127, 0, 0, 1].into());
        let caller = app.authenticate(&service.admin, peer, Rights::Read).await.unwrap();
        let retry = async |id: &str| {
            let request_id: RequestId = id.parse().unwrap();
            let new = NewKey { merchant: Some("acme".parse().unwrap()), request_id: Some(request_id), ..NewKey::default() };
            app.create(&caller, new).await
        };
        assert!(matches!(retry(id).await, Err(Error::RequestIdExpired(_))));
        assert!(retry("another-request-id").await.is_ok());
        app.store().close().await.unwrap();
    }
}
