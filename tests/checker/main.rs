//! `cargo run --release --features checker --bin checker -- --minutes N`: tries to break the promise that nothing outlives
//! a Delete, with everything that can befall replicas and their database.
//!
//! `--seeded` plants each bug of `claviger::seeded` in turn and shows how soon it is caught; `--bug NAME` one of them. The
//! executable starts itself as the service, so there is nothing else to build. Its last lines are the figures; it fails if
//! a rule was broken, or a planted bug was not caught.
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
mod checker;
#[path = "../rig/mod.rs"]
mod rig;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use claviger::{cli::serve, config::SettingsArgs, seeded::Bug};

use crate::checker::{
    phases::{self, Plan},
    seeded,
};

/// Tries to find a key that is accepted after its Delete was enforced.
#[derive(Parser)]
#[command(name = "checker", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    serve: Option<Child>,
    /// How long the storm lasts; the calm before and after it comes on top
    #[arg(long, default_value_t = 12.0)]
    minutes: f64,
    /// Plant each bug in turn, and see how soon it is caught
    #[arg(long)]
    seeded: bool,
    /// Plant only this bug
    #[arg(long)]
    bug: Option<String>,
    /// How many replicas
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// Validates a second, at most
    #[arg(long, default_value_t = 4_000)]
    rate: u32,
    /// How many keys live at once
    #[arg(long, default_value_t = 130)]
    lives: u32,
    /// How long to measure before the storm, in seconds
    #[arg(long, default_value_t = 60)]
    calm: u64,
    /// How long the database is slow, in seconds
    #[arg(long, default_value_t = 60)]
    slow: u64,
    /// Where the dice begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Subcommand)]
enum Child {
    /// Be a replica
    Serve(Box<SettingsArgs>),
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Child::Serve(settings)) = arguments.serve {
        if let Err(error) = claviger::seeded::from_environment() {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
        rig::leash::follow();
        return serve::run(*settings).await.into();
    }
    let storm = Duration::from_secs_f64(arguments.minutes * 60.0);
    let plan = Plan {
        executable: std::env::current_exe().expect("a program knows where it is"),
        replicas: arguments.replicas,
        storm,
        with_standby: true,
        calm: Some(Duration::from_secs(arguments.calm)).filter(|time| !time.is_zero()),
        slow: Some(Duration::from_secs(arguments.slow)).filter(|time| !time.is_zero()),
        rate: arguments.rate,
        lives: arguments.lives,
        seed: arguments.seed,
    };
    let outcome = if arguments.seeded || arguments.bug.is_some() {
        hunt_all(&plan, arguments.bug.as_deref()).await
    } else {
        check(&plan).await
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("the checker itself failed: {error}");
        ExitCode::from(2)
    })
}

async fn check(plan: &Plan) -> rig::Outcome<ExitCode> {
    let report = phases::run(plan, |phase| println!("-- {phase}")).await?;
    println!("{report}");
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn hunt_all(plan: &Plan, only: Option<&str>) -> rig::Outcome<ExitCode> {
    let bugs: Vec<Bug> = match only {
        None => Bug::ALL.to_vec(),
        Some(name) => vec![Bug::named(name).ok_or_else(|| format!("there is no bug `{name}`"))?],
    };
    let (mut caught, planted, mut is_clean) = (0, bugs.len(), true);
    if only.is_none() {
        // The clean build first: what is found there tells nothing of the bugs.
        let clean = seeded::hunt(plan, None).await?;
        println!("{clean}");
        if let Some(violation) = &clean.caught {
            println!("    {violation}");
            is_clean = false;
        }
    }
    for bug in bugs {
        let hunt = seeded::hunt(plan, Some(bug)).await?;
        println!("{hunt}");
        if let Some(violation) = &hunt.caught {
            println!("    {violation}");
            caught += 1;
        }
    }
    println!("bugs_seeded: {planted}\nbugs_caught: {caught}");
    Ok(if caught == planted && is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
