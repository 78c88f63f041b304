//! The lives of keys: born, perhaps changed, deleted, and asked about for a while after their end.
//!
//! Each life asks one thing after the other, and any replica. What is not answered may have happened; then the key is
//! deleted next, since nothing else about it can be judged any more. A Delete is asked for until it is answered as enforced.

use std::{sync::Arc, time::Duration};

use claviger::grpc::proto;
use tokio::task::JoinSet;
use tonic::Status;

use super::{
    asking::How,
    fleet::Member,
    history::{Change, Secret},
    keys::{Group, Key},
    tally::Operation,
    world::{World, new_key},
};
use crate::rig::{Client, Dice, pace};

/// For how long a key is asked about after its Delete was answered.
const AFTERLIFE: Duration = Duration::from_millis(2_200);

/// What Update, Rotate and Delete answer alike.
struct Answered {
    enforced: bool,
    revision: String,
    key: String,
}

/// An act that was answered.
#[derive(Clone, Debug)]
pub struct Acted {
    /// Its number in the key's history.
    pub number: usize,
    pub enforced: bool,
    pub revision: String,
}

/// Leads so many lives at once until the run is over.
pub fn spawn(into: &mut JoinSet<()>, world: &Arc<World>, at_once: u32, dice: &mut Dice) {
    for _ in 0..at_once {
        let (world, mut dice) = (Arc::clone(world), dice.fork());
        into.spawn(async move {
            // Not all at the same moment.
            world.pause(dice.between(Duration::ZERO, Duration::from_secs(2))).await;
            while !world.is_over() {
                if lead(&world, &mut dice).await.is_none() {
                    world.pause(Duration::from_millis(100)).await;
                }
            }
        });
    }
}

/// One life. None if the key was not even born.
pub async fn lead(world: &Arc<World>, dice: &mut Dice) -> Option<()> {
    let key = create(world, dice).await?;
    // Half of all keys are known everywhere at once; the others are first asked about when their end begins.
    if dice.one_in(2) {
        world.ask_all(&key, &How::Plainly, 1, dice).await;
        world.keys.add(Group::Live, &key);
        world.keys.add(Group::Focus, &key);
        world.pause(dice.between(Duration::ZERO, Duration::from_millis(400))).await;
        change(world, &key, dice).await;
        delete(world, &key, dice).await;
        world.keys.remove(Group::Live, &key);
    } else {
        world.keys.add(Group::Focus, &key);
        let asking = tokio::spawn(ask_meanwhile(Arc::clone(world), Arc::clone(&key), dice.fork()));
        delete(world, &key, dice).await;
        // It is not waited for by itself: whoever asks is answered or not, in bounded time.
        let _ = asking.await;
    }
    world.keys.remove(Group::Focus, &key);
    world.keys.add(Group::Ended, &key);
    world.pause(AFTERLIFE).await;
    world.keys.remove(Group::Ended, &key);
    Some(())
}

/// Asks all replicas about a key that none of them knows, each at about the moment in which its Delete is committed.
pub async fn ask_meanwhile(world: Arc<World>, key: Arc<Key>, mut dice: Dice) {
    let longest = world.commits_take() * 3 / 2;
    let mut asking = Vec::new();
    for member in &world.fleet {
        let (world, key, mut dice) = (&world, &key, dice.fork());
        asking.push(async move {
            pace::pause(dice.between(Duration::ZERO, longest)).await;
            let mut three = Vec::new();
            for _ in 0..3 {
                let mut dice = dice.fork();
                three.push(async move { world.ask(member, key, How::Plainly, &mut dice).await });
            }
            futures_util::future::join_all(three).await;
        });
    }
    futures_util::future::join_all(asking).await;
}

/// Asks for a key until it is there, with the same `request_id`, so that it is one key.
pub async fn create(world: &World, dice: &mut Dice) -> Option<Arc<Key>> {
    create_as(world, new_key("a life"), dice).await
}

/// The same, for a key with these settings.
pub async fn create_as(world: &World, api_key: proto::ApiKey, dice: &mut Dice) -> Option<Arc<Key>> {
    let request_id = format!("checker-{:016x}{:016x}", dice.bits(), dice.bits());
    let request = proto::CreateRequest { api_key: Some(api_key), request_id };
    loop {
        let member = world.any_for_changes(dice);
        if let Some(clients) = member.clients() {
            let start = world.clock.now();
            let answer = clients.clone().changing.create(request.clone()).await;
            world.tally.count(Operation::Create);
            match answer {
                Ok(answer) => match world.born(member, answer.into_inner()) {
                    Ok(key) => return Some(key),
                    Err(error) => {
                        world.fail(error);
                        return None;
                    }
                },
                Err(status) => world.undecided(member, "(new)", "Create", start, &status),
            }
        }
        if !world.pause(dice.between(Duration::from_millis(5), Duration::from_millis(100))).await {
            return None;
        }
    }
}

/// Changes the key a few times, as the dice have it, until something is not answered.
async fn change(world: &World, key: &Arc<Key>, dice: &mut Dice) {
    for _ in 0..dice.below(3) {
        let next = key.history.lock().expect("nobody panics here").secrets.len();
        let changes = match dice.below(3) {
            0 => vec![Change::Disable, Change::Enable],
            1 => vec![Change::Narrow, Change::Widen],
            _ => vec![Change::Rotate(next)],
        };
        for change in changes {
            let Some(acted) = act(world, key, change, dice).await else { return };
            look_back(world, key, &acted, dice).await;
            if world.is_over() {
                return;
            }
        }
    }
}

/// Deletes the key: asks until the answer says that it is enforced.
pub async fn delete(world: &World, key: &Arc<Key>, dice: &mut Dice) {
    while !world.is_over() {
        if let Some(acted) = act(world, key, Change::Delete, dice).await {
            look_back(world, key, &acted, dice).await;
            if acted.enforced {
                return;
            }
        }
        world.pause(dice.between(Duration::from_millis(5), Duration::from_millis(100))).await;
    }
}

/// Asks all replicas at once after an answer: for no earlier state, if the act was not waited for.
async fn look_back(world: &World, key: &Arc<Key>, acted: &Acted, dice: &mut Dice) {
    if acted.enforced {
        world.ask_all(key, &How::Plainly, 1, dice).await;
    } else {
        let how = How::AtLeast(acted.number, acted.revision.clone());
        world.ask_all(key, &how, 2, dice).await;
    }
}

/// Asks any replica for one change, one time in three without waiting for its enforcement. None if there was no answer.
pub async fn act(world: &World, key: &Key, change: Change, dice: &mut Dice) -> Option<Acted> {
    let no_wait = dice.one_in(3);
    ask_of(world, world.any_for_changes(dice), key, change, no_wait).await
}

/// Asks this replica for one change.
pub async fn ask_of(world: &World, member: &Member, key: &Key, change: Change, no_wait: bool) -> Option<Acted> {
    let clients = member.clients()?;
    let start = world.clock.now();
    let number = key.begin(change, start);
    let answer = send(clients.changing, key, change, no_wait).await;
    let end = world.clock.now();
    world.tally.count(match change {
        Change::Delete => Operation::Delete,
        Change::Rotate(_) => Operation::Rotate,
        Change::Disable | Change::Enable | Change::Narrow | Change::Widen => Operation::Update,
    });
    match answer {
        Ok(Answered { enforced, revision, key: made }) => {
            if !made.is_empty() {
                member.made(&made);
                key.history.lock().expect("nobody panics here").secrets.push(Secret { key: made, known: end });
            }
            key.end(number, end, enforced, &revision);
            if no_wait {
                world.commit_took(end.since(start));
            }
            Some(Acted { number, enforced, revision })
        }
        Err(status) => {
            world.undecided(member, &key.id, &format!("{change:?}"), start, &status);
            None
        }
    }
}

async fn send(mut client: Client, key: &Key, change: Change, no_wait: bool) -> Result<Answered, Status> {
    let id = key.id.clone();
    let (settings, path) = match change {
        Change::Delete => {
            let request = proto::DeleteRequest { id, no_wait, ..Default::default() };
            let answer = client.delete(request).await?.into_inner();
            return Ok(Answered { enforced: answer.enforced, revision: answer.revision, key: String::new() });
        }
        Change::Rotate(_) => {
            let request = proto::RotateRequest { id, no_wait, ..Default::default() };
            let answer = client.rotate(request).await?.into_inner();
            return Ok(Answered { enforced: answer.enforced, revision: answer.revision, key: answer.key });
        }
        Change::Disable => (proto::ApiKey { id, disabled: true, ..Default::default() }, "disabled"),
        Change::Enable => (proto::ApiKey { id, ..Default::default() }, "disabled"),
        Change::Narrow => {
            (proto::ApiKey { id, allowed_ips: vec!["10.0.0.0/8".to_owned()], ..Default::default() }, "allowed_ips")
        }
        Change::Widen => (proto::ApiKey { id, ..Default::default() }, "allowed_ips"),
    };
    let update_mask = Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
    let request = proto::UpdateRequest { api_key: Some(settings), update_mask, no_wait };
    let answer = client.update(request).await?.into_inner();
    Ok(Answered { enforced: answer.enforced, revision: answer.revision, key: String::new() })
}
