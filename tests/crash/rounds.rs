//! The rounds: start, verify what the round before left, write, kill.

use std::{
    fmt,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::task::JoinSet;

use super::{ledger::Ledger, tables, verify, writers};
use crate::rig::{
    Client, Deployment, Dice, Outcome, Program, Replica, client, pace,
    postgres::{Server, Stop},
};

/// How many write at once.
const WRITERS: usize = 4;
/// The longest time that writers get before the kill.
const LONGEST_ROUND: Duration = Duration::from_millis(150);
/// In one of so many rounds, the service is killed already while it starts.
const KILLED_AT_START_IN: u64 = 6;
/// In each such round on PostgreSQL, the database is stopped at once as well.
const DATABASE_KILLED_EVERY: u32 = 4;
/// After so many rounds all tables are looked through, not only what is new.
const ALL_TABLES_EVERY: u32 = 25;
/// So many keys that had no part in the last round are checked beside those that had.
const OLD_KEYS_CHECKED: usize = 3;
/// How long the service may take to start or to answer, on a machine that is very busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// The database that is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Sqlite,
    Postgres,
}

/// What to run.
pub struct Plan {
    /// Knows the command `serve`.
    pub executable: PathBuf,
    pub engine: Engine,
    pub rounds: u32,
    pub seed: u64,
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    pub engine: Engine,
    pub rounds: u32,
    pub acknowledged: u64,
    /// Changes that were under way at the kill.
    pub interrupted: u64,
    /// Kills while the service started.
    pub killed_at_start: u32,
    /// Stops of the database in immediate mode.
    pub database_killed: u32,
    pub took: Duration,
    pub losses: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { engine, rounds, acknowledged, interrupted, killed_at_start, database_killed, took, losses } = self;
        write!(
            f,
            "{engine:?}: {rounds} rounds in {:.0} s, {acknowledged} changes acknowledged, {interrupted} interrupted, \
             {killed_at_start} kills at the start, {database_killed} of the database, {} losses",
            took.as_secs_f64(),
            losses.len()
        )
    }
}

/// What a loop works on.
pub struct Loop {
    deployment: Deployment,
    postgres: Option<Server>,
    program: Program,
    url: String,
    ledgers: Vec<Ledger>,
    dice: Dice,
    /// Up to where the feed was looked at.
    last: i64,
    report: Report,
}

/// Runs all rounds.
///
/// # Errors
/// If the loop itself does not work; losses are in the report.
pub async fn run(plan: &Plan, mut progress: impl FnMut(String)) -> Outcome<Report> {
    let begun = Instant::now();
    let mut running = Loop::new(plan).await?;
    for round in 1..=plan.rounds {
        running.round(round).await?;
        if round % 100 == 0 {
            let losses = running.report.losses.len();
            progress(format!("{:?}: round {round}, {losses} losses", plan.engine));
        }
    }
    running.finish().await?;
    Ok(Report { took: begun.elapsed(), ..running.report })
}

impl Loop {
    /// Makes a deployment with an empty database.
    ///
    /// # Errors
    /// If that does not work.
    pub async fn new(plan: &Plan) -> Outcome<Self> {
        let deployment = Deployment::new()?;
        let folder = deployment.folder();
        let mut postgres = None;
        let url = match plan.engine {
            Engine::Sqlite => format!("sqlite://{}", folder.join("claviger.db").display()),
            Engine::Postgres => {
                let mut server = Server::new(folder.join("postgres"))?;
                server.start().await?;
                let url = server.url("postgres");
                postgres = Some(server);
                url
            }
        };
        let program = Program::new(&plan.executable, folder)
            .set("CLAVIGER_DATABASE_URL", &url)
            .set("CLAVIGER_ROOT_SECRETS", deployment.root_secrets().display().to_string())
            .set("CLAVIGER_BOOTSTRAP_KEY_FILE", deployment.admin_key_file().display().to_string());
        let report = Report {
            engine: plan.engine,
            rounds: 0,
            acknowledged: 0,
            interrupted: 0,
            killed_at_start: 0,
            database_killed: 0,
            took: Duration::ZERO,
            losses: Vec::new(),
        };
        let ledgers = (0..WRITERS).map(|_| Ledger::default()).collect();
        Ok(Self { deployment, postgres, program, url, ledgers, dice: Dice::new(plan.seed), last: 0, report })
    }

    /// One round.
    ///
    /// # Errors
    /// If it could not be run.
    pub async fn round(&mut self, round: u32) -> Outcome<()> {
        if self.dice.one_in(KILLED_AT_START_IN) {
            let mut replica = self.program.start()?;
            pace::pause(self.dice.between(Duration::ZERO, LONGEST_ROUND)).await;
            replica.kill();
            self.report.killed_at_start += 1;
        }
        let (mut replica, client) = self.start().await?;
        self.verify(client.clone()).await;
        self.look(round.is_multiple_of(ALL_TABLES_EVERY)).await?;

        let mut writing = JoinSet::new();
        for mut ledger in std::mem::take(&mut self.ledgers) {
            let (mut client, mut dice) = (client.clone(), self.dice.fork());
            writing.spawn(async move {
                writers::write(&mut ledger, &mut client, &mut dice).await;
                ledger
            });
        }
        pace::pause(self.dice.between(Duration::ZERO, LONGEST_ROUND)).await;
        let database_too = self.postgres.is_some() && round.is_multiple_of(DATABASE_KILLED_EVERY);
        if database_too && self.dice.one_in(2) {
            self.kill_database().await?;
        }
        replica.kill();
        self.ledgers = writing.join_all().await;
        if database_too && self.postgres.as_ref().is_some_and(Server::is_running) {
            self.kill_database().await?;
        }
        if let Some(postgres) = self.postgres.as_mut().filter(|postgres| !postgres.is_running()) {
            postgres.start().await?;
        }
        let pending = self.ledgers.iter().flat_map(|ledger| &ledger.keys).filter(|key| key.pending.is_some());
        self.report.interrupted += pending.count() as u64;
        self.report.acknowledged = self.ledgers.iter().map(|ledger| ledger.count).sum();
        self.report.rounds = round;
        Ok(())
    }

    /// Verifies what the last round left, and every key once more.
    ///
    /// # Errors
    /// If the service does not start.
    pub async fn finish(&mut self) -> Outcome<()> {
        let (_replica, client) = self.start().await?;
        self.verify(client.clone()).await;
        self.look(true).await?;
        for at in 0..self.ledgers.len() {
            let keys = self.ledgers[at].keys.len();
            self.verify_keys(client.clone(), at, (0..keys).collect()).await;
        }
        Ok(())
    }

    /// Starts the service on what is there.
    ///
    /// # Errors
    /// If it does not serve.
    pub async fn start(&self) -> Outcome<(Replica, Client)> {
        let replica = self.program.start()?;
        let address = replica.until_serving(PATIENCE).await?;
        let client = client::connect(address, self.deployment.admin(), PATIENCE);
        Ok((replica, client))
    }

    /// The URL of the database, for a hand in its tables.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How many changes were acknowledged so far.
    pub fn acknowledged(&self) -> u64 {
        self.report.acknowledged
    }

    /// What was found so far.
    pub fn losses(&self) -> &[String] {
        &self.report.losses
    }

    async fn kill_database(&mut self) -> Outcome<()> {
        self.report.database_killed += 1;
        match &mut self.postgres {
            Some(postgres) => postgres.stop(Stop::Immediate).await,
            None => Ok(()),
        }
    }

    /// Asks the service about all keys that the last round touched, and a few others.
    pub async fn verify(&mut self, client: Client) {
        for at in 0..self.ledgers.len() {
            let ledger = &self.ledgers[at];
            let touched = |key: &super::ledger::Key| {
                let acknowledged =
                    |known: &super::ledger::Known| ledger.acknowledged.iter().any(|change| change.key_id == known.id);
                key.pending.is_some() || key.known.as_ref().is_some_and(acknowledged)
            };
            let mut wanted: Vec<usize> = (0..ledger.keys.len()).filter(|at| touched(&ledger.keys[*at])).collect();
            if !ledger.keys.is_empty() {
                wanted.extend((0..OLD_KEYS_CHECKED).map(|_| self.dice.index(self.ledgers[at].keys.len())));
            }
            self.verify_keys(client.clone(), at, wanted).await;
        }
    }

    async fn verify_keys(&mut self, mut client: Client, ledger: usize, wanted: Vec<usize>) {
        for at in wanted {
            let key = &mut self.ledgers[ledger].keys[at];
            if let Err(what) = verify::key(key, &mut client).await {
                let id = key.known.as_ref().map_or("(not known)", |known| &known.id);
                self.report.losses.push(format!("{id} {what}"));
            }
        }
    }

    /// Looks into the tables: at what is new, or at all of them.
    ///
    /// # Errors
    /// If they cannot be read.
    pub async fn look(&mut self, at_all: bool) -> Outcome<()> {
        let database = tables::connect(&self.url).await?;
        let mut acknowledged = Vec::new();
        for ledger in &mut self.ledgers {
            acknowledged.append(&mut ledger.acknowledged);
        }
        let (losses, last) = tables::acknowledged(&database, self.last, &acknowledged).await?;
        self.last = last;
        self.report.losses.extend(losses);
        if at_all {
            self.report.losses.extend(tables::all(&database).await?);
        }
        database.close().await.map_err(crate::rig::doing("closing a connection"))
    }
}
