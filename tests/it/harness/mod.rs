//! The real service on a real socket and a real database, for one test.

pub mod certificates;
pub mod collector;
pub mod dump;
pub mod frames;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod replicas;

use std::{
    io::Write as _,
    net::SocketAddr,
    sync::{
        Arc, Once,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use claviger::{
    app::{App, Settings, freshness},
    clock::ManualClock,
    domain::{
        Time,
        key_string::{KeyFormat, Prefix},
        root_secret::{RootId, RootSecret, RootState},
        secret_hash::Profile,
    },
    grpc::proto::{self, api_key_service_client::ApiKeyServiceClient},
    server::{self, ServerSettings, ops::Readiness},
    store::{Address, Options, RootRow, Store},
};
use sea_orm::{ConnectOptions, ConnectionTrait, Database, DatabaseConnection};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{
    Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use self::postgres::Postgres;

/// A client that shows a key.
pub type Client = ApiKeyServiceClient<InterceptedService<Channel, Bearer>>;

/// 2027-01-15T08:00:00Z, where every test's clock begins.
pub const BEGINNING: i64 = 1_800_000_000_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// Makes each promise a test on every engine. An engine that is not on the machine is named on standard error, and fails
/// where it is required.
macro_rules! on_every_engine {
    ($(#[doc = $doc:expr])* async fn $name:ident($service:ident: $what:ident) $body:block) => {
        mod $name {
            #[allow(unused_imports, reason = "not every promise needs all that its file imports")]
            use super::*;

            $(#[doc = $doc])*
            async fn promise($service: $what) $body

            #[test]
            fn sqlite() {
                crate::harness::run(async { promise($what::start(Engine::Sqlite).await.unwrap()).await });
            }

            #[test]
            fn postgres() {
                crate::harness::run(async {
                    if let Some(started) = $what::start(Engine::Postgres).await {
                        promise(started).await;
                    }
                });
            }
        }
    };
}

/// Runs a promise to its end. The engines share its snapshots: what people read is the same on all.
pub fn run(promise: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    insta::allow_duplicates! { runtime.block_on(promise) }
}

/// A database of one test's own.
pub struct TestDatabase {
    pub address: Address,
    url: String,
    _folder: TempDir,
}

impl TestDatabase {
    /// None if the engine is not on this machine.
    pub async fn new(engine: Engine) -> Option<Self> {
        say_which_engines();
        let folder = tempfile::tempdir().unwrap();
        let url = match engine {
            Engine::Sqlite => format!("sqlite:{}", folder.path().join("claviger.db").display()),
            Engine::Postgres => Postgres::shared()?.new_database().await,
        };
        Some(Self { address: Address::parse(&url).unwrap(), url, _folder: folder })
    }

    pub async fn open(&self) -> Store {
        // No promise depends on how fast the machine is: what waits in line here is not a database that is away.
        let options = Options { timeout: Duration::from_secs(20), ..Options::default() };
        Store::open(&self.address, options).await.unwrap()
    }

    /// A connection beside the service's own, for an operator's hand in the tables.
    pub async fn by_hand(&self) -> DatabaseConnection {
        let url = self.url.replacen("sqlite:", "sqlite://", 1);
        let mut options = ConnectOptions::new(url);
        options.sqlx_logging(false).max_connections(1);
        Database::connect(options).await.unwrap()
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

/// A migrated database without a service.
pub struct TestStore {
    pub store: Arc<Store>,
    pub database: TestDatabase,
}

impl TestStore {
    /// None if the engine is not on this machine.
    pub async fn start(engine: Engine) -> Option<Self> {
        let database = TestDatabase::new(engine).await?;
        let store = Arc::new(database.open().await);
        store.schema_migrate().await.unwrap();
        store.feed_begin("epoch").await.unwrap();
        let test = Self { store, database };
        test.note_root_secret().await;
        Some(test)
    }

    /// Notes the root secret that tests make credentials under.
    pub async fn note_root_secret(&self) {
        let root = root('0', 7);
        let row = RootRow { id: root.id(), fingerprint: *root.fingerprint(), state: RootState::Active };
        self.store.root_secret_insert(&row, Time::from_micros(BEGINNING)).await.unwrap();
    }
}

/// The service, as a test sees it.
pub struct Service {
    pub app: Arc<App>,
    pub clock: Arc<ManualClock>,
    pub address: SocketAddr,
    /// The key string of the first administrator.
    pub admin: String,
    pub database: TestDatabase,
    stop: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<Result<(), server::ServeError>>>,
    channel: Channel,
}

/// A key that a test made.
pub struct Made {
    pub id: String,
    pub key: String,
    pub api_key: proto::ApiKey,
}

pub fn root(name: char, byte: u8) -> RootSecret {
    RootSecret::derive(RootId::new(name).unwrap(), &[byte; 32])
}

pub fn app_settings() -> Settings {
    Settings {
        key_format: KeyFormat::new(Prefix::default(), vec![]),
        profile: Profile::Random256,
        purge_after: Duration::from_secs(30 * 24 * 60 * 60),
        hashing_threads: 2,
        hashing_queue: 1_024,
        // The clock of a test is the test's own, far from that of the database.
        max_clock_difference: Duration::MAX,
        // No promise depends on how fast the machine is.
        freshness: freshness::Settings {
            // One replica is all there is in most tests, so no lease of another one has to run out.
            other_replicas: false,
            poll_timeout: Duration::from_secs(20),
            reread_patience: Duration::from_secs(20),
            ..freshness::Settings::default()
        },
    }
}

/// Whether the hot calls go the long way in these tests: with `CLAVIGER_LONG_WAY` set, which CI runs them with once more.
#[expect(clippy::disallowed_methods, reason = "a test has no other place to be told by")]
pub fn takes_the_long_way() -> bool {
    std::env::var_os("CLAVIGER_LONG_WAY").is_some()
}

impl Service {
    /// None if the engine is not on this machine.
    pub async fn start(engine: Engine) -> Option<Self> {
        Self::start_with(engine, app_settings()).await
    }

    pub async fn start_with(engine: Engine, settings: Settings) -> Option<Self> {
        Self::start_at(engine, settings, Time::from_micros(BEGINNING)).await
    }

    /// With a clock that begins at `now`.
    pub async fn start_at(engine: Engine, settings: Settings, now: Time) -> Option<Self> {
        let database = TestDatabase::new(engine).await?;
        let store = database.open().await;
        store.schema_migrate().await.unwrap();
        store.feed_begin("epoch").await.unwrap();
        let clock = Arc::new(ManualClock::new(now));
        let app = App::start(store, clock.clone(), settings, vec![root('0', 7)]).await.unwrap();
        let admin = std::sync::Mutex::new(String::new());
        let keep = |key: &claviger::domain::key_string::KeyString| {
            key.reveal().clone_into(&mut admin.lock().unwrap());
            Ok(())
        };
        assert!(app.bootstrap_first(keep).await.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = ServerSettings {
            max_calls: 4_096,
            drain_timeout: Duration::from_secs(10),
            reflection: true,
            // Tests that count work, or move the clock, call for upkeep themselves.
            upkeep_interval: Duration::from_secs(3_600),
            census_interval: None,
            traces: false,
            short_cut: !takes_the_long_way(),
            connection_age: Duration::from_secs(3_600),
            stream_age: Duration::from_secs(3_600),
        };
        let shutdown = async move { drop(stopped.await) };
        let readiness = Arc::new(Readiness::default());
        let serving = tokio::spawn(server::serve(listener, Arc::clone(&app), server, readiness, shutdown));
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
        let admin = admin.into_inner().unwrap();
        Some(Self { app, clock, address, admin, database, stop: Some(stop), serving: Some(serving), channel })
    }

    /// A client that calls with `key`.
    pub fn client(&self, key: &str) -> Client {
        ApiKeyServiceClient::with_interceptor(self.channel.clone(), Bearer(Some(key.to_owned())))
    }

    /// A client that calls without a key.
    pub fn anonymous(&self) -> Client {
        ApiKeyServiceClient::with_interceptor(self.channel.clone(), Bearer(None))
    }

    /// A client that calls as the first administrator.
    pub fn admin(&self) -> Client {
        self.client(&self.admin)
    }

    /// A connection for other services than ours.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Makes a key as the first administrator.
    pub async fn make(&self, api_key: proto::ApiKey) -> Made {
        let request = proto::CreateRequest { api_key: Some(api_key), ..Default::default() };
        let answer = self.admin().create(request).await.unwrap().into_inner();
        let api_key = answer.api_key.unwrap();
        Made { id: api_key.id.clone(), key: answer.key, api_key }
    }

    /// Makes a key of `merchant` with these scopes.
    pub async fn make_for(&self, merchant: &str, scopes: &[&str]) -> Made {
        self.make(key_of(merchant, scopes)).await
    }

    /// Asks Validate, as the first administrator.
    pub async fn validate(&self, key: &str, caller_ip: &str) -> Result<proto::ValidateResponse, Status> {
        let request = proto::ValidateRequest { key: key.into(), caller_ip: caller_ip.into(), ..Default::default() };
        Ok(self.admin().validate(request).await?.into_inner())
    }

    /// The decision on a key that is used from nowhere in particular.
    pub async fn decision(&self, key: &str) -> proto::DecisionCode {
        self.validate(key, "").await.unwrap().code()
    }

    /// Changes a table by hand, as an attacker with access to the database would.
    pub async fn execute_silently(&self, sql: &str) -> u64 {
        self.database.by_hand().await.execute_unprepared(sql).await.unwrap().rows_affected()
    }

    /// Changes a table by hand, and tells the replicas as an operator has to.
    pub async fn execute(&self, sql: &str) -> u64 {
        let rows = self.execute_silently(sql).await;
        self.new_epoch().await;
        rows
    }

    /// Begins a new history, and waits until it is followed.
    pub async fn new_epoch(&self) {
        let epoch = format!("epoch{}", unique());
        self.app.store().feed_new_epoch(&epoch).await.unwrap();
        self.app.freshness().poke();
        process::eventually("the new history is followed", || async {
            let position = self.app.freshness().position();
            position.is_some_and(|position| &**position.epoch() == epoch.as_str()).then_some(())
        })
        .await;
    }

    /// Asks for `key` until the answer costs no work: a read that a poll overtakes is not remembered.
    pub async fn until_warm(&self, key: &str) {
        process::eventually("it is answered from memory", || async {
            let before = self.work();
            self.decision(key).await;
            (self.work() == before).then_some(())
        })
        .await;
    }

    /// How much work was done so far: statements of the database, and runs of argon2.
    pub fn work(&self) -> (u64, u64) {
        (self.app.store().statements(), self.app.hasher().runs())
    }

    /// Waits until the server ends without being asked to.
    pub async fn ended(&mut self) -> Result<(), server::ServeError> {
        self.serving.take().unwrap().await.unwrap()
    }

    /// Asks the server to stop and waits until it has.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(serving) = self.serving.take() {
            serving.await.unwrap().unwrap();
        }
    }
}

/// A client that calls with `key` over `channel`.
pub fn client_of(channel: Channel, key: &str) -> Client {
    ApiKeyServiceClient::with_interceptor(channel, Bearer(Some(key.to_owned())))
}

/// A key of `merchant` with these scopes, yet to be made.
pub fn key_of(merchant: &str, scopes: &[&str]) -> proto::ApiKey {
    proto::ApiKey {
        merchant_username: merchant.to_owned(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

/// The reason of a failed call, which every one has exactly once.
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details_vec();
    let mut reasons = details.iter().filter_map(|detail| match detail {
        tonic_types::ErrorDetail::ErrorInfo(info) => {
            assert_eq!(info.domain, "claviger.dev");
            Some(info.reason.clone())
        }
        _ => None,
    });
    let reason = reasons.next().unwrap_or_else(|| panic!("{status:?} has no ErrorInfo"));
    assert!(reasons.next().is_none(), "{status:?} has more than one ErrorInfo");
    reason
}

/// The wrong fields of a refused request, a line each.
pub fn violations(status: &Status) -> String {
    assert_eq!(reason(status), "FIELDS_INVALID", "{status:?}");
    let bad = status.get_details_bad_request().unwrap();
    bad.field_violations.iter().map(|v| format!("{}: {}", v.field, v.description)).collect::<Vec<_>>().join("\n")
}

/// The moment `micros` microseconds after a test's beginning.
pub fn after_beginning(duration: Duration) -> prost_types::Timestamp {
    let time = Time::from_micros(BEGINNING).saturating_add(duration);
    let (seconds, nanos) = time.to_timestamp();
    prost_types::Timestamp { seconds, nanos }
}

/// Puts `authorization: Bearer …` on a call.
#[derive(Clone)]
pub struct Bearer(Option<String>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(key) = &self.0 {
            let value = MetadataValue::try_from(format!("Bearer {key}")).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// Says once which engines run, past the test runner's capture.
fn say_which_engines() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let postgres = match Postgres::shared() {
            Some(postgres) => postgres.version().to_owned(),
            None => "PostgreSQL is not on this machine".to_owned(),
        };
        writeln!(std::io::stderr(), "engines: SQLite (embedded), {postgres}").unwrap();
    });
}

/// A number that no other test of this process has.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
