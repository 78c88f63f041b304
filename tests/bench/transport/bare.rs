//! What the service is compared with: tonic's server with the same generated code, nothing of ours, and one constant
//! answer.
//!
//! It reads the length of the answer and the answer from standard input, tells its address on standard output, and ends
//! with standard input.

use std::{
    io::{Read, Write},
    process,
};

use claviger::grpc::proto::{
    self,
    api_key_service_server::{ApiKeyService, ApiKeyServiceServer},
};
use prost::Message;
use tokio::net::TcpListener;
use tokio_stream::{StreamExt, adapters::Map};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};

struct Bare {
    answer: proto::ValidateResponse,
}

type Answered = Result<proto::ValidateStreamResponse, Status>;
type Answering = Box<dyn FnMut(Result<proto::ValidateStreamRequest, Status>) -> Answered + Send>;

/// Serves until its parent is gone.
pub async fn serve() {
    let mut length = [0; 4];
    std::io::stdin().lock().read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    std::io::stdin().lock().read_exact(&mut answer).unwrap();
    let answer = proto::ValidateResponse::decode(answer.as_slice()).unwrap();
    std::thread::spawn(|| {
        drop(std::io::stdin().lock().read_to_end(&mut Vec::new()));
        process::exit(0);
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    // As tonic's `serve` sets it, which cannot be given a listener.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let service = ApiKeyServiceServer::new(Bare { answer });
    Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
}

#[tonic::async_trait]
impl ApiKeyService for Bare {
    async fn validate(
        &self,
        _request: Request<proto::ValidateRequest>,
    ) -> Result<Response<proto::ValidateResponse>, Status> {
        Ok(Response::new(self.answer.clone()))
    }

    type ValidateStreamStream = Map<Streaming<proto::ValidateStreamRequest>, Answering>;

    async fn validate_stream(
        &self,
        request: Request<Streaming<proto::ValidateStreamRequest>>,
    ) -> Result<Response<Self::ValidateStreamStream>, Status> {
        let answer = self.answer.clone();
        let answering: Answering = Box::new(move |item| {
            let outcome = proto::validate_stream_response::Outcome::Response(answer.clone());
            Ok(proto::ValidateStreamResponse { sequence: item?.sequence, outcome: Some(outcome) })
        });
        Ok(Response::new(request.into_inner().map(answering)))
    }

    async fn create(&self, _: Request<proto::CreateRequest>) -> Result<Response<proto::CreateResponse>, Status> {
        Err(Status::unimplemented("bare"))
    }

    async fn get(&self, _: Request<proto::GetRequest>) -> Result<Response<proto::GetResponse>, Status> {
        Err(Status::unimplemented("bare"))
    }

    async fn list(&self, _: Request<proto::ListRequest>) -> Result<Response<proto::ListResponse>, Status> {
        Err(Status::unimplemented("bare"))
    }

    async fn update(&self, _: Request<proto::UpdateRequest>) -> Result<Response<proto::UpdateResponse>, Status> {
        Err(Status::unimplemented("bare"))
    }

    async fn delete(&self, _: Request<proto::DeleteRequest>) -> Result<Response<proto::DeleteResponse>, Status> {
        Err(Status::unimplemented("bare"))
    }

    async fn rotate(&self, _: Request<proto::RotateRequest>) -> Result<Response<proto::RotateResponse>, Status> {
        Err(Status::unimplemented("bare"))
    }
}
