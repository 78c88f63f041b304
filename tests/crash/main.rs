//! `cargo run --release --features checker --bin crash-loop`: acknowledged writes, killed at random, verified.
//!
//! Without arguments it runs 1,000 rounds on SQLite and 200 on PostgreSQL; `--sqlite N`, `--postgres N` and `--seed N`
//! change that. The executable starts itself as the service, so there is nothing else to build. Its last two lines are
//! the figures; it fails if anything was lost.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub,
    dead_code,
    reason = "it is a tool for developers, and shares its rooms with the tests"
)]

#[path = "mod.rs"]
mod crash;
#[path = "../rig/mod.rs"]
mod rig;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use claviger::{cli::serve, config::SettingsArgs};

use crash::rounds::{Engine, Plan};

/// Kills the service in mid-write, again and again, and looks for what it lost.
#[derive(Parser)]
#[command(name = "crash-loop", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    serve: Option<Child>,
    /// Rounds on SQLite
    #[arg(long, default_value_t = 1_000)]
    sqlite: u32,
    /// Rounds on PostgreSQL
    #[arg(long, default_value_t = 200)]
    postgres: u32,
    /// Where the dice begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Subcommand)]
enum Child {
    /// Be the service that is killed
    Serve(Box<SettingsArgs>),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Child::Serve(settings)) = arguments.serve {
        rig::leash::follow();
        // The races are the checker's business; here they would only take time.
        claviger::seeded::delay_races(false);
        return serve::run(*settings).await.into();
    }
    let executable = std::env::current_exe().expect("a program knows where it is");
    let (mut rounds, mut losses) = (0, 0);
    for (engine, wanted) in [(Engine::Sqlite, arguments.sqlite), (Engine::Postgres, arguments.postgres)] {
        if wanted == 0 {
            continue;
        }
        let plan = Plan { executable: executable.clone(), engine, rounds: wanted, seed: arguments.seed };
        let report = match crash::rounds::run(&plan, |line| println!("{line}")).await {
            Ok(report) => report,
            Err(error) => {
                eprintln!("the crash loop itself failed: {error}");
                return ExitCode::from(2);
            }
        };
        println!("{report}");
        for loss in &report.losses {
            println!("LOST: {loss}");
        }
        rounds += report.rounds;
        losses += report.losses.len();
    }
    println!("crash_rounds: {rounds}\ncrash_losses: {losses}");
    if losses == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
