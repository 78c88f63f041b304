//! Feeds that are not what they were: everything is dropped, an alarm is raised, and what was seen revoked stays refused.

use claviger::{
    app::alarms::Alarm,
    grpc::proto::{self, DecisionCode},
};

use crate::{
    calls::{delete, update},
    harness::{
        Engine, Service, TestDatabase, key_of,
        process::{Program, admin_key, eventually},
        replicas::Replicas,
    },
};

/// Disables the keys of a merchant and changes the feed by hand, without a word, and waits until that is found out.
async fn spoil(service: &Service, feed: &str) {
    let anomalies = service.app.freshness().anomalies();
    let disabled = format!("UPDATE api_key SET disabled = {} WHERE merchant_username = 'spoiled'", yes(service));
    service.execute_silently(&format!("BEGIN; {disabled}; {feed}; COMMIT")).await;
    service.app.freshness().poke();
    eventually("the feed is found out", || async { (service.app.freshness().anomalies() > anomalies).then_some(()) })
        .await;
}

fn yes(service: &Service) -> &'static str {
    match service.app.store().engine() {
        claviger::store::Engine::Sqlite => "1",
        claviger::store::Engine::Postgres => "true",
    }
}

on_every_engine! {
    async fn case_20_a_feed_that_is_not_what_it_was_is_believed_nothing(service: Service) {
        let key_id = match service.app.store().engine() {
            claviger::store::Engine::Sqlite => "x'00000000000000000000000000000000'",
            claviger::store::Engine::Postgres => "decode('00000000000000000000000000000000', 'hex')",
        };
        let row = |seq: i64, kind: i64| {
            format!("INSERT INTO change_log (seq, key_id, kind, nonce, time, version) VALUES ({seq}, {key_id}, {kind}, 1, 0, 0)")
        };
        let ahead = |by: i64| format!("UPDATE feed_head SET seq = seq + {by}");
        for round in 0..7 {
            let made = service.make(proto::ApiKey { merchant_username: "spoiled".into(), ..key_of("spoiled", &[]) }).await;
            assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
            // The poller has to have seen it, or it would not know that it changed.
            let now = service.app.store().feed_head().await.unwrap();
            eventually("the feed is followed", || async {
                (service.app.freshness().position().as_ref() == Some(&now)).then_some(())
            })
            .await;
            let last = now.seq();
            let feed = match round {
                // It steps back.
                0 => format!("DELETE FROM change_log WHERE seq = {last}; DELETE FROM audit_log WHERE seq = {last}; {}", ahead(-1)),
                // What was applied is another change.
                1 => format!("UPDATE change_log SET nonce = nonce + 1 WHERE seq = {last}"),
                // What was applied is gone.
                2 => format!("DELETE FROM change_log WHERE seq = {last}"),
                // A number is missing.
                3 => format!("{}; {}", ahead(2), row(last + 2, 2)),
                // The head is ahead of the log.
                4 => ahead(1),
                // A kind that nobody knows.
                5 => format!("{}; {}", ahead(1), row(last + 1, 77)),
                // Another history.
                _ => "UPDATE feed_head SET epoch = 'another'".to_owned(),
            };
            spoil(&service, &feed).await;
            assert_eq!(service.decision(&made.key).await, DecisionCode::Disabled, "round {round}");
            assert_eq!(service.app.freshness().anomalies(), round + 1);
            // It goes on from where the feed is now.
            let disabled = format!("UPDATE api_key SET disabled = NOT {}", yes(&service));
            service.execute_silently(&disabled).await;
            let fresh = service.make_for("other", &[]).await;
            assert_eq!(service.decision(&fresh.key).await, DecisionCode::Valid);
            service.until_warm(&fresh.key).await;
        }
    }
}

on_every_engine! {
    async fn what_was_seen_deleted_stays_so_after_a_restore_until_it_is_accepted(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let live = service.make_for("acme", &[]).await;
        assert_eq!(service.decision(&live.key).await, DecisionCode::Valid);
        delete(service.admin(), &made.id).await.unwrap();
        assert_eq!(service.decision(&made.key).await, DecisionCode::Deleted);
        // As it was in a backup from before the deletion.
        let restored = "UPDATE api_key SET delete_time = NULL, purge_time = NULL, delete_reason = 0, version = 1 \
                        WHERE delete_time IS NOT NULL";
        assert_eq!(service.execute(restored).await, 1);
        for _ in 0..2 {
            assert_eq!(service.decision(&made.key).await, DecisionCode::Deleted);
            assert_eq!(service.decision(&live.key).await, DecisionCode::Valid);
        }
        assert_eq!(service.app.freshness().revoked_again(), 2);
        service.app.store().feed_accept().await.unwrap();
        service.app.freshness().poke();
        eventually("it is accepted", || async {
            (service.decision(&made.key).await == DecisionCode::Valid).then_some(())
        })
        .await;
    }
}

on_every_engine! {
    async fn a_key_that_was_disabled_and_is_enabled_again_is_good_again(service: Service) {
        let made = service.make_for("acme", &[]).await;
        for disabled in [true, false, true, false] {
            let settings = proto::ApiKey { disabled, ..Default::default() };
            update(service.admin(), &made.id, &["disabled"], settings).await.unwrap();
            let expected = if disabled { DecisionCode::Disabled } else { DecisionCode::Valid };
            assert_eq!(service.decision(&made.key).await, expected);
        }
        assert_eq!(service.app.freshness().revoked_again(), 0);
    }
}

/// `claviger feed …` on a database that replicas serve.
fn feed(database: &TestDatabase, arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let ended = Program::new(folder.path())
        .set("CLAVIGER_DATABASE_URL", database.url())
        .set("CLAVIGER_LOG", "error")
        .args(&[&["feed"], arguments].concat())
        .run();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_22_rows_that_were_changed_by_hand_count_once_the_operator_has_said_so() {
    use sea_orm::ConnectionTrait;
    let Some(replicas) = Replicas::start().await else { return };
    let (one, two) = (replicas.replica().await, replicas.replica().await);
    let made = [one.make(key_of("a", &[])).await, one.make(key_of("b", &[])).await, one.make(key_of("c", &[])).await];
    two.until_fresh().await;
    for made in &made {
        assert_eq!(two.decision(&made.key).await, DecisionCode::Valid);
    }
    let by_hand = replicas.database.by_hand().await;
    by_hand.execute_unprepared("UPDATE api_key SET disabled = true WHERE merchant_username = 'c'").await.unwrap();
    let swap = "UPDATE credential SET phc = (SELECT other.phc FROM credential AS other JOIN api_key ON api_key.id = \
                other.key_id WHERE merchant_username IN ('a', 'b') AND other.id <> credential.id) WHERE key_id IN (SELECT \
                id FROM api_key WHERE merchant_username IN ('a', 'b'))";
    assert_eq!(by_hand.execute_unprepared(swap).await.unwrap().rows_affected(), 2);
    let began = std::time::Instant::now();
    feed(&replicas.database, &["new-epoch"]);
    assert!(began.elapsed() >= std::time::Duration::from_millis(1_050), "no replica can answer from before it");
    for replica in [&one, &two] {
        assert_eq!(replica.decision(&made[2].key).await, DecisionCode::Disabled);
        for made in &made[..2] {
            assert_eq!(replica.decision(&made.key).await, DecisionCode::NotFound);
        }
        assert_eq!(replica.app.alarms().raised(Alarm::HashMismatch), 2);
        assert_eq!(replica.app.freshness().anomalies(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lease_is_set_for_all_replicas_and_a_shorter_one_waits_for_the_longer() {
    let Some(replicas) = Replicas::start().await else { return };
    let one = replicas.replica().await;
    one.until_fresh().await;
    insta::assert_snapshot!(feed(&replicas.database, &["lease", "3s"]), @"
    lease:        3s
    enforcement:  3s 150ms
    ");
    eventually("the lease is longer", || async {
        (one.app.freshness().lease_left(uptime()) > std::time::Duration::from_secs(2)).then_some(())
    })
    .await;
    let began = std::time::Instant::now();
    insta::assert_snapshot!(feed(&replicas.database, &["lease", "500ms"]), @"
    lease:        500ms
    enforcement:  525ms
    ");
    assert!(began.elapsed() >= std::time::Duration::from_millis(3_150));
    let made = one.make(key_of("a", &[])).await;
    let began = std::time::Instant::now();
    assert!(one.delete(&made.api_key.unwrap().id, false).await.enforced);
    assert!(began.elapsed() >= std::time::Duration::from_millis(525), "{:?}", began.elapsed());
    let told = feed(&replicas.database, &["status"]);
    let told = told.lines().filter(|line| !line.starts_with("changed:")).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!(told, @"
    history:      epoch
    last change:  3
    lease:        500ms
    enforcement:  525ms
    accepted:     0
    ");
    insta::assert_snapshot!(feed(&replicas.database, &["accept"]), @"accepted:  1");
}

fn uptime() -> claviger::clock::Uptime {
    use claviger::clock::{Clock, SystemClock};
    SystemClock.uptime()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_database_is_told_of_changes_by_hand_while_it_is_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let serving = Program::new(folder.path()).serve();
    let admin = admin_key(folder.path());
    let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
    let made = serving.client(&admin).create(request).await.unwrap().into_inner();
    let status = || Program::new(folder.path()).args(&["feed", "status"]).run();
    let before = status();
    assert_eq!(before.code, Some(0), "beside a server that runs: {}", before.stderr);
    let refused = Program::new(folder.path()).args(&["feed", "new-epoch"]).run();
    assert_eq!(refused.code, Some(6));
    insta::assert_snapshot!(refused.told(), @"error: another claviger is using FOLDER/data/claviger.db; stop it first, or use PostgreSQL, which several can share");
    serving.stop();
    assert_eq!(Program::new(folder.path()).args(&["feed", "new-epoch"]).run().code, Some(0));
    let history = |told: &str| told.lines().next().unwrap().to_owned();
    assert_ne!(history(&before.stdout), history(&status().stdout));
    let again = Program::new(folder.path()).serve();
    let request = proto::ValidateRequest { key: made.key.clone(), ..Default::default() };
    assert!(again.client(&admin).validate(request).await.unwrap().into_inner().valid);
    // A revision from before it is of another history.
    let request = proto::ValidateRequest { key: made.key, min_revision: made.revision, ..Default::default() };
    let refused = again.client(&admin).validate(request).await.unwrap_err();
    assert_eq!(crate::harness::reason(&refused), "REVISION_OF_ANOTHER_HISTORY");
    let wrong = Program::new(folder.path()).args(&["feed", "lease", "1ms"]).run();
    assert_eq!(wrong.code, Some(2));
    insta::assert_snapshot!(wrong.told(), @"
    error: invalid value '1ms' for '<DURATION>': no length of a lease; write one from 500ms to 10s, such as 2s

    For more information, try '--help'.
    ");
}
