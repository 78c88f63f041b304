//! Everything that a run works with, and what all who ask do alike: send, take the time, note the answer.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use claviger::grpc::proto::{self, DecisionCode};
use tokio::sync::Notify;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    clock::{Clock, Moment},
    cluster::Cluster,
    fleet::{Build, Member},
    history::{Flaw, History},
    judge::{Answer, Rule, Validation, judge},
    keys::{Key, Keys},
    tally::{Operation, Tally, Violation},
};
use crate::rig::{Deployment, Dice, Outcome};

/// Where the validators say that their clients call from.
pub const CALLER: &str = "192.0.2.7";
/// How long a replica may answer from memory without having heard from the database.
pub const LEASE: Duration = Duration::from_millis(1_000);
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
    renamed: Mutex<Option<Moment>>,
    over: AtomicBool,
    is_over: Notify,
    trouble: Mutex<Option<String>>,
}

/// How a key is asked about.
#[derive(Clone, Debug)]
pub enum How {
    /// With one of its secrets.
    Plainly,
    /// With a secret that nobody issued.
    Forged,
    /// With its last secret, and not from before the answer to this act, whose revision this is.
    AtLeast(usize, String),
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

    /// Asks a replica about a key, and judges what it says.
    pub async fn ask(&self, member: &Member, key: &Key, how: How, dice: &mut Dice) -> Option<Answer> {
        let mut client = member.clients()?.deciding;
        let (secret, text) = match how {
            How::Forged => (None, key.forged.clone()),
            How::Plainly => {
                let (number, text) = key.secret(dice);
                (Some(number), text)
            }
            How::AtLeast(..) => {
                let history = key.history.lock().expect("nobody panics here");
                (Some(history.secrets.len() - 1), history.secrets.last()?.key.clone())
            }
        };
        let silent = member.proxy.silent_since();
        let start = self.clock.now();
        let answered = client.validate(question(text, &how)).await;
        let end = self.clock.now();
        let blind = silent.is_some_and(|since| start > since.after(LEASE)) && member.proxy.silent_since() == silent;
        self.tally.count(match how {
            How::Plainly => Operation::Validate,
            How::Forged => Operation::ValidateForged,
            How::AtLeast(..) => Operation::ValidateAtLeast,
        });
        let answer = match answered {
            Ok(answered) => self.read(member, key, &answered.into_inner(), &how, (start, end)),
            Err(status) => {
                self.undecided(member, &key.id, "Validate", start, &status);
                return None;
            }
        };
        let at_least = if let How::AtLeast(act, _) = how { Some(act) } else { None };
        let renamed = *self.renamed.lock().expect("nobody panics here");
        let seen = Validation { secret, start, end, answer, at_least, blind, renamed };
        let history = key.history.lock().expect("nobody panics here");
        if let Some(rule) = judge(&history, &seen) {
            let story = format!("replica {} on {}: {seen:?}\n    {}", member.number, key.id, told(&history));
            self.tally.found(Violation { rule, when: end, story });
        }
        Some(answer)
    }

    /// Asks every replica so many times about a key, all at once.
    pub async fn ask_all(&self, key: &Key, how: &How, times: usize, dice: &mut Dice) {
        let mut asking = Vec::new();
        for member in self.fleet.iter().cycle().take(self.fleet.len() * times) {
            let (how, mut dice) = (how.clone(), dice.fork());
            asking.push(async move { self.ask(member, key, how, &mut dice).await });
        }
        futures_util::future::join_all(asking).await;
    }

    fn read(
        &self,
        member: &Member,
        key: &Key,
        answer: &proto::ValidateResponse,
        how: &How,
        (start, end): (Moment, Moment),
    ) -> Answer {
        self.tally.answered(answer.code().as_str_name());
        if let How::AtLeast(_, revision) = how
            && is_before(&answer.revision, revision)
        {
            let story = format!(
                "replica {} on {}: asked from {start} to {end} for {revision} at least, answers of {}",
                member.number, key.id, answer.revision
            );
            self.tally.found(Violation { rule: Rule::AnsweredFromThePast, when: end, story });
        }
        match answer.code() {
            DecisionCode::Valid => Answer::Valid,
            DecisionCode::NotFound => Answer::NotFound,
            DecisionCode::Malformed => Answer::Malformed,
            DecisionCode::Deleted => Answer::Flawed(Flaw::Deleted),
            DecisionCode::SecretRetired => Answer::Flawed(Flaw::Retired),
            DecisionCode::Disabled => Answer::Flawed(Flaw::Disabled),
            DecisionCode::IpNotAllowed => Answer::Flawed(Flaw::AddressRefused),
            _ => Answer::Other,
        }
    }

    /// Asks a replica about a key that is not born yet. Nothing can be wrong with the answer, but for a VALID.
    pub async fn ask_unborn(&self, member: &Member, text: &str) {
        let Some(clients) = member.clients() else { return };
        let answered = clients.clone().deciding.validate(question(text.to_owned(), &How::Plainly)).await;
        self.tally.count(Operation::ValidateUnborn);
        if let Ok(answered) = answered {
            self.tally.answered(answered.get_ref().code().as_str_name());
        }
    }

    /// Notes an answer that decides nothing, to a call that began at `start`. One that the documentation does not have for
    /// these calls is a violation.
    ///
    /// What a change reads before its transaction may come from a standby that lags: only of Validate is it promised that
    /// it does not. So a replica that was led astray may not find a key.
    pub fn undecided(&self, member: &Member, key: &str, call: &str, start: Moment, status: &Status) {
        // What the connection says, and not the service, carries no reason.
        let reason = status.get_details_error_info().map(|details| details.reason);
        self.tally.answered(&format!("{:?} {}", status.code(), reason.as_deref().unwrap_or("(no answer)")));
        // Whoever names a revision was answered with it, so it is there.
        if reason.as_deref() == Some("REVISION_AHEAD") {
            let story = format!("replica {} on {key}: {call} from {start} answers {status:?}", member.number);
            self.tally.found(Violation { rule: Rule::AnsweredFromThePast, when: self.clock.now(), story });
        }
        let expected = [
            Code::Unavailable,
            Code::ResourceExhausted,
            Code::DeadlineExceeded,
            Code::Unknown,
            Code::Cancelled,
            // Of an epoch that is no longer.
            Code::FailedPrecondition,
        ];
        let may_lag = call != "Validate" && status.code() == Code::NotFound && member.proxy.was_astray_since(start);
        if reason.is_some() && !expected.contains(&status.code()) && !may_lag {
            let story = format!("replica {} on {key}: {call} answers {status:?}", member.number);
            self.tally.found(Violation { rule: Rule::UnexpectedAnswer, when: self.clock.now(), story });
        }
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

fn question(key: String, how: &How) -> proto::ValidateRequest {
    let min_revision = if let How::AtLeast(_, revision) = how { revision.clone() } else { String::new() };
    proto::ValidateRequest { key, caller_ip: CALLER.to_owned(), min_revision, ..Default::default() }
}

/// Whether `revision` is an earlier state of the same history as `least`. Revisions are opaque to callers; the checker
/// knows better.
fn is_before(revision: &str, least: &str) -> bool {
    let parts = |text: &str| {
        let (epoch, seq) = text.rsplit_once('.')?;
        Some((epoch.to_owned(), seq.parse::<i64>().ok()?))
    };
    match (parts(revision), parts(least)) {
        (Some((epoch, seq)), Some((least_epoch, least))) => epoch == least_epoch && seq < least,
        _ => false,
    }
}

fn told(history: &History) -> String {
    let acts: Vec<String> =
        history.acts.iter().map(|act| format!("{:?} from {}: {:?}", act.change, act.start, act.outcome)).collect();
    let known: Vec<String> = history.secrets.iter().map(|secret| secret.known.to_string()).collect();
    format!("secrets known at {}; {}", known.join(", "), acts.join("; "))
}
