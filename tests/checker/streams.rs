//! Those who ask by streams: without a pause, so that one batch of items follows the other; and callers whose own key is
//! deleted while their streams are open.

use std::{collections::HashMap, sync::Arc, time::Duration};

use claviger::grpc::proto::{self, validate_stream_response::Outcome};
use prost::Message;
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{
    asking::{Asked, How},
    fleet::Member,
    judge::Rule,
    keys::Group,
    lives,
    tally::{Operation, Violation},
    world::{World, new_key},
};
use crate::rig::{Client, Dice, client};

/// Streams to each replica.
const STREAMS: usize = 2;
/// Items that are not answered yet, on each stream.
const OUTSTANDING: usize = 16;
/// After each answer the next question is put, but no faster than this.
const PACE: Duration = Duration::from_millis(5);
/// An item that is not answered by then is none that can be judged: its replica may be frozen.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks by streams, and deletes callers, until the run is over.
pub fn spawn(into: &mut JoinSet<()>, world: &Arc<World>, dice: &mut Dice) {
    for member in (0..world.fleet.len()).flat_map(|member| std::iter::repeat_n(member, STREAMS)) {
        let (world, mut dice) = (Arc::clone(world), dice.fork());
        into.spawn(async move {
            while !world.is_over() {
                converse(&world, &world.fleet[member], &mut dice).await;
                world.pause(Duration::from_millis(50)).await;
            }
        });
    }
    let (world, mut dice) = (Arc::clone(world), dice.fork());
    into.spawn(async move {
        while world.pause(dice.between(Duration::from_millis(500), Duration::from_secs(2))).await {
            lose_a_right(&world, &mut dice).await;
        }
    });
}

/// Both ends of a stream.
struct Talk {
    questions: UnboundedSender<proto::ValidateStreamRequest>,
    answers: Streaming<proto::ValidateStreamResponse>,
}

impl Talk {
    async fn open(mut client: Client) -> Result<Self, Status> {
        let (questions, asked) = unbounded_channel();
        let opening = client.validate_stream(UnboundedReceiverStream::new(asked));
        let answers =
            timeout(PATIENCE, opening).await.map_err(|_| Status::cancelled("no patience left"))??.into_inner();
        Ok(Self { questions, answers })
    }

    /// Fails if the stream has ended; then what comes next says why.
    fn ask(&self, sequence: u64, request: proto::ValidateRequest) -> Option<()> {
        self.questions.send(proto::ValidateStreamRequest { sequence, request: Some(request) }).ok()
    }

    async fn next(&mut self) -> Result<(u64, Result<proto::ValidateResponse, Status>), Status> {
        let next = timeout(PATIENCE, self.answers.message()).await;
        let answer = next.map_err(|_| Status::cancelled("no patience left"))??;
        let answer = answer.ok_or_else(|| Status::cancelled("the stream ended"))?;
        let said = match answer.outcome {
            Some(Outcome::Response(response)) => Ok(response),
            Some(Outcome::Error(error)) => {
                let (code, details) = (Code::from(error.code), error.encode_to_vec().into());
                Err(Status::with_details(code, error.message, details))
            }
            None => Err(Status::internal("an answer that says nothing")),
        };
        Ok((answer.sequence, said))
    }
}

/// Asks on one stream until it ends, or the run does.
async fn converse(world: &World, member: &Member, dice: &mut Dice) {
    let Some(clients) = member.clients() else { return };
    let start = world.clock.now();
    let ended = match Talk::open(clients.deciding).await {
        Ok(talk) => ask_on(world, member, talk, dice).await,
        Err(status) => Some(status),
    };
    if let Some(status) = ended {
        world.undecided(member, "(a stream)", "ValidateStream", start, &status);
    }
}

async fn ask_on(world: &World, member: &Member, mut talk: Talk, dice: &mut Dice) -> Option<Status> {
    let mut outstanding: HashMap<u64, Asked> = HashMap::new();
    let mut next = 0;
    let mut ticks = interval(PACE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !world.is_over() {
        while outstanding.len() < OUTSTANDING {
            let Some(asked) = question(world, member, dice) else { break };
            if talk.ask(next, asked.question.clone()).is_none() {
                break;
            }
            outstanding.insert(next, asked);
            next += 1;
        }
        let (sequence, said) = match talk.next().await {
            Ok(answer) => answer,
            Err(status) => return Some(status),
        };
        world.tally.count(Operation::ValidateStreamed);
        if let Some(asked) = outstanding.remove(&sequence) {
            world.conclude(member, &asked, said);
        } else {
            let story = format!("replica {}: an answer to {sequence}, which nobody asked", member.number);
            world.tally.found(Violation { rule: Rule::UnexpectedAnswer, when: world.clock.now(), story });
        }
        ticks.tick().await;
    }
    None
}

fn question(world: &World, member: &Member, dice: &mut Dice) -> Option<Asked> {
    let group = match dice.below(100) {
        0..50 => Group::Focus,
        50..85 => Group::Ended,
        _ => Group::Warm,
    };
    let key = world.keys.pick(group, dice).or_else(|| world.keys.pick(Group::Warm, dice))?;
    let how = if dice.one_in(20) { How::Forged } else { How::Plainly };
    world.begin_to_ask(member, &key, how, dice)
}

/// A caller opens a stream to each replica and loses its key; whatever it asks then must not be decided.
async fn lose_a_right(world: &Arc<World>, dice: &mut Dice) {
    let scopes = ["claviger:validate", "claviger:all-merchants"].map(str::to_owned).to_vec();
    let Some(caller) = lives::create_as(world, proto::ApiKey { scopes, ..new_key("a caller") }, dice).await else {
        return;
    };
    let text = caller.secret(dice).1;
    let Some(warm) = world.keys.pick(Group::Warm, dice) else { return };
    let request = proto::ValidateRequest { key: warm.secret(dice).1, ..Default::default() };
    let mut talks = Vec::new();
    for member in &world.fleet {
        let Some(clients) = member.clients() else { continue };
        // In trouble it may not even open.
        if let Ok(mut talk) = Talk::open(client::connect(clients.address, &text, PATIENCE)).await
            && talk.ask(0, request.clone()).is_some()
            && let Ok((_, Ok(answer))) = talk.next().await
            && answer.valid
        {
            talks.push((member, talk));
        }
    }
    lives::delete(world, &caller, dice).await;
    for (member, mut talk) in talks {
        let start = world.clock.now();
        if !world.is_over()
            && talk.ask(1, request.clone()).is_some()
            && let Ok((_, Ok(answer))) = talk.next().await
        {
            let code = answer.code().as_str_name();
            let story = format!("replica {} from {start}: {code} for {}, which was deleted", member.number, caller.id);
            world.tally.found(Violation { rule: Rule::CallerOutlivesItsRight, when: world.clock.now(), story });
        }
    }
}
