//! Clients of a replica.

use std::{net::SocketAddr, time::Duration};

use claviger::grpc::proto::api_key_service_client::ApiKeyServiceClient;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Channel, Endpoint},
};

/// A client that shows a key.
pub type Client = ApiKeyServiceClient<InterceptedService<Channel, Bearer>>;

/// Puts `authorization: Bearer …` on a call.
#[derive(Clone)]
pub struct Bearer(MetadataValue<Ascii>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// A client of the replica at `address` that calls with `key` and waits for each answer no longer than `patience`. It
/// connects when it is first used, and again after its connection broke.
pub fn connect(address: SocketAddr, key: &str, patience: Duration) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address makes a URL");
    let channel = endpoint.connect_timeout(Duration::from_secs(2)).timeout(patience).tcp_nodelay(true).connect_lazy();
    let bearer = MetadataValue::try_from(format!("Bearer {key}")).expect("key strings are visible ASCII");
    ApiKeyServiceClient::with_interceptor(channel, Bearer(bearer))
}
