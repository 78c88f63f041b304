//! Calls that many promises make, in few words each. What is promised about them stands elsewhere.

use claviger::grpc::proto;
use prost_types::FieldMask;
use sea_orm::{ConnectionTrait, DbBackend, Statement};
use tonic::Status;

use crate::harness::{Client, Service, reason};

/// Gets a key.
pub async fn get(mut client: Client, id: &str) -> Result<proto::ApiKey, Status> {
    let request = proto::GetRequest { id: id.into(), ..Default::default() };
    Ok(client.get(request).await?.into_inner().api_key.unwrap())
}

/// A key as if it had never been used.
pub fn without_use(key: proto::ApiKey) -> proto::ApiKey {
    proto::ApiKey { last_used_time: None, last_used_ip: String::new(), ..key }
}

/// Updates the fields of `mask` to those of `settings`.
pub async fn update(
    mut client: Client,
    id: &str,
    mask: &[&str],
    settings: proto::ApiKey,
) -> Result<proto::ApiKey, Status> {
    let api_key = proto::ApiKey { id: id.into(), ..settings };
    let update_mask = Some(FieldMask { paths: mask.iter().map(ToString::to_string).collect() });
    let request = proto::UpdateRequest { api_key: Some(api_key), update_mask, ..Default::default() };
    let answer = client.update(request).await?.into_inner();
    assert!(answer.enforced);
    Ok(answer.api_key.unwrap())
}

/// Deletes a key, for no reason.
pub async fn delete(mut client: Client, id: &str) -> Result<proto::ApiKey, Status> {
    let request = proto::DeleteRequest { id: id.into(), ..Default::default() };
    let answer = client.delete(request).await?.into_inner();
    assert!(answer.enforced);
    Ok(answer.api_key.unwrap())
}

/// Rotates a key with an overlap in seconds.
pub async fn rotate(mut client: Client, id: &str, overlap_seconds: i64) -> Result<proto::RotateResponse, Status> {
    let overlap = Some(prost_types::Duration { seconds: overlap_seconds, nanos: 0 });
    let request = proto::RotateRequest { id: id.into(), overlap, ..Default::default() };
    Ok(client.rotate(request).await?.into_inner())
}

/// What a refused call was told: its code, its reason, its message.
pub fn refusal<T>(outcome: Result<T, Status>) -> String {
    match outcome {
        Ok(_) => panic!("the call was not refused"),
        Err(status) => format!("{:?} {}: {}", status.code(), reason(&status), status.message()),
    }
}

/// The reason for which a call was refused.
pub fn refused_for<T>(outcome: Result<T, Status>) -> String {
    match outcome {
        Ok(_) => panic!("the call was not refused"),
        Err(status) => reason(&status),
    }
}

/// The number of the last change.
pub async fn head(service: &Service) -> i64 {
    service.app.store().feed_head().await.unwrap().seq()
}

/// The one number that a query by hand answers.
pub async fn number(service: &Service, sql: &str) -> i64 {
    let database = service.database.by_hand().await;
    let statement = Statement::from_string(database.get_database_backend(), sql);
    let row = database.query_one_raw(statement).await.unwrap().unwrap();
    row.try_get_by_index(0).unwrap()
}

/// How many key strings are kept sealed for a retry. On SQLite one that was erased is there as zeros.
pub async fn sealed_replays(service: &Service) -> i64 {
    let database = service.database.by_hand().await;
    let kept = match database.get_database_backend() {
        DbBackend::Sqlite => "replace(hex(sealed), '0', '') <> ''",
        _ => "true",
    };
    let of = |table| format!("(SELECT count(*) FROM {table} WHERE {kept})");
    number(service, &format!("SELECT {} + {}", of("sealed_replay_0"), of("sealed_replay_1"))).await
}
