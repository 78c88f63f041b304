//! The order of a run: calm for measuring, a storm, a database that is slow, calm again for a last look at everything.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::task::JoinSet;

use super::{
    asking::How,
    fleet::Build,
    history::{Change, Flaw, Outcome as Answered},
    judge::{Answer, Rule},
    keys::Group,
    lives, measures,
    report::Report,
    scenes,
    storm::{self, Storm},
    streams,
    tally::Violation,
    validators::{self, About},
    world::World,
};
use crate::rig::{Dice, Outcome, pace};

/// What to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Knows the command `serve`.
    pub executable: PathBuf,
    pub replicas: usize,
    /// How long the storm lasts.
    pub storm: Duration,
    /// With a standby that is promoted, and restarts.
    pub with_standby: bool,
    /// How long to measure before the storm; none: not at all.
    pub calm: Option<Duration>,
    /// How long the database is slow after the storm; none: not at all.
    pub slow: Option<Duration>,
    /// Validates a second, at most.
    pub rate: u32,
    /// How many keys live at once.
    pub lives: u32,
    pub seed: u64,
}

/// How long it takes at most until everything is as it should be once all trouble has ended.
const SETTLED_AFTER: Duration = Duration::from_secs(20);

/// Runs it.
///
/// # Errors
/// If the checker itself does not work; violations are in the report.
pub async fn run(plan: &Plan, mut progress: impl FnMut(&str)) -> Outcome<Report> {
    let mut dice = Dice::new(plan.seed);
    let build = Build { executable: plan.executable.clone(), bug: None, calm: plan.calm.is_some() };
    progress("starting");
    let world = World::start(&build, plan.replicas, plan.with_standby).await?;
    world.make_warm_keys().await?;
    let mut report = Report::default();
    if let Some(time) = plan.calm {
        progress("calm: measuring");
        report.costs.push(("idle", measures::cost(&world, time / 6).await));
        report.warm = measures::warm_reads(&world, time / 6, &mut dice).await;
        report.revocations = measures::revocations(&world, time / 2, &mut dice).await;
        report.costs.push(("under load", loaded(&world, plan, time / 6, &mut dice).await));
        for member in &world.fleet {
            member.rebuild(false).await?;
        }
    }
    progress("storm");
    storm(&world, plan, plan.storm, &mut dice).await?;
    if let Some(time) = plan.slow {
        progress("the database is slow");
        // What is measured is the service, and not the delays in its races.
        for member in &world.fleet {
            member.rebuild(true).await?;
        }
        for key in world.keys.all(Group::Warm) {
            world.ask_all(&key, &How::Plainly, 1, &mut dice).await;
        }
        report.fresh_again = Some(measures::slow_database(&world, time, plan.rate, &mut dice).await);
    }
    progress("a last look");
    last_look(&world, &mut dice).await?;
    report.count(&world);
    Ok(report)
}

async fn loaded(world: &Arc<World>, plan: &Plan, time: Duration, dice: &mut Dice) -> measures::Cost {
    let mut load = JoinSet::new();
    validators::spawn(&mut load, world, About::WarmKeys, plan.rate, dice);
    let cost = measures::cost(world, time).await;
    world.end();
    load.join_all().await;
    world.begin();
    cost
}

/// Lets everything loose at once for `time`, or until something is found wrong with the checker.
///
/// # Errors
/// What is wrong with the checker.
pub async fn storm(world: &Arc<World>, plan: &Plan, time: Duration, dice: &mut Dice) -> Outcome<()> {
    let mut all = JoinSet::new();
    unleash(&mut all, world, plan, time, dice);
    world.pause(time).await;
    world.end();
    all.join_all().await;
    world.begin();
    match world.trouble() {
        Some(trouble) => Err(trouble),
        None => Ok(()),
    }
}

/// Begins what a storm is made of.
pub fn unleash(all: &mut JoinSet<()>, world: &Arc<World>, plan: &Plan, time: Duration, dice: &mut Dice) {
    let weather = Storm {
        restart_every: plan.with_standby.then_some(Duration::from_secs(22)),
        promote_every: plan.with_standby.then(|| (time / 6).max(Duration::from_secs(45))),
    };
    validators::spawn(all, world, About::Everything, plan.rate, dice);
    streams::spawn(all, world, dice);
    lives::spawn(all, world, plan.lives, dice);
    storm::spawn(all, world, weather, dice);
    scenes::spawn(all, world, dice);
}

/// Ends all trouble, and asks every replica about every key: each has to be what it was last made.
async fn last_look(world: &Arc<World>, dice: &mut Dice) -> Outcome<()> {
    for member in &world.fleet {
        member.proxy.speak();
        member.proxy.make_late(Duration::ZERO);
        let _ = std::fs::remove_file(member.freeze_file());
        member.tend().await?;
    }
    let keys = [Group::Warm, Group::Live, Group::Focus, Group::Ended].map(|group| world.keys.all(group)).concat();
    for member in &world.fleet {
        let settled = || async {
            let key = world.keys.pick(Group::Warm, &mut Dice::new(1))?;
            world.ask(member, &key, How::Plainly, &mut Dice::new(1)).await.filter(|answer| *answer == Answer::Valid)
        };
        if let Err(story) = pace::until("a replica is itself again", SETTLED_AFTER, settled).await {
            let story = format!("replica {}: {story}", member.number);
            world.tally.found(Violation { rule: Rule::WrongAtTheEnd, when: world.clock.now(), story });
        }
        for key in &keys {
            let wanted = wanted(&key.history.lock().expect("nobody panics here").acts);
            let answer = world.ask(member, key, How::Plainly, dice).await;
            if wanted.is_some() && answer != wanted {
                let story = format!("replica {} on {}: {answer:?} in place of {wanted:?}", member.number, key.id);
                world.tally.found(Violation { rule: Rule::WrongAtTheEnd, when: world.clock.now(), story });
            }
        }
    }
    Ok(())
}

/// What has to be said of a key on which nothing is open: it is untouched, or deleted.
fn wanted(acts: &[super::history::Act]) -> Option<Answer> {
    match acts.last() {
        None => Some(Answer::Valid),
        Some(act) if act.change == Change::Delete && matches!(act.outcome, Answered::Done { enforced: true, .. }) => {
            Some(Answer::Flawed(Flaw::Deleted))
        }
        Some(_) => None,
    }
}
