//! A service in this process, without its transport, and how it is asked.
//!
//! The clocks are those of the machine, and the poller runs beside, as it does in a server; the other workers do not, so
//! that nothing but what is asked reads or hashes. When the way into the app changes, it changes here.

use std::{process::exit, sync::Arc, time::Duration};

use claviger::{
    app::{App, Question, Rights, Settings, Verdict, freshness},
    clock::SystemClock,
    domain::{
        Caller, Error, Result, Scope,
        decision::{Decision, Refusal},
        ip_rules::CallerIp,
    },
};
use tokio::task::JoinHandle;

use super::population::{self, CALLER_IP, Hashes, Mint, REQUIRED, Shape};
use crate::harness::{Engine, TestDatabase, app_settings, process::eventually};

/// The numbers of the callers' keys, beyond those of all clients.
pub const VALIDATOR: u64 = 1 << 40;
const LISTER: u64 = VALIDATOR + 1;

/// A service that was started on a database, and who calls it.
pub struct InProcess {
    pub app: Arc<App>,
    pub caller: Caller,
    pub lister: Caller,
    poller: JoinHandle<()>,
}

/// What every call asks beside the key.
pub struct Ask {
    caller_ip: CallerIp,
    required_scopes: Vec<Scope>,
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    Valid,
    Malformed,
    NotFound,
    OtherRefusal,
    /// Too many hashes wait; it said when to come back.
    Overloaded(Duration),
    Failed,
    /// It had to wait, where memory should have had the answer.
    NotAtOnce,
}

/// A migrated database with clients and callers; none if the engine is not on this machine.
pub async fn database(engine: Engine, clients: u64, shape: Shape) -> Option<TestDatabase> {
    let database = TestDatabase::new(engine).await?;
    let store = database.open().await;
    store.schema_migrate().await.unwrap();
    store.feed_begin("epoch").await.unwrap();
    store.close().await.unwrap();
    population::fill(&database, VALIDATOR..VALIDATOR + 1, Shape::Validator, Hashes::True).await;
    population::fill(&database, LISTER..LISTER + 1, Shape::Lister, Hashes::True).await;
    population::fill(&database, 0..clients, shape, Hashes::True).await;
    Some(database)
}

/// Settings with a memory for this many keys.
pub fn settings(keys: usize) -> Settings {
    let settings = app_settings();
    let freshness = freshness::Settings { keys, ..settings.freshness };
    Settings { freshness, ..settings }
}

impl InProcess {
    /// With an empty memory, but for the callers.
    pub async fn start(database: &TestDatabase, settings: Settings) -> Self {
        let (store, mint) = (database.open().await, Mint::new());
        let texts = [VALIDATOR, LISTER].map(|number| mint.text(number));
        let app = App::start(store, Arc::new(SystemClock), settings, vec![mint.into_root()]).await.unwrap();
        let mut poller = app.poller();
        app.poll(&mut poller).await;
        let poller = tokio::spawn(freshness::keep_fresh(Arc::clone(&app), poller));
        eventually("answers come from memory", || async {
            (app.freshness_state() == freshness::State::Fresh).then_some(())
        })
        .await;
        let peer: CallerIp = "127.0.0.1".parse().unwrap();
        let caller = app.authenticate(&texts[0], peer, Rights::Remembered).await.unwrap();
        let lister = app.authenticate(&texts[1], peer, Rights::Remembered).await.unwrap();
        Self { app, caller, lister, poller }
    }

    /// Asks for each of these once, so that they are answered from memory from then on.
    pub async fn warm(&self, texts: &[String], expected: Code) {
        let ask = Ask::new();
        for text in texts {
            expect(ask.decide(self, text).await, expected);
        }
    }

    /// Statements of the database, and runs of argon2, so far.
    pub fn work(&self) -> (u64, u64) {
        (self.app.store().statements(), self.app.hasher().runs())
    }

    /// Ends its work, and gives its connections back.
    pub async fn stop(&self) {
        self.poller.abort();
        while !self.poller.is_finished() {
            tokio::task::yield_now().await;
        }
        self.app.drain().await;
        self.app.store().close().await.unwrap();
    }
}

impl Ask {
    pub fn new() -> Self {
        let required_scopes = REQUIRED.iter().map(|scope| scope.parse().unwrap()).collect();
        Self { caller_ip: CALLER_IP.parse().unwrap(), required_scopes }
    }

    /// Asks, and waits for the answer.
    pub async fn decide(&self, service: &InProcess, key: &str) -> Code {
        code(&service.app.validate(&service.caller, self.question(key)).await)
    }

    /// Asks, and takes no answer but one that is there at once. The answer is thrown away in here: whoever writes it to
    /// the wire does no less.
    pub fn decide_once(&self, service: &InProcess, key: &str) -> Code {
        let asked = service.app.validate_at_once(&service.caller, &self.question(key));
        asked.map_or(Code::NotAtOnce, |verdict| answered(std::hint::black_box(&verdict)))
    }

    fn question<'a>(&'a self, key: &'a str) -> Question<'a> {
        let Self { caller_ip, required_scopes } = self;
        Question { key, caller_ip: Some(*caller_ip), required_scopes, min_revision: None }
    }
}

fn answered(verdict: &Verdict) -> Code {
    match &verdict.decision {
        Decision::Valid(_) => Code::Valid,
        Decision::Refused(Refusal::Malformed) => Code::Malformed,
        Decision::Refused(Refusal::NotFound) => Code::NotFound,
        Decision::Refused(Refusal::Proved(..)) => Code::OtherRefusal,
    }
}

fn code(verdict: &Result<Verdict>) -> Code {
    match verdict {
        Ok(verdict) => answered(verdict),
        Err(Error::Overloaded { retry_after }) => Code::Overloaded(*retry_after),
        Err(_) => Code::Failed,
    }
}

/// Ends the bench if an answer is not the one that is right.
pub fn expect(answer: Code, right: Code) {
    assert_eq!(answer, right, "an answer is wrong while nothing is measured");
}

/// Wrong answers, by what they were.
#[derive(Default)]
pub struct Wrong(Vec<(String, u64)>);

impl Wrong {
    /// Notes those that are not the one that is right.
    pub fn note_all(&mut self, what: &str, answers: impl IntoIterator<Item = Code>, right: Code) {
        for answer in answers.into_iter().filter(|answer| *answer != right) {
            self.add(format!("{what}: {answer:?} in place of {right:?}"), 1);
        }
    }

    pub fn add(&mut self, what: String, count: u64) {
        match self.0.iter_mut().find(|(known, _)| *known == what) {
            Some((_, known)) => *known += count,
            None => self.0.push((what, count)),
        }
    }

    /// Fails the bench if there was one.
    pub fn judge(&self) {
        for (what, count) in &self.0 {
            println!("wrong: {count} times {what}");
        }
        if !self.0.is_empty() {
            exit(1);
        }
    }
}

/// Waits as long as the service asked for.
#[expect(clippy::disallowed_methods, reason = "a caller that is told when to come back has nothing else to wait for")]
pub async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
