//! How many changes are in progress, who goes first, and what a change that waits holds.

use std::{sync::Arc, time::Duration};

use claviger::{
    admission::{Budget, CallPermit, GivesWay, Share},
    app::{Patch, Patience, Rights, Target},
    domain::ip_rules::CallerIp,
    grpc::proto,
    store::Tx,
};
use prost_types::FieldMask;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, Statement, TransactionTrait};
use tokio::task::{JoinHandle, JoinSet};
use tonic::{Code, transport::Endpoint};

use crate::harness::{Client, Engine, Made, Service, app_settings, client_of, process::eventually, reason};

/// Changes that one caller may have in progress.
const OF_CALLER: usize = 512;

fn update(id: &str, name: &str) -> proto::UpdateRequest {
    proto::UpdateRequest {
        api_key: Some(proto::ApiKey { id: id.into(), display_name: name.into(), ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["display_name".into()] }),
        no_wait: false,
    }
}

/// Keeps every change of the service from its commit until it is dropped.
async fn hold_feed(hand: &DatabaseConnection) -> DatabaseTransaction {
    let begun = hand.begin().await.unwrap();
    // On both engines this takes the lock that each change needs: of the row, or of the whole database.
    begun.execute_unprepared("UPDATE feed_head SET seq = seq").await.unwrap();
    begun
}

async fn changes_made(service: &Service) -> i64 {
    let hand = service.database.by_hand().await;
    let statement = Statement::from_string(hand.get_database_backend(), "SELECT seq FROM feed_head");
    hand.query_one_raw(statement).await.unwrap().unwrap().try_get("", "seq").unwrap()
}

/// A client on a connection of its own.
fn on_its_own_connection(service: &Service, key: &str) -> Client {
    client_of(Endpoint::from_shared(format!("http://{}", service.address)).unwrap().connect_lazy(), key)
}

/// A stolen key in a loop of Update and reset, until no more of its changes are accepted. What holds the changes up has to
/// be dropped for them to go on.
async fn loop_of_resets(service: &Service, attacker: &Made, target: &Made) {
    let clients: Vec<_> = (0..4).map(|_| on_its_own_connection(service, &attacker.key)).collect();
    let mut calls = JoinSet::new();
    for number in 0..OF_CALLER + 100 {
        let (mut client, id) = (clients[number % clients.len()].clone(), target.id.clone());
        calls.spawn(async move { client.update(update(&id, &number.to_string())).await });
    }
    eventually("the caller's changes are in progress", || async {
        (service.app.changes_in_progress() == OF_CALLER).then_some(())
    })
    .await;
    // All that are beyond the bound were refused.
    for _ in 0..100 {
        let refused = calls.join_next().await.unwrap().unwrap().unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    }
    calls.shutdown().await;
    // Each connection tells of its resets before it asks again.
    for mut client in clients {
        let refused = client.update(update(&target.id, "once more")).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    }
    assert_eq!(service.app.changes_in_progress(), OF_CALLER, "a reset makes no room");
}

/// The attack, and a Delete of the attacking key by `revoker`.
async fn revoked_in_the_midst_of_resets(service: Service, revoker: impl Fn(&Service, &Made) -> Client) {
    let attacker = service.make_for("acme", &["claviger:keys.write"]).await;
    let (target, other) =
        (service.make_for("acme", &[]).await, service.make_for("shop", &["claviger:keys.write"]).await);
    let of_other = service.make_for("shop", &[]).await;
    let hand = service.database.by_hand().await;
    let held = hold_feed(&hand).await;
    loop_of_resets(&service, &attacker, &target).await;
    // Another merchant's change finds a place all the same.
    let others_change = tokio::spawn({
        let (mut client, id) = (service.client(&other.key), of_other.id.clone());
        async move { client.update(update(&id, "ours")).await }
    });
    let before = changes_made(&service).await;
    let delete = proto::DeleteRequest {
        id: attacker.id.clone(),
        reason: proto::DeleteReason::Compromised.into(),
        ..Default::default()
    };
    let mut client = revoker(&service, &attacker);
    let deleted = tokio::spawn(async move { client.delete(delete).await });
    eventually("the revocation is in progress", || async {
        (service.app.revocations_in_progress() == 1).then_some(())
    })
    .await;
    held.commit().await.unwrap();
    assert!(deleted.await.unwrap().unwrap().into_inner().enforced);
    others_change.await.unwrap().unwrap();
    eventually("all has ended", || async { (service.app.changes_in_progress() == 0).then_some(()) }).await;
    // Of the attacker's changes only those went before it that a writer had begun; all others lost their right.
    let (began, made) = (i64::try_from(service.app.store().writers()).unwrap(), changes_made(&service).await - before);
    assert!((2..=2 + began + 1).contains(&made), "{made} changes");
    assert_eq!(service.decision(&attacker.key).await, proto::DecisionCode::Deleted);
}

on_every_engine! {
    async fn case_55_a_key_in_a_loop_of_update_and_reset_is_deleted_by_an_administrator(service: Service) {
        revoked_in_the_midst_of_resets(service, |service, _| service.admin()).await;
    }
}

on_every_engine! {
    async fn case_55_a_key_in_a_loop_of_update_and_reset_deletes_itself(service: Service) {
        revoked_in_the_midst_of_resets(service, |service, attacker| service.client(&attacker.key)).await;
    }
}

/// The permit of a call in a budget of one, and what it waits by.
fn permit() -> (Budget, CallPermit) {
    let permits = Budget::new(1, GivesWay::Newest);
    let permit = CallPermit::new(permits.try_take(&Share::Unlearned, 1).unwrap());
    (permits, permit)
}

/// Disables a key in a call that holds `permit`.
async fn disable_with(service: &Service, id: &str, permit: CallPermit) -> JoinHandle<bool> {
    let address = CallerIp::new("127.0.0.1".parse().unwrap());
    let caller = service.app.authenticate(&service.admin, address, Rights::Read).await.unwrap();
    let patience = Patience { permit, ..Patience::default() };
    let target = Target { id: id.parse().unwrap(), merchant: None, etag: None };
    let disable = Patch { disabled: Some(true), ..Patch::default() };
    let app = Arc::clone(&service.app);
    tokio::spawn(async move { app.update(&caller, target, disable, patience).await.unwrap().enforcement.enforced })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_waits_for_enforcement_holds_no_permit() {
    let mut settings = app_settings();
    settings.freshness.other_replicas = true;
    let service = Service::start_with(Engine::Sqlite, settings).await.unwrap();
    let made = service.make_for("acme", &[]).await;
    let (permits, permit) = permit();
    let waiting = disable_with(&service, &made.id, permit.clone()).await;
    eventually("the permit is returned", || async { (permits.used() == 0).then_some(()) }).await;
    // No time has passed for leases, so the call waits still.
    assert!(!waiting.is_finished());
    service.clock.advance(Duration::from_secs(11));
    assert!(waiting.await.unwrap());
}

on_every_engine! {
    async fn a_change_keeps_its_permit_until_its_commit_although_the_client_resets_the_call(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let hand = service.database.by_hand().await;
        let held = hold_feed(&hand).await;
        let (permits, permit) = permit();
        let call = disable_with(&service, &made.id, permit).await;
        eventually("the revocation is in progress", || async {
            (service.app.revocations_in_progress() == 1).then_some(())
        })
        .await;
        call.abort();
        drop(call.await);
        assert_eq!(permits.used(), 1);
        held.commit().await.unwrap();
        eventually("the permit is returned", || async { (permits.used() == 0).then_some(()) }).await;
        assert_eq!(service.decision(&made.key).await, proto::DecisionCode::Disabled);
    }
}

/// Waits for the lock of the feed; those that find no connection in time do not.
async fn number(begun: claviger::domain::Result<Tx>) {
    if let Ok(tx) = begun {
        drop(tx.number().await);
    }
}

/// The formula of the documents: what reads, two for lists, half of what reads for changes, one for revocations, one for the
/// feed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_opens_as_many_connections_as_the_documents_say() {
    const READS: u32 = 8;
    const DOCUMENTED: u32 = READS + 2 + READS / 2 + 1 + 1;
    let Some(service) = Service::start(Engine::Postgres).await else { return };
    let hand = service.database.by_hand().await;
    let held = hand.begin().await.unwrap();
    // Each statement that needs one of these keeps its connection.
    held.execute_unprepared("LOCK TABLE api_key, credential, feed_head IN ACCESS EXCLUSIVE MODE").await.unwrap();
    // Not in the transaction that holds the locks: a transaction sees the activity as it first saw it.
    let (observer, own) = (service.database.by_hand().await, 2);
    let mut calls = JoinSet::new();
    for _ in 0..3 * READS {
        let app = Arc::clone(&service.app);
        calls.spawn(async move { drop(app.store().feed_state().await) });
        let app = Arc::clone(&service.app);
        calls.spawn(async move { drop(app.take_census().await) });
        let app = Arc::clone(&service.app);
        calls.spawn(async move { number(app.store().begin().await).await });
        let app = Arc::clone(&service.app);
        calls.spawn(async move { number(app.store().begin_reserved().await).await });
    }
    let count = || async {
        let count = "SELECT count(*) AS number FROM pg_stat_activity \
                     WHERE datname = current_database()";
        let row = observer.query_one_raw(Statement::from_string(DbBackend::Postgres, count)).await.unwrap().unwrap();
        row.try_get::<i64>("", "number").unwrap()
    };
    eventually("all pools are in use", || async {
        service.app.store().pools().iter().all(|pool| pool.used == pool.most).then_some(())
    })
    .await;
    eventually("the feed is read, too", || async { (count().await == i64::from(DOCUMENTED) + own).then_some(()) })
        .await;
    let pools: u32 = service.app.store().pools().iter().map(|pool| pool.most).sum();
    assert_eq!(pools + 1, DOCUMENTED);
    calls.shutdown().await;
    held.rollback().await.unwrap();
}
