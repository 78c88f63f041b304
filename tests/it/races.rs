//! Changes that meet: the outcome is one that they could have had one after the other, and each that was begun ends.

use std::{collections::BTreeSet, time::Duration};

use claviger::{
    app::{Patience, Revocation, Rights, Target},
    domain::{DeleteReason, Reach, audit_event::Action},
    grpc::proto::{self, DecisionCode},
    store,
};
use sea_orm::{ConnectionTrait, TransactionTrait};
use tonic::{Code, Request};

use crate::{
    calls::{self, delete, get, number, refused_for, rotate, update},
    harness::{Engine, Made, Service, reason},
};

const ROUNDS: usize = 12;

/// Requires that the feed and the audit log have one row for each committed change, numbered from 1 without a gap.
async fn require_dense_logs(service: &Service) {
    let head = calls::head(service).await;
    for table in ["change_log", "audit_log"] {
        assert_eq!(number(service, &format!("SELECT count(*) FROM {table}")).await, head, "{table}");
        assert_eq!(number(service, &format!("SELECT min(seq) FROM {table}")).await, 1, "{table}");
        assert_eq!(number(service, &format!("SELECT max(seq) FROM {table}")).await, head, "{table}");
    }
    let apart = "SELECT count(*) FROM change_log JOIN audit_log USING (seq) WHERE change_log.key_id = audit_log.key_id \
                 AND change_log.kind = audit_log.action AND change_log.time = audit_log.time";
    assert_eq!(number(service, apart).await, head);
    assert_eq!(number(service, "SELECT count(DISTINCT nonce) FROM change_log").await, head);
}

/// How many of these key strings open the door.
async fn live(service: &Service, keys: &[String]) -> usize {
    let mut live = 0;
    for key in keys {
        live += usize::from(service.decision(key).await == DecisionCode::Valid);
    }
    live
}

async fn key(service: &Service) -> Made {
    service.make_for("acme", &[]).await
}

on_every_engine! {
    async fn case_35_rotations_at_once_leave_two_secrets_at_most(service: Service) {
        for round in 0..ROUNDS {
            let made = key(&service).await;
            let head = calls::head(&service).await;
            let rotations = (0..4).map(|_| rotate(service.admin(), &made.id, 3_600));
            let rotated = futures_util::future::join_all(rotations).await;
            let mut keys: Vec<String> = rotated.into_iter().map(|rotated| rotated.unwrap().key).collect();
            keys.push(made.key);
            assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), 5);
            assert_eq!(live(&service, &keys).await, 2, "round {round}");
            assert_eq!(calls::head(&service).await, head + 4);
            assert_eq!(get(service.admin(), &made.id).await.unwrap().etag, "\"5\"");
        }
        require_dense_logs(&service).await;
    }
}

on_every_engine! {
    async fn case_35_of_changes_at_once_on_one_etag_one_succeeds(service: Service) {
        for round in 0..ROUNDS {
            let made = key(&service).await;
            let head = calls::head(&service).await;
            let etag = made.api_key.etag.clone();
            let settings = proto::ApiKey { display_name: "x".into(), etag: etag.clone(), ..Default::default() };
            let to_rotate = || proto::RotateRequest { id: made.id.clone(), etag: etag.clone(), ..Default::default() };
            let to_delete = proto::DeleteRequest { id: made.id.clone(), etag: etag.clone(), ..Default::default() };
            let (mut one, mut two, mut three) = (service.admin(), service.admin(), service.admin());
            let (updated, rotated, again, deleted) = tokio::join!(
                update(service.admin(), &made.id, &["display_name"], settings),
                one.rotate(to_rotate()),
                two.rotate(to_rotate()),
                three.delete(to_delete),
            );
            let outcomes = [
                updated.map(drop),
                rotated.map(drop),
                again.map(drop),
                deleted.map(drop),
            ];
            let succeeded = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
            assert_eq!(succeeded, 1, "round {round}: {outcomes:?}");
            for status in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
                let reason = reason(status);
                let after_delete = outcomes[3].is_ok() && reason == "KEY_DELETED";
                assert!(reason == "ETAG_MISMATCH" && status.code() == Code::Aborted || after_delete, "{status:?}");
            }
            assert_eq!(calls::head(&service).await, head + 1);
        }
        require_dense_logs(&service).await;
    }
}

on_every_engine! {
    async fn case_35_delete_wins_over_rotate_and_update(service: Service) {
        for round in 0..ROUNDS {
            let made = key(&service).await;
            let head = calls::head(&service).await;
            let settings = proto::ApiKey { display_name: "x".into(), ..Default::default() };
            let (one, two, deleted, updated) = tokio::join!(
                rotate(service.admin(), &made.id, 3_600),
                rotate(service.admin(), &made.id, 0),
                delete(service.admin(), &made.id),
                update(service.admin(), &made.id, &["display_name"], settings),
            );
            let deleted = deleted.unwrap();
            assert_eq!(deleted.state(), proto::State::Deleted, "round {round}");
            let mut keys = vec![made.key];
            let mut changes = 1;
            for rotated in [one, two] {
                match rotated {
                    Ok(rotated) => {
                        keys.push(rotated.key);
                        changes += 1;
                    }
                    Err(status) => assert_eq!(reason(&status), "KEY_DELETED", "round {round}"),
                }
            }
            match updated {
                Ok(_) => changes += 1,
                Err(status) => assert_eq!(reason(&status), "KEY_DELETED", "round {round}"),
            }
            for key in &keys {
                assert_eq!(service.decision(key).await, DecisionCode::Deleted);
            }
            assert_eq!(get(service.admin(), &made.id).await.unwrap(), deleted, "nothing comes after Delete");
            assert_eq!(calls::head(&service).await, head + changes);
        }
        require_dense_logs(&service).await;
    }
}

on_every_engine! {
    async fn case_35_updates_of_different_fields_at_once_are_all_kept(service: Service) {
        for _ in 0..ROUNDS {
            let made = key(&service).await;
            let named = proto::ApiKey { display_name: "x".into(), ..Default::default() };
            let disabled = proto::ApiKey { disabled: true, ..Default::default() };
            let scoped = proto::ApiKey { scopes: vec!["s".into()], ..Default::default() };
            let (a, b, c) = tokio::join!(
                update(service.admin(), &made.id, &["display_name"], named),
                update(service.admin(), &made.id, &["disabled"], disabled),
                update(service.admin(), &made.id, &["scopes"], scoped),
            );
            let etags: BTreeSet<String> = [a, b, c].into_iter().map(|updated| updated.unwrap().etag).collect();
            assert_eq!(etags, ["\"2\"", "\"3\"", "\"4\""].map(String::from).into());
            let after = get(service.admin(), &made.id).await.unwrap();
            assert_eq!((after.display_name.as_str(), after.disabled, after.scopes), ("x", true, vec!["s".to_owned()]));
        }
        require_dense_logs(&service).await;
    }
}

on_every_engine! {
    async fn a_caller_that_is_deleted_meanwhile_changes_nothing_after_it(service: Service) {
        for round in 0..ROUNDS {
            let caller = service.make_for("acme", &["claviger:admin"]).await;
            let target = key(&service).await;
            let (deleted, rotated) =
                tokio::join!(delete(service.admin(), &caller.id), rotate(service.client(&caller.key), &target.id, 0));
            deleted.unwrap();
            if let Err(status) = rotated {
                assert_eq!(reason(&status), "CREDENTIALS_INVALID", "round {round}");
            }
            // The rotation came before the deletion of its caller, or not at all.
            let last = number(&service, "SELECT CAST(kind AS BIGINT) FROM change_log ORDER BY seq DESC LIMIT 1").await;
            assert_eq!(last, Action::Delete as i64, "round {round}");
        }
        require_dense_logs(&service).await;
    }
}

/// Holds the lock that every change needs, until it is dropped.
async fn hold_all_changes(service: &Service) -> sea_orm::DatabaseTransaction {
    let connection = service.database.by_hand().await;
    let transaction = connection.begin().await.unwrap();
    // On SQLite the first write takes the only write lock there is.
    transaction.execute_unprepared("UPDATE feed_head SET seq = seq").await.unwrap();
    transaction
}

on_every_engine! {
    async fn a_change_runs_to_its_end_although_its_caller_is_gone(service: Service) {
        let made = key(&service).await;
        let caller = service.app.authenticate(&service.admin, "127.0.0.1".parse().unwrap(), Rights::Read).await.unwrap();
        let target = Target { id: made.id.parse().unwrap(), merchant: None, etag: None };
        let revocation = Revocation { target, reason: DeleteReason::Unspecified, note: String::new(), patience: Patience::default() };
        let held = hold_all_changes(&service).await;
        {
            let mut call = Box::pin(service.app.delete(&caller, revocation));
            assert!(futures_util::poll!(&mut call).is_pending());
        }
        assert_eq!(get(service.admin(), &made.id).await.unwrap().state(), proto::State::Active);
        held.rollback().await.unwrap();
        service.app.drain().await;
        assert_eq!(get(service.admin(), &made.id).await.unwrap().state(), proto::State::Deleted);
        require_dense_logs(&service).await;
    }
}

on_every_engine! {
    async fn a_shutdown_waits_for_a_change_whose_caller_s_deadline_has_passed(service: Service) {
        let mut service = service;
        let made = key(&service).await;
        let held = hold_all_changes(&service).await;
        let mut request = Request::new(proto::DeleteRequest { id: made.id.clone(), ..Default::default() });
        request.set_timeout(Duration::from_millis(500));
        // The client's own timer and the server's run to the same moment; either may be first.
        let status = service.admin().delete(request).await.unwrap_err();
        assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
        assert_eq!(get(service.admin(), &made.id).await.unwrap().state(), proto::State::Active);
        let ((), rolled_back) = tokio::join!(service.stop(), held.rollback());
        rolled_back.unwrap();
        assert_eq!(number(&service, "SELECT count(*) FROM api_key WHERE delete_time IS NOT NULL").await, 1);
        assert_eq!(number(&service, "SELECT count(*) FROM audit_log").await, 3);
    }
}

on_every_engine! {
    async fn no_frozen_writer_stops_a_revocation_for_long(service: Service) {
        if service.app.store().engine() == store::Engine::Sqlite {
            // One process, one writer: who holds its lock is this process itself.
            return;
        }
        let made = key(&service).await;
        let frozen = service.app.store().begin().await.unwrap();
        frozen.api_key_find_even_deleted(&Reach::everything(), made.id.parse().unwrap()).await.unwrap();
        let numbered = frozen.number().await.unwrap();
        let outcome = tokio::time::timeout(Duration::from_secs(30), delete(service.admin(), &made.id)).await.unwrap();
        assert_eq!(outcome.unwrap().state(), proto::State::Deleted);
        drop(numbered);
        assert_eq!(refused_for(rotate(service.admin(), &made.id, 0).await), "KEY_DELETED");
        require_dense_logs(&service).await;
    }
}
