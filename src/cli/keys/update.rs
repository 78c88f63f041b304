//! `claviger keys update`.

use clap::{Args, ValueEnum};
use prost_types::{FieldMask, Timestamp};

use super::{settings::SettingsArgs, tell_if_not_enforced};
use crate::{
    cli::{
        arguments,
        client::{Client, ClientArgs},
        console::Console,
        exit::{Exit, Failure},
        output,
    },
    grpc::proto::{ApiKey, UpdateRequest, UpdateResponse},
};

/// Which key to change, and how.
#[derive(Args, Clone, Debug)]
pub struct UpdateArgs {
    /// Id of the key
    id: String,

    /// Account that the key has to belong to
    #[arg(long, value_name = "USERNAME")]
    merchant: Option<String>,

    #[command(flatten)]
    settings: SettingsArgs,

    /// Switch the key off
    #[arg(long, conflicts_with = "enable")]
    disable: bool,

    /// Switch the key on again
    #[arg(long)]
    enable: bool,

    /// End the overlap of the last rotation at this moment, earlier than it would
    #[arg(long, value_name = "TIME", value_parser = arguments::time)]
    previous_secret_expires: Option<Timestamp>,

    /// Empty this setting; repeatable
    #[arg(long, value_name = "SETTING", value_enum)]
    clear: Vec<Clear>,

    /// Refuse if the key's etag is another: somebody changed the key meanwhile
    #[arg(long, value_name = "ETAG")]
    etag: Option<String>,

    /// Do not wait until no replica decides on the state before any more
    #[arg(long)]
    no_wait: bool,
}

/// A setting that can be emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Clear {
    /// Allow all addresses that are not denied
    AllowIp,
    /// Deny no address
    DenyIp,
    /// Take all scopes away
    Scope,
    /// Forget all labels
    Label,
    /// Forget the name
    Name,
    /// Valid from its creation
    NotBefore,
    /// Never expire
    Expires,
    /// End the overlap of the last rotation now
    PreviousSecret,
}

impl Clear {
    fn path(self) -> &'static str {
        match self {
            Self::AllowIp => "allowed_ips",
            Self::DenyIp => "denied_ips",
            Self::Scope => "scopes",
            Self::Label => "labels",
            Self::Name => "display_name",
            Self::NotBefore => "not_before_time",
            Self::Expires => "expire_time",
            Self::PreviousSecret => "previous_secret_expire_time",
        }
    }
}

pub(super) async fn run(console: &mut Console, client: &ClientArgs, args: UpdateArgs) -> Result<Exit, Failure> {
    let form = client.output.form::<UpdateResponse>()?;
    let request = request(args)?;
    let client = Client::connect(client, console).await?;
    let answer = client.change(request, async |mut service, request| service.update(request).await).await?;
    output::show(console, &form, &answer)?;
    tell_if_not_enforced(console, answer.enforced, answer.enforce_time.as_ref());
    Ok(Exit::Done)
}

fn request(args: UpdateArgs) -> Result<UpdateRequest, Failure> {
    let (settings, mut paths) = args.settings.into_wire()?;
    if args.disable || args.enable {
        paths.push("disabled");
    }
    if args.previous_secret_expires.is_some() {
        paths.push("previous_secret_expire_time");
    }
    for clear in args.clear {
        let path = clear.path();
        // A time to live is another way to say when the key expires.
        if paths.contains(&path) || clear == Clear::Expires && paths.contains(&"ttl") {
            let name = clear.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
            return Err(Failure::new(Exit::Usage, format!("--clear {name}: the setting is named twice")));
        }
        paths.push(path);
    }
    if paths.is_empty() {
        return Err(Failure::new(Exit::Usage, "there is nothing to change; name a setting, or --clear one"));
    }
    Ok(UpdateRequest {
        api_key: Some(ApiKey {
            id: args.id,
            merchant_username: args.merchant.unwrap_or_default(),
            disabled: args.disable,
            previous_secret_expire_time: args.previous_secret_expires,
            etag: args.etag.unwrap_or_default(),
            ..settings
        }),
        update_mask: Some(FieldMask { paths: paths.into_iter().map(str::to_owned).collect() }),
        no_wait: args.no_wait,
    })
}
