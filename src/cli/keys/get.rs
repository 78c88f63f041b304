//! `claviger keys get`.

use clap::Args;

use crate::{
    cli::{
        client::{Client, ClientArgs},
        console::Console,
        exit::{Exit, Failure},
        output,
    },
    grpc::proto::{ApiKey, GetRequest},
};

/// What the service understands as the id of the caller's own key.
pub(super) const OWN: &str = "self";

/// Which key to show.
#[derive(Args, Clone, Debug)]
pub struct GetArgs {
    /// Id of the key, or `self` for the one you call with
    id: String,

    /// Account that the key has to belong to
    #[arg(long, value_name = "USERNAME")]
    merchant: Option<String>,
}

impl GetArgs {
    /// Asks for the key that one calls with.
    pub(crate) fn own() -> Self {
        Self { id: OWN.to_owned(), merchant: None }
    }
}

pub(super) async fn run(console: &mut Console, client: &ClientArgs, args: GetArgs) -> Result<Exit, Failure> {
    let form = client.output.form::<ApiKey>()?;
    let client = Client::connect(client, console).await?;
    let api_key = find(&client, args).await?;
    output::show(console, &form, &api_key)?;
    Ok(Exit::Done)
}

/// The key that `client` calls with.
pub(super) async fn own(client: &Client) -> Result<ApiKey, Failure> {
    find(client, GetArgs::own()).await
}

async fn find(client: &Client, args: GetArgs) -> Result<ApiKey, Failure> {
    let request = GetRequest { id: args.id, merchant_username: args.merchant.unwrap_or_default() };
    let answer = client.ask(request, async |mut service, request| service.get(request).await).await?;
    answer.api_key.ok_or_else(|| Failure::new(Exit::Fault, "the service answered without a key"))
}
