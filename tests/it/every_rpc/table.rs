//! The table: each RPC that needs a key, the scope that allows it, what it is asked about, and how it is called.

use std::{future::Future, pin::Pin};

use claviger::{
    domain::scope,
    grpc::proto::{self, DecisionCode, api_key_service_client::ApiKeyServiceClient},
};
use prost_types::FieldMask;
use tonic::{
    Status,
    metadata::MetadataValue,
    service::{Interceptor, interceptor::InterceptedService},
    transport::Channel,
};

use crate::harness::{Service, key_of, reason};

type RawClient = ApiKeyServiceClient<InterceptedService<Channel, Authorization>>;
type Answer = Pin<Box<dyn Future<Output = Result<String, Status>> + Send>>;

/// One line of the table.
pub struct Rpc {
    pub path: &'static str,
    /// The scope that allows it.
    pub scope: &'static str,
    /// What it is asked about.
    pub about: About,
    /// Makes the call and says what came of it, `OK` or a decision.
    call: fn(RawClient, Subject) -> Answer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// The keys of a merchant, by the merchant's name.
    Merchant,
    /// A key, which is read.
    Key,
    /// A key, which is changed.
    KeyToChange,
    /// A key string.
    KeyString,
}

#[derive(Clone)]
pub struct Subject {
    pub id: String,
    pub key: String,
    pub merchant: String,
    /// What stands beside the id.
    pub guard: String,
}

pub fn table() -> Vec<Rpc> {
    vec![
        Rpc {
            path: "claviger.v1.ApiKeyService/Create",
            scope: scope::KEYS_WRITE,
            about: About::Merchant,
            call: |mut client, on| {
                Box::pin(async move {
                    let api_key = Some(key_of(&on.merchant, &[]));
                    client.create(proto::CreateRequest { api_key, ..Default::default() }).await.map(ok)
                })
            },
        },
        Rpc {
            path: "claviger.v1.ApiKeyService/Get",
            scope: scope::KEYS_READ,
            about: About::Key,
            call: |mut client, on| {
                Box::pin(async move {
                    client.get(proto::GetRequest { id: on.id, merchant_username: on.guard }).await.map(ok)
                })
            },
        },
        Rpc {
            path: "claviger.v1.ApiKeyService/List",
            scope: scope::KEYS_READ,
            about: About::Merchant,
            call: |mut client, on| {
                Box::pin(async move {
                    let request = proto::ListRequest { merchant_username: on.merchant.clone(), ..Default::default() };
                    let listed = client.list(request).await?.into_inner().api_keys;
                    assert!(listed.iter().all(|key| key.merchant_username == on.merchant));
                    Ok("OK".to_owned())
                })
            },
        },
        Rpc {
            path: "claviger.v1.ApiKeyService/Update",
            scope: scope::KEYS_WRITE,
            about: About::KeyToChange,
            call: |mut client, on| {
                Box::pin(async move {
                    let api_key = Some(proto::ApiKey {
                        id: on.id,
                        merchant_username: on.guard,
                        display_name: "changed".into(),
                        ..Default::default()
                    });
                    let update_mask = Some(FieldMask { paths: vec!["display_name".into()] });
                    client.update(proto::UpdateRequest { api_key, update_mask, ..Default::default() }).await.map(ok)
                })
            },
        },
        Rpc {
            path: "claviger.v1.ApiKeyService/Delete",
            scope: scope::KEYS_WRITE,
            about: About::KeyToChange,
            call: |mut client, on| {
                Box::pin(async move {
                    let request = proto::DeleteRequest { id: on.id, merchant_username: on.guard, ..Default::default() };
                    client.delete(request).await.map(ok)
                })
            },
        },
        Rpc {
            path: "claviger.v1.ApiKeyService/Rotate",
            scope: scope::KEYS_WRITE,
            about: About::KeyToChange,
            call: |mut client, on| {
                Box::pin(async move {
                    let request = proto::RotateRequest { id: on.id, merchant_username: on.guard, ..Default::default() };
                    client.rotate(request).await.map(ok)
                })
            },
        },
        Rpc {
            path: "claviger.v1.ApiKeyService/Validate",
            scope: scope::VALIDATE,
            about: About::KeyString,
            call: |mut client, on| {
                Box::pin(async move {
                    let answer = client
                        .validate(proto::ValidateRequest { key: on.key, ..Default::default() })
                        .await?
                        .into_inner();
                    Ok(decided(&answer))
                })
            },
        },
        Rpc {
            path: "claviger.v1.ApiKeyService/ValidateStream",
            scope: scope::VALIDATE,
            about: About::KeyString,
            call: |mut client, on| {
                Box::pin(async move {
                    let request = Some(proto::ValidateRequest { key: on.key, ..Default::default() });
                    let item = proto::ValidateStreamRequest { sequence: 1, request };
                    let mut answers = client.validate_stream(tokio_stream::once(item)).await?.into_inner();
                    let answer = answers.message().await?.expect("an item is answered or ends the stream");
                    match answer.outcome {
                        Some(proto::validate_stream_response::Outcome::Response(answer)) => Ok(decided(&answer)),
                        other => panic!("{other:?}"),
                    }
                })
            },
        },
    ]
}

fn decided(answer: &proto::ValidateResponse) -> String {
    if answer.code() == DecisionCode::NotFound {
        assert!(answer.key_id.is_empty() && answer.principal.is_none());
    }
    format!("{:?}", answer.code())
}

fn ok<T>(_: T) -> String {
    "OK".to_owned()
}

impl Rpc {
    /// Calls with these `authorization` headers and says what came of it in words.
    pub async fn ask(&self, service: &Service, headers: &[String], subject: &Subject) -> String {
        let client = ApiKeyServiceClient::with_interceptor(service.channel(), Authorization(headers.to_vec()));
        match (self.call)(client, subject.clone()).await {
            Ok(answer) => answer,
            Err(status) => format!("{:?} {}", status.code(), reason(&status)),
        }
    }

    pub async fn ask_as(&self, service: &Service, caller: &str, subject: &Subject) -> String {
        self.ask(service, &[format!("Bearer {caller}")], subject).await
    }

    /// The answer to a caller who may.
    pub fn granted(&self) -> &'static str {
        if self.about == About::KeyString { "Valid" } else { "OK" }
    }
}

/// Puts any `authorization` headers on a call.
#[derive(Clone)]
pub struct Authorization(Vec<String>);

impl Interceptor for Authorization {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        for header in &self.0 {
            request.metadata_mut().append("authorization", MetadataValue::try_from(header.as_str()).unwrap());
        }
        Ok(request)
    }
}
