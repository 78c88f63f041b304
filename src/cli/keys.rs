//! `claviger keys`: the API, word by word, on the command line.
//!
//! What is asked for is sent as it was given: the service judges it, and its messages are shown.

mod create;
mod delete;
mod get;
mod list;
mod new_key;
mod rotate;
mod settings;
mod update;
mod validate;

use clap::Subcommand;

use super::{
    client::ClientArgs,
    console::Console,
    exit::{EXIT_CODES, Exit, Failure},
};

pub use self::{
    create::CreateArgs, delete::DeleteArgs, get::GetArgs, list::ListArgs, rotate::RotateArgs, update::UpdateArgs,
    validate::ValidateArgs,
};

/// What to do with keys.
#[derive(Subcommand, Debug)]
#[command(after_help = EXIT_CODES)]
pub enum KeysCommand {
    /// Make a key and show its key string, this once
    ///
    /// Nothing can show it again: take it from standard output, alone with --field key.
    Create(Box<CreateArgs>),
    /// Show one key
    Get(GetArgs),
    /// Show keys in a table, newest first
    List(ListArgs),
    /// Change settings of a key
    ///
    /// What is not named stays as it is. A list that is named replaces the one before; --clear empties one.
    Update(Box<UpdateArgs>),
    /// Give a key a new secret and show the new key string, this once
    ///
    /// The id, the settings and the time it expires stay. Rotating the key that you call with replaces the key file.
    Rotate(RotateArgs),
    /// Revoke a key for good
    ///
    /// Safe to repeat. The record can be read until it is purged.
    Delete(DeleteArgs),
    /// Ask whether a key string is good now
    ///
    /// The key under test is read from standard input, never from an argument, where others could see it. One line end
    /// after it is removed, and nothing else.
    Validate(ValidateArgs),
}

/// Does what `command` says, and tells the person what came of it.
pub async fn run(client: ClientArgs, command: KeysCommand) -> Exit {
    run_on(&mut Console::of_the_process(), &client, command).await
}

/// As [`run`], on this console.
pub(super) async fn run_on(console: &mut Console, client: &ClientArgs, command: KeysCommand) -> Exit {
    let end = match command {
        KeysCommand::Create(args) => create::run(console, client, *args).await,
        KeysCommand::Get(args) => get::run(console, client, args).await,
        KeysCommand::List(args) => list::run(console, client, args).await,
        KeysCommand::Update(args) => update::run(console, client, *args).await,
        KeysCommand::Rotate(args) => rotate::run(console, client, args).await,
        KeysCommand::Delete(args) => delete::run(console, client, args).await,
        KeysCommand::Validate(args) => validate::run(console, client, args).await,
    };
    tell_failure(console, end)
}

/// The exit code of `end`; a failure is told.
pub(super) fn tell_failure(console: &mut Console, end: Result<Exit, Failure>) -> Exit {
    end.unwrap_or_else(|failure| {
        console.tell(&failure);
        failure.exit()
    })
}

/// Tells the person when a change does not yet hold everywhere.
fn tell_if_not_enforced(console: &mut Console, enforced: bool, enforce_time: Option<&prost_types::Timestamp>) {
    if !enforced {
        let from = enforce_time.map_or_else(String::new, |time| format!(" before {}", super::output::rfc3339(time)));
        console.tell(format!("warning: the change is made, but is not sure to hold everywhere{from}"));
    }
}
