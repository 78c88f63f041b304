//! Trouble that chance would seldom arrange, arranged: a writer that freezes with a number in its hand, and a new epoch
//! in the middle of deletions of keys that nobody remembers yet.

use std::{sync::Arc, time::Duration};

use sea_orm::{ConnectionTrait, DatabaseConnection};
use tokio::task::JoinSet;

use super::{
    asking::How,
    history::Change,
    judge::Rule,
    keys::{Group, Key},
    lives,
    process::is_frozen,
    tally::{Fault, Violation},
    world::World,
};
use crate::rig::{Dice, Outcome, doing, pace};

/// How long a Delete may take while another replica is frozen.
const DELETE_WITHIN: Duration = Duration::from_secs(10);
/// How long a replica is given to freeze; it may be cut off from the database, and then it does not get that far.
const FREEZES_WITHIN: Duration = Duration::from_secs(2);
/// How many keys end together with an epoch.
const ENDING_TOGETHER: usize = 4;
/// For how long they wait for their numbers at most.
const LONGEST_WAIT: Duration = Duration::from_millis(60);
/// For so long such scenes are played, and for so long they are not.
const STRETCH: Duration = Duration::from_secs(20);
/// How many such scenes are played at once.
const AT_ONCE: usize = 4;
/// How often each replica is asked about each of them.
const ASKED_TOGETHER: usize = 12;

/// Plays both scenes again and again until the run is over.
pub fn spawn(into: &mut JoinSet<()>, world: &Arc<World>, dice: &mut Dice) {
    let (one, mut own) = (Arc::clone(world), dice.fork());
    into.spawn(async move {
        while one.pause(own.between(Duration::from_secs(25), Duration::from_secs(45))).await {
            frozen_writer(&one, &mut own).await.unwrap_or_else(|error| one.fail(error));
        }
    });
    let (one, mut own) = (Arc::clone(world), dice.fork());
    into.spawn(async move {
        // One does not wait for the other: its deletions may take long.
        let mut playing = JoinSet::new();
        let begun = one.clock.now();
        while one.pause(own.between(Duration::from_millis(2_200), Duration::from_millis(3_400))).await {
            while playing.try_join_next().is_some() {}
            // In every second stretch of time the history keeps its name, so that what is only true of one can be seen.
            let stretch = one.clock.now().since(begun).as_secs() / STRETCH.as_secs();
            if playing.len() < AT_ONCE && stretch.is_multiple_of(2) {
                let (world, mut dice) = (Arc::clone(&one), own.fork());
                playing.spawn(async move { new_epoch(&world, &mut dice).await });
            }
        }
        playing.join_all().await;
    });
}

/// One replica takes a number and freezes; a Delete by another one has to succeed all the same.
async fn frozen_writer(world: &Arc<World>, dice: &mut Dice) -> Outcome<()> {
    let frozen = dice.index(world.fleet.len());
    let other = (frozen + 1) % world.fleet.len();
    let (frozen, other) = (&world.fleet[frozen], &world.fleet[other]);
    // The other one has no trouble of its own: nobody else kills or freezes these two meanwhile, and the database stays.
    let _wire = other.wire.lock().await;
    let (running, _others, _database) =
        (frozen.running.lock().await, other.running.lock().await, world.cluster.read().await);
    let Some(replica) = running.as_ref() else { return Ok(()) };
    let (Some(victim), Some(doomed)) = (lives::create(world, dice).await, lives::create(world, dice).await) else {
        return Ok(());
    };
    std::fs::write(frozen.freeze_file(), "").map_err(doing("arming the freeze"))?;
    let writing = tokio::spawn({
        let (world, frozen) = (Arc::clone(world), frozen.number);
        async move { lives::ask_of(&world, &world.fleet[frozen], &victim, Change::Disable, true).await }
    });
    let freezes = || async { is_frozen(replica.pid()).then_some(()) };
    if pace::until("a writer freezes", FREEZES_WITHIN, freezes).await.is_ok() {
        world.tally.befell(Fault::WriterFrozen);
        let begun = world.clock.now();
        let mut answered = lives::ask_of(world, other, &doomed, Change::Delete, false).await;
        // What is not answered is asked again; it may have been done all the same.
        while answered.is_none() && world.clock.now().since(begun) < DELETE_WITHIN && !world.is_over() {
            pace::pause(Duration::from_millis(50)).await;
            answered = lives::ask_of(world, other, &doomed, Change::Delete, false).await;
        }
        let took = world.clock.now().since(begun);
        if took > DELETE_WITHIN {
            let story = format!("replica {} needed {took:?} while replica {} was frozen", other.number, frozen.number);
            world.tally.found(Violation { rule: Rule::DeleteHeldUp, when: world.clock.now(), story });
        }
        replica.signal("CONT")?;
    }
    // Fails if the replica has taken it already.
    let _ = std::fs::remove_file(frozen.freeze_file());
    drop(running);
    let _ = writing.await;
    Ok(())
}

/// Keys that no replica remembers are asked about, deleted, and the history gets another name, in this order and within
/// some milliseconds: what was read before the deletions comes to memory after everything was dropped.
async fn new_epoch(world: &Arc<World>, dice: &mut Dice) {
    let mut creating = JoinSet::new();
    for _ in 0..ENDING_TOGETHER {
        let (world, mut dice) = (Arc::clone(world), dice.fork());
        creating.spawn(async move { lives::create(&world, &mut dice).await });
    }
    let keys: Vec<Arc<Key>> = creating.join_all().await.into_iter().flatten().collect();
    let mut going_on = JoinSet::new();
    // It fails while the database is restarted or promoted; then the keys end without a new epoch.
    let renaming = Renaming::begin(world).await;
    for key in &keys {
        let (world, key, mut dice) = (Arc::clone(world), Arc::clone(key), dice.fork());
        going_on.spawn(async move { delete_waiting(&world, &key, &mut dice).await });
    }
    if let Ok(renaming) = renaming {
        // Until the deletions wait for their numbers.
        pace::pause(world.commits_take().min(LONGEST_WAIT)).await;
        let mut asking = JoinSet::new();
        for key in &keys {
            for member in (0..world.fleet.len()).cycle().take(world.fleet.len() * ASKED_TOGETHER) {
                let (world, key, mut dice) = (Arc::clone(world), Arc::clone(key), dice.fork());
                asking.spawn(async move {
                    world.ask(&world.fleet[member], &key, How::Plainly, &mut dice).await;
                });
            }
        }
        // Until some are answered: then most have read, and some of them have not kept what they read.
        let left = asking.len() * 3 / 4;
        let some = async { while asking.len() > left && asking.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(LONGEST_WAIT, some).await;
        world.renames();
        if renaming.finish(dice).await.is_ok() {
            world.tally.befell(Fault::NewEpoch);
        }
        asking.join_all().await;
    }
    going_on.join_all().await;
    for key in &keys {
        world.keys.add(Group::Ended, key);
    }
    world.pause(Duration::from_millis(1_500)).await;
    for key in &keys {
        world.keys.remove(Group::Ended, key);
    }
}

/// Deletes a key, waiting for enforcement, so that nobody asks about it before; then every replica is asked at once.
async fn delete_waiting(world: &World, key: &Key, dice: &mut Dice) {
    while !world.is_over() {
        let member = world.any_for_changes(dice);
        if lives::ask_of(world, member, key, Change::Delete, false).await.is_some_and(|acted| acted.enforced) {
            return world.ask_all(key, &How::Plainly, 2, dice).await;
        }
        pace::pause(Duration::from_millis(20)).await;
    }
}

/// A new name for the history, which waits behind those who wait for a number.
struct Renaming {
    /// Holds the head of the feed.
    holder: DatabaseConnection,
    renamer: DatabaseConnection,
}

impl Renaming {
    /// Takes the head of the feed, so that all who want a number wait.
    async fn begin(world: &World) -> Outcome<Self> {
        let cluster = world.cluster.try_read().map_err(doing("reaching the database"))?;
        let (holder, renamer) = (cluster.connect(&world.database).await?, cluster.connect(&world.database).await?);
        execute(&holder, "BEGIN; SET LOCAL lock_timeout = '2s'").await?;
        execute(&holder, "SELECT seq FROM feed_head FOR UPDATE").await?;
        Ok(Self { holder, renamer })
    }

    /// Lets those who wait go on, and renames the history after them, as `claviger feed new-epoch` does.
    async fn finish(self, dice: &mut Dice) -> Outcome<()> {
        let rename = format!("UPDATE feed_head SET epoch = '{:022}'", dice.bits());
        let go_on = async {
            // Once the renamer stands in line.
            pace::pause(Duration::from_millis(2)).await;
            execute(&self.holder, "COMMIT").await
        };
        let (renamed, went_on) = tokio::join!(execute(&self.renamer, &rename), go_on);
        renamed.and(went_on)
    }
}

async fn execute(database: &DatabaseConnection, statement: &str) -> Outcome<()> {
    database.execute_unprepared(statement).await.map(drop).map_err(doing(statement))
}
