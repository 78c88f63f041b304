//! A short run of the checker: several replicas of the very binary, faults on every wire, keys that are born and deleted.
//! The long one, with a standby and promotions, is `cargo run --release --features checker --bin checker`.

use std::time::Duration;

use crate::{
    checker::{
        phases::{Plan, run},
        tally::Operation,
    },
    harness::{self, postgres::Postgres, process::BINARY},
};

#[test]
fn nothing_outlives_a_delete_in_a_short_storm() {
    if Postgres::shared().is_none() {
        return;
    }
    harness::run(async {
        let plan = Plan {
            executable: BINARY.into(),
            replicas: 3,
            storm: Duration::from_secs(16),
            with_standby: false,
            calm: None,
            slow: None,
            // Other tests run beside it.
            rate: 400,
            lives: 16,
            // Another seed each time: what is found is told with the history that led to it.
            seed: u64::from(std::process::id()),
        };
        let report = run(&plan, |_| {}).await.unwrap();
        assert!(report.violations.is_empty(), "{report}");
        for operation in [Operation::Validate, Operation::Create, Operation::Delete] {
            assert!(report.counts(operation) > 5, "nothing was tried: {report}");
        }
    });
}
