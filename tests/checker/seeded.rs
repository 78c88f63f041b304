//! Showing that the checker works: builds with one bug each, in the very storm in which the clean build finds nothing.

use std::{
    fmt,
    time::{Duration, Instant},
};

use claviger::seeded::Bug;
use tokio::task::JoinSet;

use super::{
    fleet::Build,
    phases::{self, Plan},
    tally::Violation,
    world::World,
};
use crate::rig::{Dice, Outcome};

/// How long a bug may stay hidden.
pub const CAUGHT_WITHIN: Duration = Duration::from_secs(60);

/// What became of one build.
pub struct Hunt {
    /// None: the clean one.
    pub bug: Option<Bug>,
    pub took: Duration,
    /// None: nothing was.
    pub caught: Option<Violation>,
    /// What was done meanwhile.
    pub tally: String,
}

/// Lets the storm loose on replicas with this bug, or none, until something is caught, or for as long as it may take.
///
/// # Errors
/// If the checker itself does not work.
pub async fn hunt(plan: &Plan, bug: Option<Bug>) -> Outcome<Hunt> {
    let mut dice = Dice::new(plan.seed);
    let build = Build { executable: plan.executable.clone(), bug: bug.map(|bug| bug.name().to_owned()), calm: false };
    let world = World::start(&build, plan.replicas, plan.with_standby).await?;
    world.make_warm_keys().await?;
    let begun = Instant::now();
    let mut all = JoinSet::new();
    phases::unleash(&mut all, &world, plan, plan.storm, &mut dice);
    let caught = tokio::time::timeout(CAUGHT_WITHIN, world.tally.until_found()).await.ok();
    let took = begun.elapsed();
    world.end();
    all.abort_all();
    while all.join_next().await.is_some() {}
    match world.trouble() {
        Some(trouble) => Err(trouble),
        None => Ok(Hunt { bug, took, caught, tally: world.tally.to_string() }),
    }
}

impl fmt::Display for Hunt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.bug.map_or("(the clean build)", Bug::name);
        let seconds = self.took.as_secs_f64();
        match &self.caught {
            Some(violation) => write!(f, "{name:<30} caught after {seconds:>5.1} s by {:?}", violation.rule),
            None => write!(f, "{name:<30} nothing found in {seconds:.0} s\n{}", self.tally),
        }
    }
}
