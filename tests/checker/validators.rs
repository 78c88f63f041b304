//! Those who ask Validate, by the thousand: about keys that something is happening to, or was just over, more than about
//! others, now and then with a secret that nobody issued, or about a key that is not born yet.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use super::{asking::How, keys::Group, world::World};
use crate::rig::Dice;

/// How many ask each replica at once.
const WORKERS: u32 = 32;

/// What they ask about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    Everything,
    /// Only keys that nobody changes.
    WarmKeys,
}

/// Asks all replicas until the run is over, together so many times a second at most.
pub fn spawn(into: &mut JoinSet<()>, world: &Arc<World>, about: About, rate: u32, dice: &mut Dice) {
    let replicas = u32::try_from(world.fleet.len()).unwrap_or(1);
    let pace = Duration::from_secs(1) * WORKERS * replicas / rate.max(1);
    for member in 0..world.fleet.len() {
        for _ in 0..WORKERS {
            into.spawn(work(Arc::clone(world), member, about, pace, dice.fork()));
        }
    }
}

async fn work(world: Arc<World>, member: usize, about: About, pace: Duration, mut dice: Dice) {
    let mut ticks = interval(pace);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while !world.is_over() {
        ticks.tick().await;
        match about {
            About::Everything => one(&world, member, &mut dice).await,
            About::WarmKeys => {
                if let Some(key) = world.keys.pick(Group::Warm, &mut dice) {
                    world.ask(&world.fleet[member], &key, How::Plainly, &mut dice).await;
                }
            }
        }
    }
}

async fn one(world: &World, member: usize, dice: &mut Dice) {
    let asked = &world.fleet[member];
    let share = dice.below(100);
    if share < 6 {
        let maker = world.any_member(dice);
        if let Some(text) = maker.foretell(dice.below(3), &world.deployment) {
            return world.ask_unborn(asked, &text).await;
        }
    }
    let group = match share {
        0..40 => Group::Focus,
        40..75 => Group::Ended,
        75..88 => Group::Live,
        _ => Group::Warm,
    };
    let key = world.keys.pick(group, dice).or_else(|| world.keys.pick(Group::Warm, dice));
    if let Some(key) = key {
        let how = if dice.one_in(20) { How::Forged } else { How::Plainly };
        world.ask(asked, &key, how, dice).await;
    }
}
