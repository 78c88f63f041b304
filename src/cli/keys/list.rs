//! `claviger keys list`.

use clap::Args;

use crate::{
    cli::{
        arguments::State,
        client::{Client, ClientArgs},
        console::Console,
        exit::{Exit, Failure},
        output,
    },
    grpc::proto::{self, ApiKey, ListRequest},
};

/// The most keys that the service puts on a page, and how many are asked for when nobody says otherwise.
const PAGE: usize = 1000;

/// Which keys to show.
#[derive(Args, Clone, Debug)]
pub struct ListArgs {
    /// Only keys of this account
    #[arg(long, value_name = "USERNAME")]
    merchant: Option<String>,

    /// Only keys in this state; repeatable
    #[arg(long, value_name = "STATE", value_enum)]
    state: Vec<State>,

    /// Show deleted keys, too
    #[arg(long)]
    show_deleted: bool,

    /// Show so many keys at most [default: all]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,

    /// Ask for so many keys at once
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true)]
    page_size: Option<i32>,
}

pub(super) async fn run(console: &mut Console, client: &ClientArgs, args: ListArgs) -> Result<Exit, Failure> {
    let form = client.output.form::<ApiKey>()?;
    let limit = args.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let mut request = ListRequest {
        merchant_username: args.merchant.unwrap_or_default(),
        states: args.state.into_iter().map(|state| proto::State::from(state).into()).collect(),
        page_size: args.page_size.unwrap_or_else(|| i32::try_from(limit.min(PAGE)).unwrap_or(0)),
        page_token: String::new(),
        show_deleted: args.show_deleted,
    };

    let client = Client::connect(client, console).await?;
    let mut keys = Vec::new();
    let more = loop {
        let page = client.ask(request.clone(), async |mut service, request| service.list(request).await).await?;
        keys.extend(page.api_keys);
        if keys.len() >= limit || page.next_page_token.is_empty() {
            break keys.len() > limit || !page.next_page_token.is_empty();
        }
        if page.next_page_token == request.page_token {
            return Err(Failure::new(Exit::Fault, "the service answered with the same page again"));
        }
        request.page_token = page.next_page_token;
    };
    keys.truncate(limit);
    output::show_all(console, &form, &keys)?;
    if keys.is_empty() {
        console.tell("note: there are no such keys");
    }
    if more {
        console.tell(format!("note: there are more keys than --limit {limit}"));
    }
    Ok(Exit::Done)
}
