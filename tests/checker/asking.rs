//! Asking Validate: send, take the time, note the answer, and have it judged.

use std::{sync::Arc, time::Duration};

use claviger::grpc::proto::{self, DecisionCode};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{
    clock::Moment,
    fleet::Member,
    history::{Flaw, History},
    judge::{Answer, Rule, Validation, judge},
    keys::Key,
    tally::{Operation, Violation},
    world::World,
};
use crate::rig::Dice;

/// Where the validators say that their clients call from.
pub const CALLER: &str = "192.0.2.7";
/// How long a replica may answer from memory without having heard from the database.
pub const LEASE: Duration = Duration::from_millis(1_000);
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

/// A question that is on its way.
pub struct Asked {
    pub key: Arc<Key>,
    pub question: proto::ValidateRequest,
    how: How,
    /// None: one that nobody issued.
    secret: Option<usize>,
    silent: Option<Moment>,
    start: Moment,
}

impl World {
    /// Asks a replica about a key, and judges what it says.
    pub async fn ask(&self, member: &Member, key: &Arc<Key>, how: How, dice: &mut Dice) -> Option<Answer> {
        let mut client = member.clients()?.deciding;
        let asked = self.begin_to_ask(member, key, how, dice)?;
        let answered = client.validate(asked.question.clone()).await;
        self.conclude(member, &asked, answered.map(tonic::Response::into_inner))
    }

    /// Puts a question; it begins now.
    pub fn begin_to_ask(&self, member: &Member, key: &Arc<Key>, how: How, dice: &mut Dice) -> Option<Asked> {
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
        let question = question(text, &how);
        let (silent, key) = (member.proxy.silent_since(), Arc::clone(key));
        Some(Asked { key, question, how, secret, silent, start: self.clock.now() })
    }

    /// Judges what a replica said, just now.
    pub fn conclude(
        &self,
        member: &Member,
        asked: &Asked,
        answered: Result<proto::ValidateResponse, Status>,
    ) -> Option<Answer> {
        let end = self.clock.now();
        let Asked { key, how, secret, silent, start, .. } = asked;
        let (secret, start) = (*secret, *start);
        let blind = silent.is_some_and(|since| start > since.after(LEASE)) && member.proxy.silent_since() == *silent;
        self.tally.count(match how {
            How::Plainly => Operation::Validate,
            How::Forged => Operation::ValidateForged,
            How::AtLeast(..) => Operation::ValidateAtLeast,
        });
        let answer = match answered {
            Ok(answered) => self.read(member, key, &answered, how, (start, end)),
            Err(status) => {
                self.undecided(member, &key.id, "Validate", start, &status);
                return None;
            }
        };
        let at_least = if let How::AtLeast(act, _) = how { Some(*act) } else { None };
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
    pub async fn ask_all(&self, key: &Arc<Key>, how: &How, times: usize, dice: &mut Dice) {
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
        if reason.is_some() && !expected.contains(&status.code()) {
            let story = format!("replica {} on {key}: {call} answers {status:?}", member.number);
            self.tally.found(Violation { rule: Rule::UnexpectedAnswer, when: self.clock.now(), story });
        }
    }
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
