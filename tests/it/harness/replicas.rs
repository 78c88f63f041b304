//! Several replicas on one PostgreSQL, each with its own pools, its own memory and the real clocks.

use std::{sync::Arc, time::Duration};

use claviger::{
    app::{App, freshness},
    clock::{Clock, SystemClock},
    domain::root_secret::RootSecret,
    grpc::proto::{self, DecisionCode, api_key_service_client::ApiKeyServiceClient},
    server::{self, ServerSettings, ops::Readiness},
    store::{Address, Options, Store},
};
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

use super::{Bearer, Client, Engine, TestDatabase, app_settings, root};

pub struct Replica {
    pub app: Arc<App>,
    channel: Channel,
    admin: String,
    _serving: JoinSet<()>,
}

pub struct Replicas {
    pub database: TestDatabase,
    /// The key string of the first administrator.
    pub admin: String,
}

impl Replicas {
    /// A migrated database with an administrator. None if the engine is not on this machine.
    pub async fn start() -> Option<Self> {
        let database = TestDatabase::new(Engine::Postgres).await?;
        let store = database.open().await;
        store.schema_migrate().await.unwrap();
        store.feed_begin("epoch").await.unwrap();
        let app = App::start(store, Arc::new(SystemClock), app_settings(), vec![root('0', 7)]).await.unwrap();
        let admin = std::sync::Mutex::new(String::new());
        let keep = |key: &claviger::domain::key_string::KeyString| {
            key.reveal().clone_into(&mut admin.lock().unwrap());
            Ok(())
        };
        assert!(app.bootstrap_first(keep).await.unwrap());
        app.store().close().await.unwrap();
        Some(Self { database, admin: admin.into_inner().unwrap() })
    }

    pub async fn replica(&self) -> Replica {
        self.replica_with(self.database.url(), Arc::new(SystemClock)).await
    }

    /// A replica that reaches the database by `url`.
    pub async fn replica_with(&self, url: &str, clock: Arc<dyn Clock>) -> Replica {
        self.replica_mounting(url, clock, vec![root('0', 7)]).await
    }

    /// The same with these root secrets.
    pub async fn replica_mounting(&self, url: &str, clock: Arc<dyn Clock>, roots: Vec<RootSecret>) -> Replica {
        let address = Address::parse(url).unwrap();
        let store = Store::open(&address, Options::default()).await.unwrap();
        let mut settings = app_settings();
        settings.freshness = freshness::Settings::default();
        let app = App::start(store, clock, settings, roots).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = ServerSettings {
            max_calls: 4_096,
            drain_timeout: Duration::from_secs(10),
            reflection: false,
            upkeep_interval: Duration::from_secs(3_600),
            census_interval: None,
            traces: false,
            short_cut: !super::takes_the_long_way(),
            connection_age: Duration::from_secs(3_600),
            stream_age: Duration::from_secs(3_600),
        };
        let readiness = Arc::new(Readiness::default());
        let mut serving = JoinSet::new();
        serving.spawn({
            let app = Arc::clone(&app);
            async move { server::serve(listener, app, server, readiness, std::future::pending()).await.unwrap() }
        });
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        Replica { app, channel, admin: self.admin.clone(), _serving: serving }
    }
}

impl Replica {
    pub fn admin(&self) -> Client {
        ApiKeyServiceClient::with_interceptor(self.channel.clone(), Bearer(Some(self.admin.clone())))
    }

    pub async fn make(&self, api_key: proto::ApiKey) -> proto::CreateResponse {
        let request = proto::CreateRequest { api_key: Some(api_key), ..Default::default() };
        self.admin().create(request).await.unwrap().into_inner()
    }

    pub async fn validate_as(&self, caller: &str, key: &str) -> Result<proto::ValidateResponse, Status> {
        let mut client = super::client_of(self.channel.clone(), caller);
        let request = proto::ValidateRequest { key: key.into(), ..Default::default() };
        Ok(client.validate(request).await?.into_inner())
    }

    pub async fn validate(&self, key: &str) -> Result<proto::ValidateResponse, Status> {
        let request = proto::ValidateRequest { key: key.into(), ..Default::default() };
        Ok(self.admin().validate(request).await?.into_inner())
    }

    /// The decision on a key; on a machine that is busy it may take several calls to get one.
    pub async fn decision(&self, key: &str) -> DecisionCode {
        super::process::eventually("a decision", || async { Some(self.validate(key).await.ok()?.code()) }).await
    }

    pub async fn delete(&self, id: &str, no_wait: bool) -> proto::DeleteResponse {
        let request = proto::DeleteRequest { id: id.into(), no_wait, ..Default::default() };
        self.admin().delete(request).await.unwrap().into_inner()
    }

    /// Waits until answers come from memory.
    pub async fn until_fresh(&self) {
        super::process::eventually("answers come from memory", || async {
            (self.app.freshness_state() == freshness::State::Fresh).then_some(())
        })
        .await;
    }
}
