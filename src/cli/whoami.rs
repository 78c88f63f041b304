//! `claviger whoami`: the key that one calls with.

use super::{client::ClientArgs, console::Console, exit::Exit, keys};

/// Shows the key that one calls with.
pub async fn run(client: ClientArgs) -> Exit {
    run_on(&mut Console::of_the_process(), &client).await
}

/// As [`run`], on this console.
pub(super) async fn run_on(console: &mut Console, client: &ClientArgs) -> Exit {
    keys::run_on(console, client, keys::KeysCommand::Get(keys::GetArgs::own())).await
}
