//! `claviger keys rotate`, and what is special about the key that one calls with.

use clap::Args;
use prost_types::Duration;

use super::{get, new_key::NewKey, tell_if_not_enforced};
use crate::{
    cli::{
        arguments,
        client::{Client, ClientArgs},
        console::Console,
        escape::escaped,
        exit::{Exit, Failure},
        key_file::{self, Source},
        output::rfc3339,
        request_id,
    },
    grpc::proto::{RotateRequest, RotateResponse},
};

/// The least overlap that the service accepts for the key that one calls with.
const OWN_OVERLAP: Duration = Duration { seconds: 15 * 60, nanos: 0 };

/// Which key to give a new secret, and for how long to accept the old one.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// Id of the key, or `self` for the one you call with
    id: String,

    /// Account that the key has to belong to
    #[arg(long, value_name = "USERNAME")]
    merchant: Option<String>,

    /// Accept the old secret so long beside the new one, such as 1h; at most 30d [default: not at all; 15m for the key
    /// you call with]
    #[arg(long, value_name = "DURATION", value_parser = arguments::duration)]
    overlap: Option<Duration>,

    /// Refuse if the key's etag is another: somebody changed the key meanwhile
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,

    /// Repeat an earlier rotate whose answer was lost: within 15 minutes the same key string is shown again, and no
    /// other one is made. An id of your own should be 128 random bits, such as from `openssl rand -hex 16`; without this
    /// option the command makes one
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,

    /// Do not wait until no replica decides on the state before any more
    #[arg(long)]
    no_wait: bool,
}

pub(super) async fn run(console: &mut Console, client: &ClientArgs, args: RotateArgs) -> Result<Exit, Failure> {
    let form = client.output.form::<RotateResponse>()?;
    let request_id = request_id::given_or_new(args.request_id)?;
    let client = Client::connect(client, console).await?;
    let own_id = get::own(&client).await?.id;
    let id = if args.id == get::OWN { own_id.clone() } else { args.id };
    let is_own = id == own_id;
    let overlap = args.overlap.or_else(|| is_own.then_some(OWN_OVERLAP));
    if is_own && args.overlap.is_none() {
        console.tell("note: this is the key you call with; its old secret will be accepted for 15 minutes (--overlap)");
    }

    let request = RotateRequest {
        id,
        merchant_username: args.merchant.unwrap_or_default(),
        etag: args.etag.unwrap_or_default(),
        overlap,
        request_id: request_id.clone(),
        no_wait: args.no_wait,
    };
    let answer = request_id::until_known(console, &request_id, async || {
        client.call(request.clone(), async |mut service, request| service.rotate(request).await).await
    })
    .await?;

    // The key file first: showing may fail, and the caller's next command needs the file.
    let kept = if is_own { keep(console, client.source(), &answer) } else { Ok(false) };
    NewKey {
        answer: &answer,
        key: &answer.key,
        replayed: answer.replayed,
        request_id: &request_id,
        kept: *kept.as_ref().unwrap_or(&false),
    }
    .show(console, &form, kept.is_err())?;
    kept?;
    tell_if_not_enforced(console, answer.enforced, answer.enforce_time.as_ref());
    Ok(Exit::Done)
}

/// Puts the new key string where the old one came from, if that is a file, and tells whether it is.
fn keep(console: &mut Console, source: &Source, answer: &RotateResponse) -> Result<bool, Failure> {
    let until = answer.api_key.as_ref().and_then(|key| key.previous_secret_expire_time.as_ref());
    let until =
        until.map_or_else(|| "is not accepted any more".to_owned(), |t| format!("is accepted until {}", rfc3339(t)));
    match source {
        Source::Environment => {
            console.tell(format!("warning: CLAVIGER_KEY needs the new key string; the old one {until}"));
            Ok(false)
        }
        Source::File(path) => {
            let name = path.display().to_string();
            let name = escaped(&name);
            key_file::replace(path, &answer.key).map_err(|error| {
                Failure::new(
                    Exit::Fault,
                    format!("THE KEY FILE {name} MAY STILL HOLD THE OLD KEY STRING: it could not be replaced: {error}"),
                )
                .line("The new key string was written to standard output; put it into the file yourself.")
                .line(format!("The old one {until}."))
            })?;
            console.tell(format!("note: the key file {name} holds the new key string now; the old one {until}"));
            Ok(true)
        }
    }
}
