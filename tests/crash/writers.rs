//! Those who ask: one change after the other, until the service does not answer any more. They do not wait for
//! enforcement: what is acknowledged is the commit.

use std::time::Instant;

use claviger::grpc::proto;
use tonic::Status;

use super::ledger::{Acknowledged, Action, Key, Known, Ledger, MERCHANT, Pending, settings};
use crate::rig::{Client, Dice};

/// Asks for changes, noting each in the ledger, until one is not answered with OK.
pub async fn write(ledger: &mut Ledger, client: &mut Client, dice: &mut Dice) {
    while ask(ledger, client, dice).await.is_ok() {}
}

async fn ask(ledger: &mut Ledger, client: &mut Client, dice: &mut Dice) -> Result<(), Status> {
    let live: Vec<usize> = (0..ledger.keys.len()).rev().filter(|at| is_live(&ledger.keys[*at])).take(8).collect();
    if live.len() < 4 || dice.one_in(4) {
        return create(ledger, client, dice).await;
    }
    let at = *dice.pick(&live);
    let acknowledged = match dice.below(4) {
        0 => delete(&mut ledger.keys[at], client).await?,
        1 => rotate(&mut ledger.keys[at], client, dice).await?,
        _ => update(&mut ledger.keys[at], client).await?,
    };
    ledger.note(acknowledged);
    Ok(())
}

fn is_live(key: &Key) -> bool {
    key.pending.is_none() && key.known.as_ref().is_some_and(|known| !known.deleted)
}

async fn create(ledger: &mut Ledger, client: &mut Client, dice: &mut Dice) -> Result<(), Status> {
    let request = proto::CreateRequest { api_key: Some(settings(0)), request_id: request_id(dice) };
    let key = Key { create: request.clone(), asked: Instant::now(), known: None, pending: Some(Pending::Create) };
    ledger.keys.push(key);
    let answer = client.create(request).await?.into_inner();
    if let Some(key) = ledger.keys.last_mut() {
        let known = born(&answer);
        let acknowledged = Acknowledged { revision: answer.revision, key_id: known.id.clone(), action: Action::Create };
        (key.known, key.pending) = (Some(known), None);
        ledger.note(acknowledged);
    }
    Ok(())
}

/// What an answered Create makes known.
pub fn born(answer: &proto::CreateResponse) -> Known {
    let id = answer.api_key.as_ref().map(|key| key.id.clone()).unwrap_or_default();
    Known { id, secrets: vec![answer.key.clone()], rotate: None, settings: 0, deleted: false }
}

async fn update(key: &mut Key, client: &mut Client) -> Result<Acknowledged, Status> {
    let Some(known) = &mut key.known else { return Err(Status::internal("only keys that are known are updated")) };
    let next = known.settings + 1;
    key.pending = Some(Pending::Update(next));
    let paths = ["display_name", "allowed_ips", "scopes", "labels"].map(str::to_owned).into();
    let request = proto::UpdateRequest {
        api_key: Some(proto::ApiKey { id: known.id.clone(), ..settings(next) }),
        update_mask: Some(prost_types::FieldMask { paths }),
        no_wait: true,
    };
    let answer = client.update(request).await?.into_inner();
    (known.settings, key.pending) = (next, None);
    Ok(Acknowledged { revision: answer.revision, key_id: known.id.clone(), action: Action::Update })
}

async fn rotate(key: &mut Key, client: &mut Client, dice: &mut Dice) -> Result<Acknowledged, Status> {
    let Some(known) = &mut key.known else { return Err(Status::internal("only keys that are known are rotated")) };
    let request = proto::RotateRequest {
        id: known.id.clone(),
        merchant_username: MERCHANT.to_owned(),
        request_id: request_id(dice),
        no_wait: true,
        ..Default::default()
    };
    key.pending = Some(Pending::Rotate(request.clone()));
    let answer = client.rotate(request.clone()).await?.into_inner();
    key.pending = None;
    known.secrets.push(answer.key);
    known.rotate = Some(request);
    Ok(Acknowledged { revision: answer.revision, key_id: known.id.clone(), action: Action::Rotate })
}

async fn delete(key: &mut Key, client: &mut Client) -> Result<Acknowledged, Status> {
    let Some(known) = &mut key.known else { return Err(Status::internal("only keys that are known are deleted")) };
    key.pending = Some(Pending::Delete);
    let request = proto::DeleteRequest {
        id: known.id.clone(),
        note: "crash loop".to_owned(),
        no_wait: true,
        ..Default::default()
    };
    let answer = client.delete(request).await?.into_inner();
    (known.deleted, key.pending) = (true, None);
    Ok(Acknowledged { revision: answer.revision, key_id: known.id.clone(), action: Action::Delete })
}

impl Ledger {
    fn note(&mut self, acknowledged: Acknowledged) {
        self.acknowledged.push(acknowledged);
        self.count += 1;
    }
}

fn request_id(dice: &mut Dice) -> String {
    format!("crash-{:016x}{:016x}", dice.bits(), dice.bits())
}
