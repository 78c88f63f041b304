//! Writes that were acknowledged are there after a crash: a few rounds of the crash loop, on every engine.

use sea_orm::ConnectionTrait;

use crate::{
    crash::{
        rounds::{Engine, Loop, Plan, run},
        tables,
    },
    harness::{self, process::BINARY},
};

fn plan(engine: Engine, rounds: u32) -> Plan {
    // Another seed each time: what is found is told with the changes that led to it.
    Plan { executable: BINARY.into(), engine, rounds, seed: u64::from(std::process::id()) }
}

fn nothing_is_lost(engine: Engine, rounds: u32) {
    harness::run(async {
        let report = run(&plan(engine, rounds), |_| {}).await.unwrap();
        assert!(report.losses.is_empty(), "{report}\n{}", report.losses.join("\n"));
        assert!(report.acknowledged > u64::from(rounds) && report.interrupted > 0, "nothing was tried: {report}");
    });
}

#[test]
fn what_was_acknowledged_outlives_a_kill_on_sqlite() {
    nothing_is_lost(Engine::Sqlite, 24);
}

#[test]
fn what_was_acknowledged_outlives_a_kill_of_service_and_database_on_postgres() {
    if harness::postgres::Postgres::shared().is_some() {
        nothing_is_lost(Engine::Postgres, 8);
    }
}

/// What the loop has to find when it was done by hand after a round: a statement, and what is told of it.
const DAMAGES: &[(&str, &str)] = &[
    ("DELETE FROM audit_log WHERE seq = (SELECT MAX(seq) FROM audit_log)", "changes without their audit entry"),
    ("UPDATE feed_head SET seq = seq + 1", "numbers that the feed's head has given out"),
    ("UPDATE api_key SET display_name = 'settings 77' WHERE merchant_username = 'crash'", "has half of its settings"),
    ("UPDATE api_key SET disabled = 1 WHERE merchant_username = 'crash'", "is Disabled in place of Valid"),
    ("DELETE FROM completed_request", "gives another key string"),
    ("DELETE FROM change_log WHERE seq = 3", "numbers that the feed's head has given out and the feed does not have"),
    ("UPDATE change_log SET seq = 1000 WHERE seq = 3", "numbers between which the feed has a hole"),
];

#[test]
fn the_loop_finds_what_was_damaged_by_hand() {
    for (damage, told) in DAMAGES {
        harness::run(async {
            let mut round = Loop::new(&plan(Engine::Sqlite, 1)).await.unwrap();
            // A round may be over before the first answer.
            while round.acknowledged() < 12 {
                round.round(1).await.unwrap();
            }
            assert_eq!(round.losses(), [""; 0]);
            let database = tables::connect(round.url()).await.unwrap();
            database.execute_unprepared(damage).await.unwrap();
            if damage.contains("seq = 3") {
                let (losses, _) = tables::acknowledged(&database, 0, &[]).await.unwrap();
                assert_eq!(losses, ["the feed has 4 in place of 3"]);
            }
            database.close().await.unwrap();
            round.finish().await.unwrap();
            let losses = round.losses().join("\n");
            assert!(losses.contains(told), "{damage}: {losses}");
        });
    }
}
