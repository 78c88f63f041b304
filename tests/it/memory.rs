//! Memory and the feed: what is remembered is never older than a change that was answered.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use claviger::{
    app::{Question, Rights, offline_key},
    domain::{
        ApiKey, DeleteReason, KeyId, Time,
        api_key::Terms,
        audit_event::{Action, Actor, AuditEvent},
        ip_rules::CallerIp,
        key_string::{KeyFormat, KeyString},
        secret_hash::{Hasher, Memory, Owner, Profile},
    },
    grpc::proto::{self, DecisionCode},
    store::{Credential, Store},
};
use sea_orm::ConnectionTrait;
use tokio::task::JoinSet;

use crate::{
    calls::{self, delete},
    harness::{Engine, Service, key_of, process::eventually, replicas::Replicas, root},
};

on_every_engine! {
    async fn a_warm_validation_reads_and_hashes_nothing(service: Service) {
        let made = service.make_for("acme", &["a"]).await;
        service.until_warm(&made.key).await;
        let (work, from_memory) = (service.work(), service.app.freshness().from_memory());
        for _ in 0..100 {
            assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
        }
        assert_eq!(service.work(), work);
        // The caller's own key is answered from memory, too.
        assert_eq!(service.app.freshness().from_memory(), from_memory + 200);
    }
}

on_every_engine! {
    async fn an_update_costs_a_read_and_no_hash(service: Service) {
        let made = service.make_for("acme", &[]).await;
        assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
        for name in ["one", "two"] {
            let settings = proto::ApiKey { display_name: name.into(), ..Default::default() };
            calls::update(service.admin(), &made.id, &["display_name"], settings).await.unwrap();
            service.until_warm("").await;
            let (statements, hashes) = service.work();
            let told = service.validate(&made.key, "").await.unwrap().principal.unwrap().display_name;
            assert_eq!((told.as_str(), service.work()), (name, (statements + 1, hashes)));
        }
    }
}

on_every_engine! {
    /// The race itself, many times over; `app::freshness::memory` holds its two orders apart.
    async fn case_15_a_delete_between_the_read_and_the_memory_is_not_forgotten(service: Service) {
        for round in 0..40 {
            let made = service.make_for("acme", &[]).await;
            let (key, admin) = (made.key.clone(), service.admin());
            let mut asked = JoinSet::new();
            for _ in 0..4 {
                let (mut client, key) = (admin.clone(), key.clone());
                asked.spawn(async move {
                    let request = proto::ValidateRequest { key, ..Default::default() };
                    client.validate(request).await.unwrap().into_inner().code()
                });
            }
            delete(service.admin(), &made.id).await.unwrap();
            assert_eq!(service.decision(&key).await, DecisionCode::Deleted, "round {round}");
            for code in asked.join_all().await {
                assert!([DecisionCode::Valid, DecisionCode::Deleted].contains(&code), "{code:?}");
            }
            assert_eq!(service.decision(&key).await, DecisionCode::Deleted, "round {round}");
        }
    }
}

on_every_engine! {
    async fn case_16_nobody_who_asks_after_a_delete_shares_a_read_from_before_it(service: Service) {
        for round in 0..10 {
            let made = service.make_for("acme", &[]).await;
            let (deleted, late) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
            let mut asking = JoinSet::new();
            for _ in 0..50 {
                let (mut client, key) = (service.admin(), made.key.clone());
                let (deleted, late) = (Arc::clone(&deleted), Arc::clone(&late));
                asking.spawn(async move {
                    for _ in 0..6 {
                        let began_after = deleted.load(Ordering::SeqCst);
                        let request = proto::ValidateRequest { key: key.clone(), ..Default::default() };
                        let code = client.validate(request).await.unwrap().into_inner().code();
                        assert!(began_after == 0 || code == DecisionCode::Deleted, "{code:?} after Delete");
                        late.fetch_add(began_after, Ordering::SeqCst);
                    }
                });
            }
            delete(service.admin(), &made.id).await.unwrap();
            deleted.store(1, Ordering::SeqCst);
            while let Some(done) = asking.join_next().await {
                done.unwrap();
            }
            assert_eq!(service.decision(&made.key).await, DecisionCode::Deleted, "round {round}");
        }
    }
}

on_every_engine! {
    async fn case_17_a_key_with_the_same_settings_is_another_key(service: Service) {
        let settings = proto::ApiKey { display_name: "till".into(), ..key_of("acme", &["a"]) };
        let old = service.make(settings.clone()).await;
        assert_eq!(service.decision(&old.key).await, DecisionCode::Valid);
        delete(service.admin(), &old.id).await.unwrap();
        let new = service.make(settings).await;
        for _ in 0..2 {
            assert_eq!(service.decision(&old.key).await, DecisionCode::Deleted);
            assert_eq!(service.decision(&new.key).await, DecisionCode::Valid);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_wait_for_the_same_share_the_read_after_they_asked() {
    let Some(service) = Service::start(Engine::Postgres).await else { return };
    let made = service.make_for("acme", &[]).await;
    service.until_warm("").await;
    let holder = service.database.by_hand().await;
    holder.execute_unprepared("BEGIN; LOCK TABLE credential IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let reads = service.app.freshness().fills();
    let mut asking = JoinSet::new();
    let ask = |asking: &mut JoinSet<bool>| {
        let (mut client, key) = (service.admin(), made.key.clone());
        asking.spawn(async move {
            let request = proto::ValidateRequest { key, ..Default::default() };
            client.validate(request).await.unwrap().into_inner().valid
        });
    };
    ask(&mut asking);
    eventually("the first read is under way", || async {
        (service.app.freshness().fills() == reads + 1).then_some(())
    })
    .await;
    for _ in 0..50 {
        ask(&mut asking);
    }
    // Each of these goes the same way, so those before them have arrived.
    for _ in 0..50 {
        service.until_warm("").await;
    }
    holder.execute_unprepared("COMMIT").await.unwrap();
    assert!(asking.join_all().await.into_iter().all(|valid| valid));
    // One for the first, one for all who came while it was under way; a few for those that a busy machine sent late.
    let reads = service.app.freshness().fills() - reads;
    assert!((2..10).contains(&reads), "{reads} reads for 51 calls");
}

/// A key of `merchant` around a key string that exists already, as the offline bootstrap makes one.
async fn insert(store: &Store, shown: &KeyString) -> KeyId {
    let (id, merchant) = (KeyId::from_bytes([42; 16]), "acme".parse().unwrap());
    let owner = Owner::new(id, shown.credential_id(), &merchant);
    let phc = Hasher::default()
        .hash(shown, &owner, &root('0', 7), Profile::Random256, [1; 16], &mut Memory::default())
        .unwrap();
    let credential = Credential::new(shown.credential_id(), shown.root(), Profile::Random256, phc, Time::MIN);
    let key = ApiKey {
        id,
        merchant,
        display_name: String::new(),
        current: credential.id,
        prefix: "clv".into(),
        retiring: None,
        terms: Ok(Terms::default()),
        disabled: false,
        create_time: Time::from_micros(0),
        update_time: Time::from_micros(0),
        not_before_time: None,
        expire_time: None,
        rotate_time: None,
        deletion: None,
        version: 1,
    };
    let tx = store.begin().await.unwrap();
    tx.api_key_insert(&key, &credential).await.unwrap();
    tx.number().await.unwrap().commit(event(&key, Action::Create), 7, |committed| committed).await.unwrap();
    id
}

fn event(key: &ApiKey, action: Action) -> AuditEvent {
    AuditEvent {
        time: key.update_time,
        actor: Actor::Upkeep,
        action,
        key_id: key.id,
        merchant: key.merchant.clone(),
        version: key.version,
        changes: Vec::new(),
        reason: DeleteReason::Unspecified,
        note: String::new(),
    }
}

fn unborn() -> KeyString {
    offline_key(&KeyFormat::new("clv".parse().unwrap(), vec![]), &root('0', 7)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_a_credential_does_not_exist_is_remembered_until_one_is_made() {
    let service = Service::start(Engine::Sqlite).await.unwrap();
    let stranger = unborn();
    assert_eq!(service.decision(stranger.reveal()).await, DecisionCode::NotFound);
    service.until_warm(stranger.reveal()).await;
    let work = service.work();
    for _ in 0..20 {
        assert_eq!(service.decision(stranger.reveal()).await, DecisionCode::NotFound);
    }
    assert_eq!((service.work(), service.app.freshness().absent_held()), (work, 1));
    // Any new key could be it.
    service.make_for("acme", &[]).await;
    service.until_warm("").await;
    let (statements, hashes) = service.work();
    assert_eq!(service.decision(stranger.reveal()).await, DecisionCode::NotFound);
    assert_eq!(service.work(), (statements + 1, hashes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_was_asked_for_before_it_existed_is_valid_everywhere_once_it_does() {
    let Some(replicas) = Replicas::start().await else { return };
    let (one, two) = (replicas.replica().await, replicas.replica().await);
    let early = unborn();
    two.until_fresh().await;
    let reads = two.app.freshness().fills();
    for _ in 0..20 {
        assert_eq!(two.decision(early.reveal()).await, DecisionCode::NotFound);
    }
    // The caller's own key and this one, but for what a busy machine makes it read again.
    assert!(two.app.freshness().fills() - reads < 10, "absence is remembered");
    insert(one.app.store(), &early).await;
    assert_eq!(two.decision(early.reveal()).await, DecisionCode::Valid, "at once, though nobody waited");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_19_writers_that_commit_out_of_order_or_not_at_all_leave_no_hole() {
    let Some(replicas) = Replicas::start().await else { return };
    let (one, two) = (replicas.replica().await, replicas.replica().await);
    two.until_fresh().await;
    let store = one.app.store();
    for _ in 0..5 {
        let made = [one.make(key_of("acme", &[])).await, one.make(key_of("acme", &[])).await];
        let ids = made.each_ref().map(|made| made.api_key.as_ref().unwrap().id.parse().unwrap());
        for made in &made {
            assert_eq!(two.decision(&made.key).await, DecisionCode::Valid);
        }
        // The first begins first and commits last; a third takes a number and gives it back.
        let first = store.begin().await.unwrap();
        let disabled = async |tx: &claviger::store::Tx, id| {
            let everything = claviger::domain::Reach::everything();
            let key = tx.api_key_find_even_deleted(&everything, id).await.unwrap().unwrap();
            let key = ApiKey { disabled: true, version: key.version + 1, ..key };
            tx.api_key_save(&key).await.unwrap();
            event(&key, Action::Update)
        };
        let first_event = disabled(&first, ids[0]).await;
        let second = store.begin().await.unwrap();
        let second_event = disabled(&second, ids[1]).await;
        let second = second.number().await.unwrap().commit(second_event, 2, |committed| committed).await.unwrap();
        let third = store.begin().await.unwrap();
        drop(third.number().await.unwrap());
        let first = first.number().await.unwrap().commit(first_event, 1, |committed| committed).await.unwrap();
        assert_eq!(first.revision.seq(), second.revision.seq() + 1);
        eventually("both changes are known", || async {
            let codes = [two.decision(&made[0].key).await, two.decision(&made[1].key).await];
            (codes == [DecisionCode::Disabled; 2]).then_some(())
        })
        .await;
    }
    assert_eq!(two.app.freshness().anomalies(), 0);
    let head = store.feed_head().await.unwrap();
    eventually("nothing is left behind", || async {
        (two.app.freshness().position().as_ref() == Some(&head)).then_some(())
    })
    .await;
}

/// Fewer than in the case's own words, for a machine that has to compile beside it: the long run of the checker has them
/// all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_23_many_deletions_at_once_are_each_visible_within_a_second() {
    const KEYS: usize = 300;
    let Some(replicas) = Replicas::start().await else { return };
    let (one, two) = (replicas.replica().await, replicas.replica().await);
    let mut making = JoinSet::new();
    for _ in 0..KEYS {
        let mut client = one.admin();
        making.spawn(async move {
            let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
            client.create(request).await.unwrap().into_inner()
        });
    }
    let made = making.join_all().await;
    two.until_fresh().await;
    for made in &made {
        assert_eq!(two.decision(&made.key).await, DecisionCode::Valid);
    }
    let one = Arc::new(one);
    let two = Arc::new(two);
    let mut deleting = JoinSet::new();
    for made in made {
        let (one, two) = (Arc::clone(&one), Arc::clone(&two));
        deleting.spawn(async move {
            one.delete(&made.api_key.unwrap().id, true).await;
            let committed = Instant::now();
            while two.decision(&made.key).await == DecisionCode::Valid {
                tokio::task::yield_now().await;
            }
            committed.elapsed()
        });
    }
    let slowest = deleting.join_all().await.into_iter().max().unwrap();
    // The lease of a second bounds it, whatever the machine does; the rest is the answer's own way.
    assert!(slowest < Duration::from_secs(3), "{slowest:?}");
    assert_eq!(two.app.freshness().anomalies(), 0);
}

on_every_engine! {
    async fn what_memory_answers_at_once_is_what_the_long_way_answers(service: Service) {
        let app = &service.app;
        let peer: CallerIp = "127.0.0.1".parse().unwrap();
        let caller = app.authenticate(&service.admin, peer, Rights::Remembered).await.unwrap();
        let rules = proto::ApiKey { allowed_ips: vec!["192.0.2.0/24".into()], ..key_of("acme", &["charge"]) };
        let plain = service.make_for("acme", &["charge"]).await;
        let tied = service.make(rules).await;
        let deleted = service.make_for("acme", &[]).await;
        calls::delete(service.admin(), &deleted.id).await.unwrap();
        let rotated = service.make_for("acme", &[]).await;
        let renewed = calls::rotate(service.admin(), &rotated.id, 0).await.unwrap().key;
        let forged = app.key_format().mint(&root('0', 9), &mut rand::rngs::SysRng).unwrap();
        let texts = [&plain.key, &tied.key, &deleted.key, &rotated.key, &renewed, forged.reveal(), "no key", ""];
        for text in texts {
            service.until_warm(text).await;
            for (ip, scopes) in [(None, "charge"), (Some("192.0.2.1"), "charge"), (Some("203.0.113.1"), "refund")] {
                let scopes = [scopes.parse().unwrap()];
                let caller_ip = ip.map(|ip| ip.parse().unwrap());
                let question = || Question { key: text, caller_ip, required_scopes: &scopes, min_revision: None };
                let at_once = app.validate_at_once(&caller, &question()).expect("it is warm");
                let long = app.validate(&caller, question()).await.unwrap();
                assert_eq!(format!("{:?}", at_once.decision), format!("{:?}", long.decision), "{ip:?}");
                assert_eq!(at_once.revision.map(|at| at.to_string()), long.revision.map(|at| at.to_string()), "{ip:?}");
            }
        }
        // What nobody has asked about yet is not known at once.
        let cold = service.make_for("acme", &[]).await;
        let question = Question { key: &cold.key, caller_ip: None, required_scopes: &[], min_revision: None };
        assert!(app.validate_at_once(&caller, &question).is_none());
    }
}
