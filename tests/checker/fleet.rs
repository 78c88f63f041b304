//! The replicas: each a process with a wire to the database of its own, started again whenever it is gone.

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::{clock::Clock, proxy::Proxy};
use crate::rig::{Client, Deployment, Outcome, Program, Replica, client, pace, postgres};

/// How long a Validate is waited for.
const DECISION_PATIENCE: Duration = Duration::from_secs(10);
/// How long a change is waited for before another replica is asked.
const CHANGE_PATIENCE: Duration = Duration::from_secs(7);
/// How long a replica may take to serve; the database may be away meanwhile.
const START_PATIENCE: Duration = Duration::from_mins(2);
/// So many key strings ahead of the last known one are foretold.
const FORETOLD: u64 = 24;

/// What the replicas are to be.
#[derive(Clone, Debug)]
pub struct Build {
    /// Knows the command `serve`.
    pub executable: PathBuf,
    /// The bug that is planted, by its name.
    pub bug: Option<String>,
    /// No delays in races: for measuring.
    pub calm: bool,
}

/// One replica.
pub struct Member {
    pub number: usize,
    pub proxy: Proxy,
    build: Mutex<Build>,
    database: String,
    folder: PathBuf,
    root_secrets: String,
    admin_key_file: String,
    admin: String,
    clients: watch::Sender<Option<Clients>>,
    /// Held by whoever kills or freezes it.
    pub running: tokio::sync::Mutex<Option<Replica>>,
    /// Held by whoever makes trouble on its wire that lasts.
    pub wire: tokio::sync::Mutex<()>,
    /// How many troubles that last it has now.
    pub troubles: AtomicU32,
    pid: AtomicU32,
    starts: AtomicU64,
    foretold: Mutex<Foretold>,
    /// How often it ended without having been killed.
    pub ended_by_itself: AtomicU64,
}

/// Clients of one replica.
#[derive(Clone)]
pub struct Clients {
    pub address: SocketAddr,
    pub deciding: Client,
    pub changing: Client,
}

/// The key strings that a replica is going to make.
#[derive(Default)]
struct Foretold {
    next: u64,
    made_up_to: u64,
    seed: u64,
    numbers: HashMap<String, u64>,
    strings: HashMap<u64, String>,
}

impl Member {
    /// A replica that is to be started, on `database` of the server at `port`.
    ///
    /// # Errors
    /// If there is no port to listen on.
    pub async fn new(
        number: usize,
        build: Build,
        deployment: &Deployment,
        port: u16,
        database: &str,
        clock: Clock,
    ) -> Outcome<Self> {
        Ok(Self {
            number,
            proxy: Proxy::start(port, clock).await?,
            build: Mutex::new(build),
            database: database.to_owned(),
            folder: deployment.folder().to_owned(),
            root_secrets: deployment.root_secrets().display().to_string(),
            admin_key_file: deployment.admin_key_file().display().to_string(),
            admin: deployment.admin().to_owned(),
            clients: watch::channel(None).0,
            running: tokio::sync::Mutex::new(None),
            wire: tokio::sync::Mutex::new(()),
            troubles: AtomicU32::new(0),
            pid: AtomicU32::new(0),
            starts: AtomicU64::new(0),
            foretold: Mutex::default(),
            ended_by_itself: AtomicU64::new(0),
        })
    }

    /// Its clients; none while it is down.
    pub fn clients(&self) -> Option<Clients> {
        self.clients.borrow().clone()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Where it looks whether it is to freeze with a number in its hand.
    pub fn freeze_file(&self) -> PathBuf {
        self.folder.join(format!("freeze-{}", self.number))
    }

    /// Begins anew with or without delays in its races.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn rebuild(&self, calm: bool) -> Outcome<()> {
        self.build.lock().expect("nobody panics here").calm = calm;
        let mut running = self.running.lock().await;
        self.kill(&mut running);
        self.start(&mut running).await
    }

    /// Kills it, if it runs. Whoever holds its lock may.
    pub fn kill(&self, running: &mut Option<Replica>) {
        self.clients.send_replace(None);
        if let Some(mut replica) = running.take() {
            replica.kill();
        }
    }

    /// Starts it, and tries again until it serves: the database may not be there when it begins.
    ///
    /// # Errors
    /// If it does not serve for a long time.
    pub async fn start(&self, running: &mut Option<Replica>) -> Outcome<()> {
        let end = std::time::Instant::now() + START_PATIENCE;
        loop {
            let seed = (self.number as u64 + 1) << 32 | (self.starts.fetch_add(1, Ordering::Relaxed) + 1);
            let replica = self.program(seed).start()?;
            match replica.until_serving(Duration::from_secs(15)).await {
                Ok(address) => {
                    self.pid.store(replica.pid(), Ordering::Relaxed);
                    *self.foretold.lock().expect("nobody panics here") = Foretold { seed, ..Foretold::default() };
                    let deciding = client::connect(address, &self.admin, DECISION_PATIENCE);
                    let changing = client::connect(address, &self.admin, CHANGE_PATIENCE);
                    self.clients.send_replace(Some(Clients { address, deciding, changing }));
                    *running = Some(replica);
                    return Ok(());
                }
                Err(error) if std::time::Instant::now() > end => return Err(error),
                Err(_) => pace::pause(Duration::from_millis(50)).await,
            }
        }
    }

    fn program(&self, seed: u64) -> Program {
        let build = self.build.lock().expect("nobody panics here");
        let mut program = Program::new(&build.executable, &self.folder)
            .set("CLAVIGER_DATABASE_URL", postgres::url(self.proxy.port(), &self.database) + "?sslmode=disable")
            .set("CLAVIGER_ROOT_SECRETS", &self.root_secrets)
            .set("CLAVIGER_BOOTSTRAP_KEY_FILE", &self.admin_key_file)
            .set("CLAVIGER_LOG", "warn")
            .set("SEEDED_KEYS", seed.to_string())
            .set("SEEDED_FREEZE", self.freeze_file().display().to_string());
        if let Some(bug) = &build.bug {
            program = program.set("SEEDED_BUG", bug);
        }
        if build.calm {
            program = program.set("SEEDED_CALM", "1");
        }
        program
    }

    /// Starts it again if it ended by itself.
    ///
    /// # Errors
    /// If it does not start.
    pub async fn tend(&self) -> Outcome<()> {
        let Ok(mut running) = self.running.try_lock() else { return Ok(()) };
        if running.as_mut().is_some_and(|replica| !replica.is_running()) {
            self.ended_by_itself.fetch_add(1, Ordering::Relaxed);
            self.kill(&mut running);
            return self.start(&mut running).await;
        }
        Ok(())
    }

    /// Learns that it made this key string.
    pub fn made(&self, key: &str) {
        let mut foretold = self.foretold.lock().expect("nobody panics here");
        if let Some(number) = foretold.numbers.get(key).copied() {
            foretold.next = foretold.next.max(number + 1);
            let next = foretold.next;
            foretold.strings.retain(|number, _| *number >= next);
            foretold.numbers.retain(|_, number| *number >= next);
        }
    }

    /// The key string that it makes `ahead` of the next one, if that can be foretold.
    pub fn foretell(&self, ahead: u64, deployment: &Deployment) -> Option<String> {
        let mut foretold = self.foretold.lock().expect("nobody panics here");
        let wanted = foretold.next + FORETOLD;
        while foretold.made_up_to < wanted {
            let number = foretold.made_up_to;
            let key = deployment.foretell(foretold.seed, number)?;
            foretold.numbers.insert(key.clone(), number);
            foretold.strings.insert(number, key);
            foretold.made_up_to += 1;
        }
        foretold.strings.get(&(foretold.next + ahead)).cloned()
    }
}
