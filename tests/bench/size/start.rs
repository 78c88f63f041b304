//! From the start of the real binary until its health service says that it serves, with the embedded database: in a
//! folder that is new, where the root secret, the database and the administrator's key are made, and in one that is not.

use std::{path::Path, time::Instant};

use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    figures::{all, median},
    harness::process::{Program, eventually},
};

const ROUNDS: usize = 7;

/// Milliseconds of each start.
pub struct Starts {
    fresh: Vec<f64>,
    existing: Vec<f64>,
}

/// Starts in a new folder, and once more in the same, in turns.
pub async fn measure() -> Starts {
    let mut starts = Starts { fresh: Vec::new(), existing: Vec::new() };
    for round in 0..=ROUNDS {
        let folder = tempfile::tempdir().unwrap();
        let (fresh, existing) = (start(folder.path()).await, start(folder.path()).await);
        // The first one reads the binary from the disk.
        if round > 0 {
            starts.fresh.push(fresh);
            starts.existing.push(existing);
        }
    }
    println!("start to serving, ms, folder is new      {}", all(&starts.fresh, 1));
    println!("start to serving, ms, folder is there    {}", all(&starts.existing, 1));
    starts
}

async fn start(folder: &Path) -> f64 {
    let began = Instant::now();
    let running = Program::new(folder).args(&["serve"]).begin();
    let serving = tokio::task::block_in_place(|| running.until_serving());
    let health = HealthClient::new(serving.channel());
    eventually("it says that it serves", || async {
        let answer = health.clone().check(HealthCheckRequest { service: String::new() }).await.ok()?;
        (answer.into_inner().status() == ServingStatus::Serving).then_some(())
    })
    .await;
    let took = began.elapsed().as_secs_f64() * 1e3;
    let ended = tokio::task::block_in_place(|| serving.stop());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    took
}

impl Starts {
    pub fn tell(self) {
        let (fresh, existing) = (median(self.fresh), median(self.existing));
        println!("start_fresh_ms: {fresh:.1}");
        println!("start_existing_ms: {existing:.1}");
        println!("start_ms: {:.1}", fresh.max(existing));
    }
}
