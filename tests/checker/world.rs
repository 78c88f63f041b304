//! Everything that a run works with.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use claviger::grpc::proto;
use tokio::sync::Notify;

use super::{
    clock::{Clock, Moment},
    cluster::Cluster,
    fleet::{Build, Member},
    history::History,
    keys::{Key, Keys},
    tally::Tally,
};
use crate::rig::{Deployment, Dice, Outcome};

/// How many keys are never changed.
const WARM_KEYS: usize = 48;

/// What the run works with.
pub struct World {
    pub clock: Clock,
    pub deployment: Deployment,
    /// Written to by whoever restarts it or promotes.
    pub cluster: tokio::sync::RwLock<Cluster>,
    pub fleet: Vec<Member>,
    pub keys: Keys,
    pub tally: Tally,
    pub database: String,
    /// How long a change takes to its commit of late, in microseconds.
    commit_micros: AtomicU64,
    /// When the history last began to get another name.
    pub renamed: Mutex<Option<Moment>>,
    over: AtomicBool,
    is_over: Notify,
    trouble: Mutex<Option<String>>,
}

impl World {
    /// Makes a deployment, a database and `replicas` replicas, which serve.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn start(build: &Build, replicas: usize, with_standby: bool) -> Outcome<Arc<Self>> {
        let deployment = Deployment::new()?;
        let cluster = Cluster::start(PathBuf::from(deployment.folder()), with_standby).await?;
        let (clock, database) = (Clock::start(), "checked".to_owned());
        cluster.new_database(&database).await?;
        let mut fleet = Vec::new();
        for number in 0..replicas {
            let member = Member::new(number, build.clone(), &deployment, cluster.port(), &database, clock).await?;
            member.start(&mut *member.running.lock().await).await?;
            fleet.push(member);
        }
        Ok(Arc::new(Self {
            clock,
            deployment,
            cluster: tokio::sync::RwLock::new(cluster),
            fleet,
            keys: Keys::default(),
            tally: Tally::default(),
            database,
            commit_micros: AtomicU64::new(10_000),
            renamed: Mutex::new(None),
            over: AtomicBool::new(false),
            is_over: Notify::new(),
            trouble: Mutex::new(None),
        }))
    }

    /// Makes the keys that nobody changes.
    ///
    /// # Errors
    /// If they cannot be made, with everything healthy.
    pub async fn make_warm_keys(&self) -> Outcome<()> {
        for number in 0..WARM_KEYS {
            let member = &self.fleet[number % self.fleet.len()];
            let mut client = member.clients().ok_or("a replica is down before anything began")?.changing;
            let request = proto::CreateRequest { api_key: Some(new_key("warm")), ..Default::default() };
            let answer = client.create(request).await.map_err(crate::rig::doing("making a key"))?.into_inner();
            self.keys.add(super::keys::Group::Warm, &self.born(member, answer)?);
        }
        Ok(())
    }

    /// A key whose Create was just answered.
    ///
    /// # Errors
    /// If the answer is none.
    pub fn born(&self, member: &Member, answer: proto::CreateResponse) -> Outcome<Arc<Key>> {
        let known = self.clock.now();
        member.made(&answer.key);
        let id = answer.api_key.map(|key| key.id).ok_or("Create answers without a key")?;
        let forged = self.deployment.forge(&answer.key)?;
        Ok(Arc::new(Key { id, history: Mutex::new(History::new(answer.key, known)), forged }))
    }

    /// How long a change takes to its commit of late.
    pub fn commits_take(&self) -> Duration {
        Duration::from_micros(self.commit_micros.load(Ordering::Relaxed))
    }

    /// Learns how long one took: the figure follows the middle of all, which those that were in trouble do not move.
    pub fn commit_took(&self, time: Duration) {
        let before = self.commit_micros.load(Ordering::Relaxed);
        let step = before / 20 + 1;
        let next = if time > self.commits_take() { before + step } else { before.saturating_sub(step) };
        self.commit_micros.store(next, Ordering::Relaxed);
    }

    /// Notes that the history is about to get another name.
    pub fn renames(&self) {
        *self.renamed.lock().expect("nobody panics here") = Some(self.clock.now());
    }

    /// Whether the run is over for those who ask and make trouble.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Ends it.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        self.is_over.notify_waiters();
    }

    /// Lets others begin again after [`World::end`].
    pub fn begin(&self) {
        self.over.store(false, Ordering::Relaxed);
    }

    /// Lets `time` pass, or less if the run is over before. Gives whether it goes on.
    pub async fn pause(&self, time: Duration) -> bool {
        let over = self.is_over.notified();
        if !self.is_over() {
            let _ = tokio::time::timeout(time, over).await;
        }
        !self.is_over()
    }

    /// Notes that the checker itself does not work, and ends the run.
    pub fn fail(&self, what: String) {
        self.trouble.lock().expect("nobody panics here").get_or_insert(what);
        self.end();
    }

    /// What did not work, if anything.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().expect("nobody panics here").clone()
    }

    /// One of the replicas, to ask for a change: most often one without trouble. A change that is begun where answers are
    /// late or do not come holds up all others, and a storm in which nothing is changed would show nothing.
    pub fn any_for_changes(&self, dice: &mut Dice) -> &Member {
        for _ in 0..4 {
            let member = self.any_member(dice);
            if member.troubles.load(Ordering::Relaxed) == 0 || dice.one_in(12) {
                return member;
            }
        }
        self.any_member(dice)
    }

    /// One of the replicas.
    pub fn any_member(&self, dice: &mut Dice) -> &Member {
        &self.fleet[dice.index(self.fleet.len())]
    }
}

/// Settings of a new key.
pub fn new_key(name: &str) -> proto::ApiKey {
    proto::ApiKey { merchant_username: "checked".to_owned(), display_name: name.to_owned(), ..Default::default() }
}
