//! `claviger doctor`: one key through a running service, from its making to its end, each step told.
//!
//! It is one command, so that it can be tried where there is no shell: in a pod of the chart's `helm test`.

use std::{fmt, time::Duration};

use clap::Args;
use zeroize::Zeroizing;

use super::{
    client::{Client, ClientArgs},
    console::Console,
    escape::escaped,
    exit::{Exit, Failure},
    keys,
    output::{Form, rfc3339},
    request_id,
};
use crate::grpc::proto::{
    ApiKey, CreateRequest, CreateResponse, DecisionCode, DeleteReason, DeleteRequest, DeleteResponse, GetRequest,
    ValidateRequest, ValidateResponse,
};

/// When the key ends by itself, should the way to the service be lost before it is revoked.
const ENDS_AFTER: Duration = Duration::from_secs(10 * 60);

/// What the key is called in lists, where it stays until it is purged.
const NAME: &str = "claviger doctor";

/// For whom the key is made.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// Account the key is made for; without it, that of the key you call with
    #[arg(long, value_name = "USERNAME")]
    merchant: Option<String>,
}

/// Does all steps and tells each; stops at the first that goes wrong.
pub async fn run(client: ClientArgs, args: DoctorArgs) -> Exit {
    run_on(&mut Console::of_the_process(), &client, args).await
}

/// As [`run`], on this console.
pub(super) async fn run_on(console: &mut Console, client: &ClientArgs, args: DoctorArgs) -> Exit {
    let end = examine(console, client, args).await;
    keys::tell_failure(console, end)
}

async fn examine(console: &mut Console, client: &ClientArgs, args: DoctorArgs) -> Result<Exit, Failure> {
    if client.output.form::<CreateResponse>()? != Form::People {
        return Err(Failure::new(Exit::Usage, "doctor tells its steps, which have no other form")
            .line("leave out --output and --field; the exit code says whether all went well"));
    }
    let client = Client::connect(client, console).await?;
    let own = GetRequest { id: "self".to_owned(), merchant_username: String::new() };
    let own = client.ask(own, async |mut service, request| service.get(request).await).await?;
    let own = own.api_key.unwrap_or_default();
    passed(console, format!("the service answers; the key you call with is {}", described(&own)))?;

    let made = make(console, &client, args).await?;
    let api_key = made.api_key.unwrap_or_default();
    let key = Zeroizing::new(made.key);
    let id = escaped(&api_key.id).into_owned();
    passed(console, format!("made a key: {}", described(&api_key)))?;

    // Whatever its answer, the key is revoked.
    let first = validate(&client, &key).await;
    let revoked = revoke(&client, api_key.id).await.map_err(|failure| {
        failure.line(format!("The key {id} may be left; it ends by itself {} after it was made.", ends_after()))
    });
    let first = first.and_then(|answer| expect(&answer, DecisionCode::Valid, "the key that was just made"));
    if first.is_err() {
        // What went wrong first is what the person has to know.
        if let Err(also) = &revoked {
            console.tell(also);
        }
    }
    first?;
    passed(console, "it is valid")?;
    let revoked = revoked?;
    if !revoked.enforced {
        let from = revoked.enforce_time.as_ref().map_or_else(String::new, |time| format!(" before {}", rfc3339(time)));
        return Err(Failure::new(
            Exit::NotNow,
            format!("it is revoked, but is not sure to be refused everywhere{from}"),
        )
        .line("Every replica refuses it a little later; a longer --timeout waits for that."));
    }
    passed(console, "revoked it")?;

    let last = validate(&client, &key).await?;
    expect(&last, DecisionCode::Deleted, "the key that was just revoked")?;
    passed(console, "it is refused")?;
    Ok(Exit::Done)
}

async fn make(console: &mut Console, client: &Client, args: DoctorArgs) -> Result<CreateResponse, Failure> {
    let request_id = request_id::random()
        .map_err(|error| Failure::new(Exit::Fault, format!("the operating system gave no random bits: {error}")))?;
    let request = CreateRequest {
        api_key: Some(ApiKey {
            merchant_username: args.merchant.unwrap_or_default(),
            display_name: NAME.to_owned(),
            ttl: prost_types::Duration::try_from(ENDS_AFTER).ok(),
            ..ApiKey::default()
        }),
        request_id: request_id.clone(),
    };
    request_id::until_known(console, &request_id, async || {
        client.call(request.clone(), async |mut service, request| service.create(request).await).await
    })
    .await
}

async fn validate(client: &Client, key: &str) -> Result<ValidateResponse, Failure> {
    let request = ValidateRequest { key: key.to_owned(), ..ValidateRequest::default() };
    client.ask(request, async |mut service, request| service.validate(request).await).await
}

async fn revoke(client: &Client, id: String) -> Result<DeleteResponse, Failure> {
    let request = DeleteRequest {
        id,
        reason: DeleteReason::Unused.into(),
        note: "made and revoked by claviger doctor".to_owned(),
        ..DeleteRequest::default()
    };
    client.change(request, async |mut service, request| service.delete(request).await).await
}

/// Checks that the service decided `wanted` about `what`.
fn expect(answer: &ValidateResponse, wanted: DecisionCode, what: &str) -> Result<(), Failure> {
    let decided = DecisionCode::try_from(answer.code).ok();
    let is_valid = wanted == DecisionCode::Valid;
    if decided == Some(wanted) && answer.valid == is_valid {
        return Ok(());
    }
    let name = |code: DecisionCode| code.as_str_name().trim_start_matches("DECISION_CODE_");
    let decided = decided.map_or_else(|| format!("the unknown code {}", answer.code), |code| name(code).to_owned());
    // Of a key that should be refused and is not, "no" would be the wrong word.
    let exit = if is_valid { Exit::No } else { Exit::Fault };
    Err(Failure::new(exit, format!("{what} should be {}, and the service says {decided}", name(wanted))))
}

fn described(key: &ApiKey) -> String {
    let scopes = if key.scopes.is_empty() { "without scopes".to_owned() } else { key.scopes.join(", ") };
    escaped(&format!("{} of {}, {scopes}", key.id, key.merchant_username)).into_owned()
}

fn ends_after() -> impl fmt::Display {
    humantime::format_duration(ENDS_AFTER)
}

fn passed(console: &mut Console, step: impl fmt::Display) -> Result<(), Failure> {
    console.show(&format!("ok  {step}\n"))
}
