//! What is measured without faults: how soon a revocation is everywhere, what a warm validation reads, what a replica
//! costs; and how soon replicas are themselves again after the database was slow.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{
    asking::How,
    history::{Change, Flaw},
    judge::Answer,
    keys::Group,
    lives,
    process::{Usage, usage},
    validators::{self, About},
    world::World,
};
use crate::rig::{Dice, pace};

/// How many deletions are measured at once.
const MEASURED_AT_ONCE: usize = 6;
/// How often a replica is asked whether it refuses yet.
const ASKED_EVERY: Duration = Duration::from_millis(4);
/// A revocation that takes so long is given up; it counts as that long.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(5);
/// How slow a slow database is.
const SLOW_BY: Duration = Duration::from_millis(1_500);
/// How many keys live at once while it is slow.
const LIVES_IN_SLOWNESS: u32 = 20;
/// After the database was slow, replicas are watched for so long.
const WATCHED_FOR: Duration = Duration::from_secs(10);

/// The time from when a Delete was asked for until the last replica refused, for each Delete. The commit lies a few
/// milliseconds after the beginning, so the measure is on the safe side.
pub async fn revocations(world: &Arc<World>, time: Duration, dice: &mut Dice) -> Vec<Duration> {
    let end = world.clock.now().after(time);
    let mut measuring = JoinSet::new();
    for _ in 0..MEASURED_AT_ONCE {
        let (world, mut dice) = (Arc::clone(world), dice.fork());
        measuring.spawn(async move {
            let mut measured = Vec::new();
            while world.clock.now() < end {
                measured.extend(revocation(&world, &mut dice).await);
            }
            measured
        });
    }
    let mut all = measuring.join_all().await.concat();
    all.sort_unstable();
    all
}

async fn revocation(world: &Arc<World>, dice: &mut Dice) -> Option<Duration> {
    let key = lives::create(world, dice).await?;
    for member in &world.fleet {
        world.ask(member, &key, How::Plainly, dice).await;
    }
    pace::pause(dice.between(Duration::ZERO, Duration::from_millis(200))).await;
    let begun = world.clock.now();
    let deleting = tokio::spawn({
        let (world, key, mut dice) = (Arc::clone(world), Arc::clone(&key), dice.fork());
        async move { lives::act(&world, &key, Change::Delete, &mut dice).await }
    });
    let mut asking = JoinSet::new();
    for member in 0..world.fleet.len() {
        let (world, key, mut dice) = (Arc::clone(world), Arc::clone(&key), dice.fork());
        asking.spawn(async move {
            loop {
                let answer = world.ask(&world.fleet[member], &key, How::Plainly, &mut dice).await;
                let took = world.clock.now().since(begun);
                if answer == Some(Answer::Flawed(Flaw::Deleted)) || took > GIVEN_UP_AFTER {
                    return took;
                }
                pace::pause(ASKED_EVERY).await;
            }
        });
    }
    let last = asking.join_all().await.into_iter().max();
    deleting.await.ok()??;
    last
}

/// What warm validations read, as the wires saw it.
#[derive(Clone, Copy, Debug, Default)]
pub struct WarmReads {
    pub validations: u64,
    pub reads: u64,
}

/// Asks about keys that are remembered, and nothing else, for a while.
pub async fn warm_reads(world: &Arc<World>, time: Duration, dice: &mut Dice) -> WarmReads {
    let keys = world.keys.all(Group::Warm);
    // Once so that each replica remembers each key.
    for member in &world.fleet {
        for key in &keys {
            world.ask(member, key, How::Plainly, dice).await;
        }
    }
    let before: u64 = world.fleet.iter().map(|member| member.proxy.reads()).sum();
    let end = world.clock.now().after(time);
    let mut asking = JoinSet::new();
    for member in 0..world.fleet.len() {
        let (world, keys, mut dice) = (Arc::clone(world), keys.clone(), dice.fork());
        asking.spawn(async move {
            let mut asked = 0;
            while world.clock.now() < end {
                let key = Arc::clone(dice.pick(&keys));
                asked += u64::from(world.ask(&world.fleet[member], &key, How::Plainly, &mut dice).await.is_some());
            }
            asked
        });
    }
    let validations = asking.join_all().await.into_iter().sum();
    let reads = world.fleet.iter().map(|member| member.proxy.reads()).sum::<u64>() - before;
    WarmReads { validations, reads }
}

/// What each replica used of the processors and of memory in a while.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// In hundredths of one processor, by replica.
    pub processor_percent: Vec<u128>,
    /// In kilobytes, by replica.
    pub memory_kb: Vec<u64>,
}

/// Looks what the replicas cost while `time` passes.
pub async fn cost(world: &World, time: Duration) -> Cost {
    let all = || world.fleet.iter().map(|member| usage(member.pid())).collect::<Vec<Usage>>();
    let (before, begun) = (all(), world.clock.now());
    pace::pause(time).await;
    let (after, took) = (all(), world.clock.now().since(begun));
    let used = before.iter().zip(&after).map(|(before, after)| after.processor.saturating_sub(before.processor));
    Cost {
        processor_percent: used.map(|used| used.as_micros() * 100 / took.as_micros().max(1)).collect(),
        memory_kb: after.iter().map(|usage| usage.memory_kb).collect(),
    }
}

/// Makes every answer of the database 1.5 s late for `time`, at so many calls a second, and says how long after its end
/// the last replica was itself again: keys that it knew are valid on it, without a pause and without a read.
pub async fn slow_database(world: &Arc<World>, time: Duration, rate: u32, dice: &mut Dice) -> Duration {
    let mut load = JoinSet::new();
    validators::spawn(&mut load, world, About::Everything, rate, dice);
    lives::spawn(&mut load, world, LIVES_IN_SLOWNESS, dice);
    for member in &world.fleet {
        member.proxy.make_late(SLOW_BY);
    }
    pace::pause(time).await;
    // From here on nothing is asked that would have to be read, so that each read tells of memory that is not believed.
    load.abort_all();
    while load.join_next().await.is_some() {}
    validators::spawn(&mut load, world, About::WarmKeys, rate, dice);
    for member in &world.fleet {
        member.proxy.make_late(Duration::ZERO);
    }
    let ended = world.clock.now();
    let keys = world.keys.all(Group::Warm);
    let mut watching = JoinSet::new();
    for member in 0..world.fleet.len() {
        let (world, keys, mut dice) = (Arc::clone(world), keys.clone(), dice.fork());
        watching.spawn(async move {
            let (member, mut last_bad) = (&world.fleet[member], Duration::ZERO);
            while world.clock.now().since(ended) < WATCHED_FOR {
                let (key, before) = (Arc::clone(dice.pick(&keys)), member.proxy.reads());
                let answer = world.ask(member, &key, How::Plainly, &mut dice).await;
                pace::pause(ASKED_EVERY).await;
                if answer != Some(Answer::Valid) || member.proxy.reads() != before {
                    last_bad = world.clock.now().since(ended);
                }
            }
            last_bad
        });
    }
    let last_bad = watching.join_all().await.into_iter().max().unwrap_or_default();
    world.end();
    load.join_all().await;
    world.begin();
    last_bad
}
