//! Trouble at random moments: on each wire, to each replica, to the database.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::task::JoinSet;

use super::{fleet::Member, proxy::Proxy, tally::Fault, world::World};
use crate::rig::{Dice, Outcome, postgres::Stop};

/// What kind of storm.
#[derive(Clone, Copy, Debug)]
pub struct Storm {
    /// How often the database is restarted, if at all.
    pub restart_every: Option<Duration>,
    /// How often the standby is promoted, if at all.
    pub promote_every: Option<Duration>,
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Makes trouble until the run is over, and mends it then.
pub fn spawn(into: &mut JoinSet<()>, world: &Arc<World>, storm: Storm, dice: &mut Dice) {
    for number in 0..world.fleet.len() {
        let (one, mut own) = (Arc::clone(world), dice.fork());
        into.spawn(async move {
            while one.pause(own.between(millis(400), millis(3_200))).await {
                let member = &one.fleet[number];
                let _wire = member.wire.lock().await;
                member.troubles.fetch_add(1, Ordering::Relaxed);
                trouble(&one, member, &mut own).await;
                member.troubles.fetch_sub(1, Ordering::Relaxed);
            }
        });
        let (one, mut own) = (Arc::clone(world), dice.fork());
        into.spawn(async move {
            while one.pause(own.between(millis(1_200), millis(4_000))).await {
                break_connections(&one, &one.fleet[number], &mut own);
            }
        });
        let (one, mut own) = (Arc::clone(world), dice.fork());
        into.spawn(async move {
            while one.pause(own.between(millis(1_500), millis(4_500))).await {
                let member = &one.fleet[number];
                member.troubles.fetch_add(1, Ordering::Relaxed);
                signal(&one, member, &mut own).await.unwrap_or_else(|error| one.fail(error));
                member.troubles.fetch_sub(1, Ordering::Relaxed);
            }
        });
        let one = Arc::clone(world);
        into.spawn(async move {
            while one.pause(millis(100)).await {
                one.fleet[number].tend().await.unwrap_or_else(|error| one.fail(error));
            }
        });
    }
    if let Some(every) = storm.restart_every {
        let (one, mut own) = (Arc::clone(world), dice.fork());
        into.spawn(async move {
            while one.pause(every).await {
                restart(&one, &mut own).await.unwrap_or_else(|error| one.fail(error));
            }
        });
    }
    if let Some(every) = storm.promote_every {
        let one = Arc::clone(world);
        into.spawn(async move {
            while one.pause(every).await {
                promote(&one).await.unwrap_or_else(|error| one.fail(error));
            }
        });
    }
}

/// Trouble on one wire that lasts for a while.
async fn trouble(world: &World, member: &Member, dice: &mut Dice) {
    let (proxy, tally) = (&member.proxy, &world.tally);
    match dice.below(7) {
        0 => {
            tally.befell(Fault::Late);
            proxy.make_late(dice.between(millis(10), millis(160)));
            world.pause(dice.between(millis(400), millis(1_000))).await;
            proxy.make_late(Duration::ZERO);
        }
        1 => silence(world, member, dice).await,
        // Late just before it is silent: what was read long ago arrives last.
        2..=4 => {
            tally.befell(Fault::Late);
            proxy.make_late(dice.between(millis(200), millis(290)));
            world.pause(dice.between(millis(500), millis(900))).await;
            silence(world, member, dice).await;
            proxy.make_late(Duration::ZERO);
        }
        _ => astray(world, member, dice).await,
    }
}

/// Trouble on one wire that is over at once.
fn break_connections(world: &World, member: &Member, dice: &mut Dice) {
    let (fault, breaking): (Fault, fn(&Proxy)) = match dice.below(3) {
        0 => (Fault::Reset, Proxy::reset),
        1 => (Fault::Cut, Proxy::cut),
        _ => (Fault::HalfOpen, Proxy::half_open),
    };
    world.tally.befell(fault);
    breaking(&member.proxy);
}

async fn silence(world: &World, member: &Member, dice: &mut Dice) {
    world.tally.befell(Fault::Silent);
    member.proxy.silence();
    world.pause(dice.between(millis(400), millis(2_500))).await;
    member.proxy.speak();
    // What was held back arrives, or nothing of it ever does.
    if dice.one_in(2) {
        member.proxy.reset();
    }
}

/// Leads the replica to the standby, which shows the past meanwhile.
async fn astray(world: &World, member: &Member, dice: &mut Dice) {
    // While the database is restarted or promoted, there is no standby that could be trusted to lag.
    let Ok(cluster) = world.cluster.try_read() else { return };
    let Some(port) = cluster.standby_port() else { return };
    let Ok(held) = cluster.hold_standby_back().await else { return };
    world.tally.befell(Fault::Astray);
    member.proxy.lead_astray(port, dice.one_in(2));
    world.pause(dice.between(millis(1_600), millis(2_800))).await;
    member.proxy.lead_back();
    cluster.let_standby_go(held).await.unwrap_or_else(|error| world.fail(error));
}

/// Kills one replica, or freezes it for a while.
async fn signal(world: &World, member: &Member, dice: &mut Dice) -> Outcome<()> {
    let mut running = member.running.lock().await;
    if dice.one_in(2) {
        world.tally.befell(Fault::Killed);
        member.kill(&mut running);
        return member.start(&mut running).await;
    }
    let Some(replica) = running.as_ref() else { return Ok(()) };
    if replica.signal("STOP").is_ok() {
        world.tally.befell(Fault::Frozen);
        world.pause(dice.between(millis(200), millis(2_800))).await;
        // It may have been killed by something else.
        let _ = replica.signal("CONT");
    }
    Ok(())
}

async fn restart(world: &World, dice: &mut Dice) -> Outcome<()> {
    let mut cluster = world.cluster.write().await;
    world.tally.befell(Fault::DatabaseRestarted);
    cluster.restart(if dice.one_in(2) { Stop::Fast } else { Stop::Immediate }).await
}

async fn promote(world: &World) -> Outcome<()> {
    let mut cluster = world.cluster.write().await;
    world.tally.befell(Fault::StandbyPromoted);
    cluster.promote().await?;
    for member in &world.fleet {
        member.proxy.move_to(cluster.port());
    }
    cluster.rebuild_standby().await
}
