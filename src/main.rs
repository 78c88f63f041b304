//! Arguments → command → exit code.

#[cfg(all(feature = "checker", not(debug_assertions)))]
compile_error!("the feature `checker` plants bugs; no release can have it");

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use claviger::{
    cli::{
        client::ClientArgs,
        deployment::{self, BootstrapArgs},
        doctor::{self, DoctorArgs},
        exit::{EXIT_CODES, Exit},
        feed::{self, FeedArgs},
        keys::{self, KeysCommand},
        serve, whoami,
    },
    config::SettingsArgs,
    memory_protection, telemetry,
};

/// What the transport allocates for each call costs it a good part of its time, and this one less of it than the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Issues, restricts, lists, rotates, deletes and validates API keys over gRPC.
///
/// Without a command it serves, as `claviger serve` does.
#[derive(Parser)]
#[command(name = "claviger", version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Subcommand)]
enum Command {
    /// Serve gRPC until SIGTERM
    Serve(Box<SettingsArgs>),
    /// Bring the schema of the database up to date and stop
    Migrate(Box<SettingsArgs>),
    /// Make an administrator's key string
    Bootstrap(Box<BootstrapArgs>),
    /// Look at the feed that replicas follow, and tell them what an operator did
    Feed(Box<FeedArgs>),
    /// Make, show, change and check keys, as a client of a running service
    Keys {
        #[command(flatten)]
        client: ClientArgs,
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Show the key that one calls with
    Whoami {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Try a running service from end to end: make a key, validate it, revoke it, see it refused
    Doctor {
        #[command(flatten)]
        args: DoctorArgs,
        #[command(flatten)]
        client: ClientArgs,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    // First of all: every command may read a root secret or a key string.
    if let Err(error) = memory_protection::protect() {
        return deployment::fail(&format!("the memory of the process cannot be protected: {error}"), Exit::Fault)
            .into();
    }
    claviger::tls::use_ring();
    let cli = Cli::parse();
    let exit: Exit = match cli.command.unwrap_or(Command::Serve(Box::new(cli.settings))) {
        Command::Serve(settings) => serve::run(*settings).await,
        Command::Migrate(settings) => deployment::migrate(*settings).await,
        Command::Bootstrap(args) => deployment::bootstrap(*args).await,
        Command::Feed(args) => feed::run(*args).await,
        Command::Keys { client, command } => keys::run(client, command).await,
        Command::Whoami { client } => whoami::run(client).await,
        Command::Doctor { client, args } => doctor::run(client, args).await,
    };
    telemetry::log::flush();
    exit.into()
}
