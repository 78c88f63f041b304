//! What an unlucky or hostile hand does to the rows, and what the service makes of it.

use claviger::{
    app::alarms::Alarm,
    grpc::proto::{self, DecisionCode},
};
use insta::assert_snapshot;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::{
    calls::without_use,
    harness::{Engine, Service, app_settings, dump::texts, reason, root},
};

/// Changes the one credential of `merchant` by hand.
async fn spoil_credential(service: &Service, merchant: &str, change: &str) {
    let sql = format!(
        "UPDATE credential SET {change} WHERE key_id = (SELECT id FROM api_key WHERE merchant_username = '{merchant}')"
    );
    assert_eq!(service.execute(&sql).await, 1);
}

/// Changes the one key of `merchant` by hand.
async fn spoil_key(service: &Service, merchant: &str, change: &str) {
    let sql = format!("UPDATE api_key SET {change} WHERE merchant_username = '{merchant}'");
    assert_eq!(service.execute(&sql).await, 1);
}

/// The message of a refusal for a poisoned record, without the key's id.
fn poisoned(status: &Status, id: &str) -> String {
    assert_eq!((status.code(), reason(status).as_str()), (Code::Internal, "RECORD_POISONED"), "{status:?}");
    assert_eq!(status.get_details_error_info().unwrap().metadata["key_id"], id);
    status.message().replace(id, "KEY")
}

/// The ways to spoil a record: a name that is the merchant's as well, whose table, and the change.
const SPOILED: [(&str, bool, &str); 9] = [
    ("hash", true, "phc = 'broken'"),
    ("hash-algorithm", true, "phc = replace(phc, 'argon2id', 'argon2d')"),
    ("hash-with-data", true, "phc = replace(phc, 'p=1', 'p=1,data=AAAA')"),
    ("profile", true, "profile = 'unknown'"),
    ("pepper", true, "pepper_root = 'Q'"),
    ("block", false, "allowed_ips = '[\"banana\"]'"),
    ("scopes", false, "scopes = '{\"no\": \"list\"}'"),
    ("labels", false, "labels = 'null and void'"),
    ("webhook", false, "webhook_format = 77"),
];

on_every_engine! {
    async fn case_40_a_spoiled_record_is_refused_alone_and_with_an_alarm(service: Service) {
        let fine = service.make_for("fine", &[]).await;
        let mut spoiled = Vec::new();
        for (merchant, in_credential, change) in SPOILED {
            let made = service.make_for(merchant, &[]).await;
            // It was proved before, so what is remembered must not help it.
            assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
            if in_credential {
                spoil_credential(&service, merchant, change).await;
            } else {
                spoil_key(&service, merchant, change).await;
            }
            spoiled.push((made, in_credential));
        }
        let mut told = Vec::new();
        for (made, _) in &spoiled {
            let alarms = service.app.alarms().raised(Alarm::RecordPoisoned);
            told.push(match service.validate(&made.key, "192.0.2.1").await {
                Err(status) => poisoned(&status, &made.id),
                Ok(answer) => format!("{} was judged {:?}", made.api_key.merchant_username, answer.code()),
            });
            assert_eq!(service.app.alarms().raised(Alarm::RecordPoisoned), alarms + 1);
        }
        insta::allow_duplicates! { assert_snapshot!(told.join("\n"), @"
        the stored hash of KEY cannot be read; this key is refused until it is repaired
        the stored hash of KEY cannot be read; this key is refused until it is repaired
        the stored hash of KEY cannot be read; this key is refused until it is repaired
        the stored profile of KEY cannot be read; this key is refused until it is repaired
        the stored pepper_root of KEY cannot be read; this key is refused until it is repaired
        the stored allowed_ips of KEY cannot be read; this key is refused until it is repaired
        the stored scopes of KEY cannot be read; this key is refused until it is repaired
        the stored labels of KEY cannot be read; this key is refused until it is repaired
        the stored webhook_format of KEY cannot be read; this key is refused until it is repaired
        "); }
        assert_eq!(service.decision(&fine.key).await, DecisionCode::Valid);

        // List shows all, Get refuses those that it cannot show.
        let listed = service.admin().list(proto::ListRequest::default()).await.unwrap().into_inner().api_keys;
        assert_eq!(listed.len(), SPOILED.len() + 2);
        for (made, in_credential) in &spoiled {
            let request = proto::GetRequest { id: made.id.clone(), ..Default::default() };
            let got = service.admin().get(request).await;
            if *in_credential {
                assert_eq!(without_use(got.unwrap().into_inner().api_key.unwrap()), made.api_key);
            } else {
                poisoned(&got.unwrap_err(), &made.id);
            }
        }

        // The service starts on such rows, and the feed goes on.
        let store = service.database.open().await;
        let again = claviger::app::App::start(store, service.clock.clone(), app_settings(), vec![root('0', 7)]).await;
        drop(again.unwrap());
        let head = service.app.store().feed_head().await.unwrap().seq();
        service.make_for("later", &[]).await;
        assert_eq!(service.app.store().feed_head().await.unwrap().seq(), head + 1);

        // Delete works, and then the answer to a record that says so is that it is deleted or cannot be read.
        for (made, _) in &spoiled {
            let request = proto::DeleteRequest { id: made.id.clone(), ..Default::default() };
            let deleted = service.admin().delete(request).await.unwrap().into_inner().api_key.unwrap();
            assert_eq!(deleted.state(), proto::State::Deleted);
            let after = service.validate(&made.key, "192.0.2.1").await;
            assert!(after.map_or(true, |answer| !answer.valid));
        }
    }
}

on_every_engine! {
    async fn case_28_a_hash_of_four_gibibytes_is_never_run(service: Service) {
        let (costly, fine) = (service.make_for("costly", &[]).await, service.make_for("fine", &[]).await);
        service.decision(&fine.key).await;
        for change in ["m=1024', 'm=4194304", "t=1', 't=11", "p=1', 'p=5", "m=4194304', 'm=65537"] {
            spoil_credential(&service, "costly", &format!("phc = replace(phc, '{change}')")).await;
            let (alarms, (_, runs)) = (service.app.alarms().raised(Alarm::RecordPoisoned), service.work());
            let status = service.validate(&costly.key, "").await.unwrap_err();
            assert_eq!(poisoned(&status, &costly.id), "the stored hash of KEY cannot be read; this key is refused until it is repaired");
            assert_eq!((service.app.alarms().raised(Alarm::RecordPoisoned), service.work().1), (alarms + 1, runs));
            assert_eq!(service.decision(&fine.key).await, DecisionCode::Valid);
        }
    }
}

on_every_engine! {
    async fn case_52_a_hash_below_the_least_parameters_is_never_run(service: Service) {
        let (cheap, fine) = (service.make_for("cheap", &[]).await, service.make_for("fine", &[]).await);
        service.decision(&fine.key).await;
        for change in ["m=1024', 'm=1023", "m=1023', 'm=8", "t=1', 't=10"] {
            spoil_credential(&service, "cheap", &format!("phc = replace(phc, '{change}')")).await;
            let (alarms, (_, runs)) = (service.app.alarms().raised(Alarm::RecordPoisoned), service.work());
            let status = service.validate(&cheap.key, "").await.unwrap_err();
            assert_eq!(poisoned(&status, &cheap.id), "the stored hash of KEY cannot be read; this key is refused until it is repaired");
            assert_eq!((service.app.alarms().raised(Alarm::RecordPoisoned), service.work().1), (alarms + 1, runs));
            assert_eq!(service.decision(&fine.key).await, DecisionCode::Valid);
        }
    }
}

on_every_engine! {
    async fn case_22_hashes_that_were_swapped_by_hand_open_nothing(service: Service) {
        let made = [service.make_for("a", &[]).await, service.make_for("b", &[]).await];
        for made in &made {
            assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
        }
        let by_hand = service.database.by_hand().await;
        let mut hashes = Vec::new();
        for merchant in ["a", "b"] {
            let of = format!("SELECT phc AS n FROM credential JOIN api_key ON api_key.id = key_id WHERE merchant_username = '{merchant}'");
            hashes.extend(texts(&by_hand, &of).await);
        }
        spoil_credential(&service, "a", &format!("phc = '{}'", hashes[1])).await;
        spoil_credential(&service, "b", &format!("phc = '{}'", hashes[0])).await;
        for (alarms, made) in (1..).zip(&made) {
            assert_eq!(service.decision(&made.key).await, DecisionCode::NotFound);
            assert_eq!(service.app.alarms().raised(Alarm::HashMismatch), alarms);
        }
        // Put back, they open again.
        spoil_credential(&service, "a", &format!("phc = '{}'", hashes[0])).await;
        assert_eq!(service.decision(&made[0].key).await, DecisionCode::Valid);
        // A credential that was hung on another key opens nothing either.
        let moved = "UPDATE credential SET key_id = (SELECT id FROM api_key WHERE merchant_username = 'b') \
                     WHERE key_id = (SELECT id FROM api_key WHERE merchant_username = 'a')";
        assert_eq!(service.execute(moved).await, 1);
        assert_eq!(service.decision(&made[0].key).await, DecisionCode::NotFound);
        assert_eq!(service.app.alarms().raised(Alarm::HashMismatch), 3);
        // Nor does a key that was given to another merchant.
        let other = service.make_for("c", &[]).await;
        assert_eq!(service.decision(&other.key).await, DecisionCode::Valid);
        spoil_key(&service, "c", "merchant_username = 'd'").await;
        assert_eq!(service.decision(&other.key).await, DecisionCode::NotFound);
        assert_eq!(service.app.alarms().raised(Alarm::HashMismatch), 4);
    }
}
