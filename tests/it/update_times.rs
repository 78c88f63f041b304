//! Update of times: what lies in the past, what ends before it begins, and that an overlap only ends earlier.

use std::time::Duration;

use claviger::grpc::proto;
use prost_types::Timestamp;

use crate::{
    calls::{self, rotate, update},
    harness::{Engine, Service, after_beginning},
    updates::refused,
};

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

fn later(seconds: u64) -> Timestamp {
    after_beginning(Duration::from_secs(seconds))
}

on_every_engine! {
    async fn a_life_counts_from_now_and_the_past_is_refused(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let ttl = |ttl| proto::ApiKey { ttl, ..Default::default() };
        let ends = |expire_time| proto::ApiKey { expire_time, ..Default::default() };
        service.clock.advance(Duration::from_secs(50));
        let updated = update(service.admin(), &made.id, &["ttl"], ttl(Some(seconds(10)))).await.unwrap();
        assert_eq!((updated.expire_time, updated.ttl), (Some(later(60)), None));

        let mut told = vec![];
        for (mask, settings) in [
            (vec!["expire_time"], ends(Some(later(50)))),
            (vec!["expire_time"], ends(Some(later(49)))),
            (vec!["expire_time"], ends(Some(Timestamp { seconds: i64::MAX, nanos: 0 }))),
            (vec!["expire_time"], ends(Some(Timestamp { seconds: 1_900_000_000, nanos: -1 }))),
            (vec!["ttl"], ttl(None)),
            (vec!["ttl"], ttl(Some(seconds(0)))),
            (vec!["ttl"], ttl(Some(seconds(-1)))),
            (vec!["ttl"], ttl(Some(seconds(i64::MAX)))),
            (vec!["ttl"], ttl(Some(prost_types::Duration { seconds: 1, nanos: -1 }))),
            (vec!["ttl", "expire_time"], proto::ApiKey { expire_time: Some(later(90)), ..ttl(Some(seconds(10))) }),
            (vec!["not_before_time"], proto::ApiKey { not_before_time: Some(later(60)), ..Default::default() }),
            (
                vec!["not_before_time", "expire_time"],
                proto::ApiKey { not_before_time: Some(later(90)), expire_time: Some(later(80)), ..Default::default() },
            ),
            (
                vec!["not_before_time", "ttl"],
                proto::ApiKey { not_before_time: Some(later(90)), ..ttl(Some(seconds(40))) },
            ),
        ] {
            told.push(refused(&service, &made, &mask, settings).await);
        }
        insta::assert_snapshot!(told.join("\n"), @"
        api_key.expire_time: lies in the past; name a moment in the future, or leave it empty
        api_key.expire_time: lies in the past; name a moment in the future, or leave it empty
        api_key.expire_time: lies outside the years 1 to 9999, or its nanos outside 0 to 999,999,999
        api_key.expire_time: lies outside the years 1 to 9999, or its nanos outside 0 to 999,999,999
        api_key.ttl: is named in update_mask and empty; name expire_time instead for a key that never expires
        api_key.ttl: is zero; it has to be above zero
        api_key.ttl: is below zero or no duration; it has to be above zero
        api_key.ttl: ends after the year 9999; leave it out for a key that never expires
        api_key.ttl: is below zero or no duration; it has to be above zero
        update_mask: names expire_time and ttl; name one of them
        api_key.not_before_time: would leave expire_time at or before not_before_time; the key has to begin before it ends
        api_key.expire_time: would leave expire_time at or before not_before_time; the key has to begin before it ends
        api_key.ttl: would leave expire_time at or before not_before_time; the key has to begin before it ends
        ");
        // A beginning in the past is no wish for the past: the key is simply valid.
        let begun = proto::ApiKey { not_before_time: Some(later(1)), ..Default::default() };
        assert_eq!(
            update(service.admin(), &made.id, &["not_before_time"], begun).await.unwrap().state(),
            proto::State::Active
        );
    }
}

on_every_engine! {
    async fn the_end_of_an_overlap_only_moves_earlier(service: Service) {
        let made = service.make_for("acme", &[]).await;
        let end = |end| proto::ApiKey { previous_secret_expire_time: end, ..Default::default() };
        let mask = ["previous_secret_expire_time"];
        insta::assert_snapshot!(refused(&service, &made, &mask, end(Some(later(50)))).await, @"api_key.previous_secret_expire_time: can only move an overlap earlier, and none is running; leave it out");
        let rotated = rotate(service.admin(), &made.id, 100).await.unwrap();
        assert_eq!(rotated.api_key.unwrap().previous_secret_expire_time, Some(later(100)));
        insta::assert_snapshot!(refused(&service, &made, &mask, end(Some(later(101)))).await, @"api_key.previous_secret_expire_time: lies after the present end of the overlap; it can only move earlier, or be empty to end the overlap now");
        insta::assert_snapshot!(refused(&service, &made, &mask, end(Some(later(0)))).await, @"api_key.previous_secret_expire_time: lies in the past; name a moment in the future, or leave it empty");

        let earlier = update(service.admin(), &made.id, &mask, end(Some(later(60)))).await.unwrap();
        assert_eq!(earlier.previous_secret_expire_time, Some(later(60)));
        let head = calls::head(&service).await;
        assert_eq!(update(service.admin(), &made.id, &mask, end(Some(later(60)))).await.unwrap(), earlier);
        assert_eq!(calls::head(&service).await, head);
        assert_eq!(service.decision(&made.key).await, proto::DecisionCode::Valid);
        let ended = update(service.admin(), &made.id, &mask, end(None)).await.unwrap();
        assert_eq!(ended.previous_secret_expire_time, None);
        assert_eq!(service.decision(&made.key).await, proto::DecisionCode::SecretRetired);
        assert_eq!(service.decision(&rotated.key).await, proto::DecisionCode::Valid);
        // It does not come back, and ending it again changes nothing.
        let head = calls::head(&service).await;
        assert_eq!(update(service.admin(), &made.id, &mask, end(None)).await.unwrap(), ended);
        assert_eq!(calls::head(&service).await, head);
        assert!(update(service.admin(), &made.id, &mask, end(Some(later(60)))).await.is_err());
    }
}
