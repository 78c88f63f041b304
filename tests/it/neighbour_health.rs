//! Health that tells the truth: a database that is gone, and that comes back.

use std::time::Duration;

use claviger::{
    grpc::proto::{self, DecisionCode},
    server::FRESHNESS,
};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::harness::{Engine, Service, key_of, process::eventually, reason};

async fn health(service: &Service, name: &str) -> Result<ServingStatus, tonic::Status> {
    let request = HealthCheckRequest { service: name.into() };
    Ok(HealthClient::new(service.channel()).check(request).await?.into_inner().status())
}

async fn until_freshness_is(service: &Service, wanted: ServingStatus) {
    eventually("the health service knows", || async {
        (health(service, FRESHNESS).await.unwrap() == wanted).then_some(())
    })
    .await;
}

/// A connection to the server of `service`'s database, but not to the database, and the database's name.
async fn beside(service: &Service) -> (DatabaseConnection, String) {
    let (server, name) = service.database.url().rsplit_once('/').unwrap();
    let mut options = ConnectOptions::new(format!("{server}/postgres"));
    options.sqlx_logging(false).max_connections(1);
    (Database::connect(options).await.unwrap(), name.to_owned())
}

/// Nothing can be decided: no call is answered with a decision, and none is told that its key is no good.
async fn nothing_is_decided(service: &Service, keys: &[&str]) {
    for key in keys {
        let status = service.validate(key, "").await.unwrap_err();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "DATABASE_UNAVAILABLE"),
            "{status:?}"
        );
        let request = proto::CreateRequest { api_key: Some(key_of("acme", &[])), ..Default::default() };
        let status = service.admin().create(request).await.err().unwrap();
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::Unavailable, "DATABASE_UNAVAILABLE"),
            "{status:?}"
        );
    }
}

/// Takes the database away by `away`, looks, brings it `back`, and looks again.
async fn gone_and_back(service: &Service, away: &[String], back: &[String]) {
    let (server, name) = beside(service).await;
    let made = service.make_for("acme", &[]).await;
    let unproved = service.make_for("acme", &[]).await;
    assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
    until_freshness_is(service, ServingStatus::Serving).await;
    for statement in away {
        server.execute_unprepared(&statement.replace("DATABASE_OF_TEST", &name)).await.unwrap();
    }
    // Until the lease runs out, what is remembered may be believed.
    service.clock.pass(Duration::from_secs(2));
    nothing_is_decided(service, &[&made.key, &unproved.key]).await;
    until_freshness_is(service, ServingStatus::NotServing).await;
    // It stays in its place: to take it away would not bring the database back.
    for name in ["", claviger::grpc::SERVICE] {
        assert_eq!(health(service, name).await.unwrap(), ServingStatus::Serving);
    }
    nothing_is_decided(service, &[&made.key]).await;
    for statement in back {
        server.execute_unprepared(&statement.replace("DATABASE_OF_TEST", &name)).await.unwrap();
    }
    until_freshness_is(service, ServingStatus::Serving).await;
    for made in [&made, &unproved] {
        assert_eq!(service.decision(&made.key).await, DecisionCode::Valid);
    }
    service.make_for("acme", &[]).await;
}

const CUT: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'DATABASE_OF_TEST'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_lets_nobody_in_is_away_and_comes_back() {
    let Some(service) = Service::start(Engine::Postgres).await else { return };
    let closed = |yes: bool| format!("ALTER DATABASE DATABASE_OF_TEST ALLOW_CONNECTIONS {}", !yes);
    gone_and_back(&service, &[closed(true), CUT.to_owned()], &[closed(false)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_not_there_is_away_and_comes_back() {
    let Some(service) = Service::start(Engine::Postgres).await else { return };
    let closed = |yes: bool| format!("ALTER DATABASE DATABASE_OF_TEST ALLOW_CONNECTIONS {}", !yes);
    let away =
        [closed(true), CUT.to_owned(), "ALTER DATABASE DATABASE_OF_TEST RENAME TO DATABASE_OF_TEST_away".to_owned()];
    let back = ["ALTER DATABASE DATABASE_OF_TEST_away RENAME TO DATABASE_OF_TEST".to_owned(), closed(false)];
    gone_and_back(&service, &away, &back).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_were_cut_are_made_anew_without_a_word() {
    let Some(service) = Service::start(Engine::Postgres).await else { return };
    let (server, name) = beside(&service).await;
    let made = service.make_for("acme", &[]).await;
    for _ in 0..5 {
        server.execute_unprepared(&CUT.replace("DATABASE_OF_TEST", &name)).await.unwrap();
        // The first calls may find the connections that were cut, and never say no.
        eventually("a new connection", || async {
            match service.validate(&made.key, "").await {
                Ok(answer) => {
                    assert_eq!(answer.code(), DecisionCode::Valid);
                    Some(())
                }
                Err(status) => {
                    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                    None
                }
            }
        })
        .await;
    }
}

on_every_engine! {
    async fn health_is_open_and_knows_its_services(service: Service) {
        for name in ["", claviger::grpc::SERVICE, FRESHNESS] {
            assert_eq!(health(&service, name).await.unwrap(), ServingStatus::Serving);
        }
        assert_eq!(health(&service, "claviger.v1.Other").await.unwrap_err().code(), Code::NotFound);
    }
}
