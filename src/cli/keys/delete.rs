//! `claviger keys delete`.

use clap::Args;

use super::tell_if_not_enforced;
use crate::{
    cli::{
        arguments::Reason,
        client::{Client, ClientArgs},
        console::Console,
        exit::{Exit, Failure},
        output,
    },
    grpc::proto::{DeleteReason, DeleteRequest, DeleteResponse},
};

/// Which key to revoke, and why.
#[derive(Args, Clone, Debug)]
pub struct DeleteArgs {
    /// Id of the key
    id: String,

    /// Account that the key has to belong to
    #[arg(long, value_name = "USERNAME")]
    merchant: Option<String>,

    /// Why
    #[arg(long, value_name = "REASON", value_enum)]
    reason: Option<Reason>,

    /// A note for the audit log
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,

    /// Refuse if the key's etag is another: somebody changed the key meanwhile
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,

    /// Do not wait until no replica decides on the state before any more
    #[arg(long)]
    no_wait: bool,
}

pub(super) async fn run(console: &mut Console, client: &ClientArgs, args: DeleteArgs) -> Result<Exit, Failure> {
    let form = client.output.form::<DeleteResponse>()?;
    let request = DeleteRequest {
        id: args.id,
        merchant_username: args.merchant.unwrap_or_default(),
        etag: args.etag.unwrap_or_default(),
        reason: args.reason.map_or(DeleteReason::Unspecified, DeleteReason::from).into(),
        note: args.note.unwrap_or_default(),
        no_wait: args.no_wait,
    };
    let client = Client::connect(client, console).await?;
    let answer = client.change(request, async |mut service, request| service.delete(request).await).await?;
    output::show(console, &form, &answer)?;
    tell_if_not_enforced(console, answer.enforced, answer.enforce_time.as_ref());
    Ok(Exit::Done)
}
