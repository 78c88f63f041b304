//! Whether everything that was acknowledged is there, asked of the service that was started again.

use std::time::Duration;

use claviger::grpc::proto::{self, DecisionCode, State};
use tonic::{Code, Status};

use super::ledger::{Key, Known, Pending, address, number_of};
use super::writers::born;
use crate::rig::Client;

/// A replay shows its key string for 15 minutes; what is nearly that old is not asked again.
const SHOWN_AGAIN_FOR: Duration = Duration::from_secs(14 * 60);

/// What a check came to: nothing to say, or what is wrong with the key.
type Checked = Result<(), String>;

/// Finds out what became of the change that was interrupted, and checks the key.
pub async fn key(key: &mut Key, client: &mut Client) -> Checked {
    settle(key, client).await?;
    let Some(known) = &key.known else { return Err("is not known after its Create was asked again".to_owned()) };
    is_there(known, client).await?;
    if key.asked.elapsed() < SHOWN_AGAIN_FOR {
        is_replayed(&key.create, known, client).await?;
    }
    Ok(())
}

async fn settle(key: &mut Key, client: &mut Client) -> Checked {
    let Some(pending) = key.pending.take() else { return Ok(()) };
    match (pending, &mut key.known) {
        (Pending::Create, known) => {
            let answer = client.create(key.create.clone()).await.map_err(failed("Create, asked again,"))?.into_inner();
            *known = Some(born(&answer));
        }
        (Pending::Update(next), Some(known)) => {
            if number_of(&get(known, client).await?) == Some(next) {
                known.settings = next;
            }
        }
        (Pending::Rotate(request), Some(known)) => {
            let answer = client.rotate(request.clone()).await.map_err(failed("Rotate, asked again,"))?.into_inner();
            known.secrets.push(answer.key);
            known.rotate = Some(request);
        }
        (Pending::Delete, Some(known)) => known.deleted = get(known, client).await?.state() == State::Deleted,
        (_, None) => return Err("was changed before it was known".to_owned()),
    }
    Ok(())
}

async fn get(known: &Known, client: &mut Client) -> Result<proto::ApiKey, String> {
    let request = proto::GetRequest { id: known.id.clone(), ..Default::default() };
    let answer = client.get(request).await.map_err(failed("Get"))?.into_inner();
    answer.api_key.ok_or_else(|| "Get answers without a key".to_owned())
}

async fn is_there(known: &Known, client: &mut Client) -> Checked {
    let key = get(known, client).await?;
    match number_of(&key) {
        Some(n) if n == known.settings => {}
        Some(n) => return Err(format!("has settings {n} in place of {}", known.settings)),
        None => return Err(format!("has half of its settings: {key:?}")),
    }
    if (key.state() == State::Deleted) != known.deleted {
        return Err(format!("is {:?}, deleted: {}", key.state(), known.deleted));
    }
    if !known.current().starts_with(&key.masked_key) {
        return Err("has another current secret than it said".to_owned());
    }
    let wanted = if known.deleted { DecisionCode::Deleted } else { DecisionCode::Valid };
    decides(known, known.current(), wanted, client).await?;
    if let [.., previous, _] = &known.secrets[..] {
        let wanted = if known.deleted { DecisionCode::Deleted } else { DecisionCode::SecretRetired };
        decides(known, previous, wanted, client).await?;
    }
    Ok(())
}

async fn decides(known: &Known, secret: &str, wanted: DecisionCode, client: &mut Client) -> Checked {
    let request = proto::ValidateRequest {
        key: secret.to_owned(),
        caller_ip: address(known.settings),
        required_scopes: vec![format!("n:{}", known.settings)],
        ..Default::default()
    };
    let answer = client.validate(request).await.map_err(failed("Validate"))?.into_inner();
    if answer.code() == wanted { Ok(()) } else { Err(format!("is {:?} in place of {wanted:?}", answer.code())) }
}

/// A retried request gives the same key string, as long as that is the current one.
async fn is_replayed(create: &proto::CreateRequest, known: &Known, client: &mut Client) -> Checked {
    match (client.create(create.clone()).await, &known.rotate) {
        (Ok(answer), None) => same(answer.get_ref().replayed, &answer.get_ref().key, known, "Create")?,
        (Err(status), Some(_)) if status.code() == Code::FailedPrecondition => {}
        (Ok(_), Some(_)) => return Err("Create shows a secret that was rotated away".to_owned()),
        (Err(status), _) => return Err(failed("a retried Create")(status)),
    }
    if let Some(rotate) = &known.rotate {
        let answer = client.rotate(rotate.clone()).await.map_err(failed("a retried Rotate"))?.into_inner();
        same(answer.replayed, &answer.key, known, "Rotate")?;
    }
    Ok(())
}

fn same(replayed: bool, key: &str, known: &Known, what: &str) -> Checked {
    if replayed && key == known.current() {
        Ok(())
    } else {
        Err(format!("a retried {what} gives another key string (replayed: {replayed})"))
    }
}

fn failed(what: &str) -> impl FnOnce(Status) -> String {
    move |status| format!("{what} answers {:?}: {}", status.code(), status.message())
}
