//! Trouble that chance would seldom arrange, arranged: a writer that freezes with a number in its hand, and a change by
//! hand with a new epoch, while the keys in question are being read.

use std::{sync::Arc, time::Duration};

use claviger::domain::KeyId;
use sea_orm::{ConnectionTrait, DatabaseConnection};
use tokio::task::JoinSet;

use super::{
    asking::How,
    history::Change,
    judge::Rule,
    keys::Key,
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
/// How many keys are disabled by hand together.
const DISABLED_TOGETHER: usize = 8;
/// How often one is asked about each of them at once.
const ASKED_TOGETHER: usize = 20;
/// When a change by hand is taken for enforced: the wait that the database holds, and some.
const ENFORCED_AFTER: Duration = Duration::from_millis(1_200);
/// For so long such scenes are played, and for so long they are not.
const STRETCH: Duration = Duration::from_secs(9);
/// How long the operator waits for the first answers before the commit.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

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
        // Where there is trouble, it may take long until a key is made or deleted; nothing here waits for one of them.
        let (mut making, mut ending) = (JoinSet::new(), JoinSet::new());
        let begun = one.clock.now();
        while one.pause(own.between(Duration::from_millis(300), Duration::from_millis(900))).await {
            // In every third stretch of time the history keeps its name, so that what is only true of one can be seen.
            let stretch = one.clock.now().since(begun).as_secs() / STRETCH.as_secs();
            if !stretch.is_multiple_of(3) {
                // One after the other: what is dropped for the next one would cover up what the last one left.
                while making.len() < 3 * DISABLED_TOGETHER {
                    let (world, mut dice) = (Arc::clone(&one), own.fork());
                    making.spawn(async move { lives::create(&world, &mut dice).await });
                }
                let mut keys = Vec::new();
                while keys.len() < DISABLED_TOGETHER
                    && let Some(made) = making.join_next().await
                {
                    keys.extend(made.ok().flatten());
                }
                new_epoch(&one, &keys, &mut own).await;
                for key in keys {
                    let (world, mut dice) = (Arc::clone(&one), own.fork());
                    ending.spawn(async move { lives::delete(&world, &key, &mut dice).await });
                }
            }
            while ending.try_join_next().is_some() {}
        }
        making.join_all().await;
        ending.join_all().await;
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

/// Keys that a replica does not remember are asked about; in that moment an operator disables them by hand and gives the
/// history another name, so that everything is dropped while it is being read. As `claviger feed new-epoch` does, the
/// operator takes it for enforced when the wait has passed.
async fn new_epoch(world: &Arc<World>, keys: &[Arc<Key>], dice: &mut Dice) {
    let number = dice.index(world.fleet.len());
    let asked = &world.fleet[number];
    // It has no trouble of its own meanwhile: whoever loses its lease reads anew, and that covers up what it kept.
    let (_wire, _running) = (asked.wire.lock().await, asked.running.lock().await);
    // It fails while the database is restarted or promoted; then the keys only end.
    let Ok(operator) = begin_by_hand(world, keys, dice).await else { return };
    let mut asking = JoinSet::new();
    for key in keys {
        for _ in 0..ASKED_TOGETHER {
            let (world, key, mut dice) = (Arc::clone(world), Arc::clone(key), dice.fork());
            asking.spawn(async move {
                world.ask(&world.fleet[number], &key, How::Plainly, &mut dice).await;
            });
        }
    }
    // Until some are answered: then most have read, and some of those have not kept what they read.
    let left = asking.len() * 3 / 4;
    let some = async { while asking.len() > left && asking.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LONGEST_WAIT, some).await;
    world.renames();
    let acts: Vec<usize> = keys.iter().map(|key| key.begin(Change::Disable, world.clock.now())).collect();
    if execute(&operator, "COMMIT").await.is_ok() {
        world.tally.befell(Fault::NewEpoch);
        let enforced = world.clock.now().after(ENFORCED_AFTER);
        for (key, act) in keys.iter().zip(acts) {
            key.end(act, enforced, true, "");
        }
        world.pause(ENFORCED_AFTER).await;
        for key in keys {
            world.ask(asked, key, How::Plainly, dice).await;
        }
    }
    asking.join_all().await;
}

/// Disables the keys and renames the history, in a transaction of an operator's own that is not committed yet.
async fn begin_by_hand(world: &World, keys: &[Arc<Key>], dice: &mut Dice) -> Outcome<DatabaseConnection> {
    let cluster = world.cluster.try_read().map_err(doing("reaching the database"))?;
    let operator = cluster.connect(&world.database).await?;
    let mut ids = Vec::new();
    for key in keys {
        let id: KeyId = key.id.parse()?;
        let digits = id.as_bytes().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        ids.push(format!("'\\x{digits}'"));
    }
    execute(&operator, "BEGIN; SET LOCAL lock_timeout = '2s'").await?;
    let disable = format!("UPDATE api_key SET disabled = true, version = version + 1 WHERE id IN ({})", ids.join(", "));
    execute(&operator, &disable).await?;
    execute(&operator, &format!("UPDATE feed_head SET epoch = '{:022}'", dice.bits())).await?;
    Ok(operator)
}

async fn execute(database: &DatabaseConnection, statement: &str) -> Outcome<()> {
    database.execute_unprepared(statement).await.map(drop).map_err(doing(statement))
}
