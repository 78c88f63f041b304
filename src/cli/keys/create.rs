//! `claviger keys create`.

use clap::Args;

use super::{new_key::NewKey, settings::SettingsArgs};
use crate::{
    cli::{
        client::{Client, ClientArgs},
        console::Console,
        exit::{Exit, Failure},
        request_id,
    },
    grpc::proto::{ApiKey, CreateRequest, CreateResponse},
};

/// What the new key is to be.
#[derive(Args, Clone, Debug)]
pub struct CreateArgs {
    /// Account the key is for; without it, that of the key you call with
    #[arg(long, value_name = "USERNAME")]
    merchant: Option<String>,

    #[command(flatten)]
    settings: SettingsArgs,

    /// Make the key switched off
    #[arg(long)]
    disabled: bool,

    /// Repeat an earlier create whose answer was lost: within 15 minutes the same key is shown again, and no second one
    /// is made. An id of your own should be 128 random bits, such as from `openssl rand -hex 16`; without this option
    /// the command makes one
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

pub(super) async fn run(console: &mut Console, client: &ClientArgs, args: CreateArgs) -> Result<Exit, Failure> {
    let form = client.output.form::<CreateResponse>()?;
    let (settings, _) = args.settings.into_wire()?;
    let request_id = request_id::given_or_new(args.request_id)?;
    let request = CreateRequest {
        api_key: Some(ApiKey {
            merchant_username: args.merchant.unwrap_or_default(),
            disabled: args.disabled,
            ..settings
        }),
        request_id: request_id.clone(),
    };

    let client = Client::connect(client, console).await?;
    let answer = request_id::until_known(console, &request_id, async || {
        client.call(request.clone(), async |mut service, request| service.create(request).await).await
    })
    .await?;
    NewKey { answer: &answer, key: &answer.key, replayed: answer.replayed, request_id: &request_id, kept: false }
        .show(console, &form, false)?;
    Ok(Exit::Done)
}
