//! A warm Validate as a client asks for it: over a socket, in a closed loop on four connections with 16 calls in flight
//! each, of the service's layers as they stand in the server. Client and service share the process, so what counts is the
//! comparison.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use claviger::{
    admission::CallBudgets,
    grpc::{
        api_keys::ApiKeys, observed::ObservedLayer, outer::OuterLayer, proto, short_cut::ShortCutLayer, stream::Ends,
    },
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use prost::bytes::Bytes;
use tokio::{net::TcpListener, runtime::Builder, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Error, Server, server::TcpIncoming};

use crate::{
    answers::{Answer, Tally},
    asking::{InProcess, VALIDATOR, Wrong},
    connection::{Connection, Head, VALIDATE, call, framed},
    population::{CALLER_IP, Mint, REQUIRED},
};

const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 16;

/// A service on a socket of its own.
pub struct Served {
    pub address: SocketAddr,
    serving: JoinHandle<Result<(), Error>>,
}

impl Served {
    pub async fn start(service: &InProcess) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let budgets = CallBudgets::new(4_096);
        let ends = Ends { stop: CancellationToken::new(), age: Duration::from_secs(3_600) };
        let router = Server::builder()
            .layer(ObservedLayer::new(false))
            .layer(ShortCutLayer::new(Some(Arc::clone(&service.app))))
            .layer(OuterLayer)
            .add_service(ApiKeys::server(&service.app, budgets, ends, true));
        Self { address, serving: tokio::spawn(router.serve_with_incoming(incoming)) }
    }

    pub fn stop(&self) {
        self.serving.abort();
    }
}

/// The question about each of these keys.
pub fn questions(texts: &[String]) -> Vec<Bytes> {
    let question = |text: &String| proto::ValidateRequest {
        key: text.clone(),
        caller_ip: CALLER_IP.to_owned(),
        required_scopes: REQUIRED.iter().map(ToString::to_string).collect(),
        min_revision: String::new(),
    };
    texts.iter().map(|text| framed(&question(text))).collect()
}

/// Asks all of these, and gives the microseconds a call. The client has a thread of its own.
pub fn ask_all(address: SocketAddr, questions: Vec<Bytes>, wrong: &mut Wrong) -> f64 {
    let calls = questions.len();
    let asking = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let connections = Connection::open_many(address, CONNECTIONS).await;
            let head = Head::new(address, VALIDATE, &format!("Bearer {}", Mint::new().text(VALIDATOR)));
            let next = std::cell::RefCell::new(questions.into_iter());
            let one_after_the_other = async |connection: &Connection| {
                let (mut sender, mut tally) = (connection.sender(), Tally::default());
                loop {
                    let Some(question) = next.borrow_mut().next() else { return tally };
                    tally.count(call(&mut sender, &head, question).await);
                }
            };
            let began = Instant::now();
            let loops = connections.iter().flat_map(|one| (0..IN_FLIGHT).map(move |_| one)).map(one_after_the_other);
            let tallies = loops.collect::<FuturesUnordered<_>>().collect::<Vec<_>>().await;
            (began.elapsed(), tallies)
        })
    });
    let (took, tallies) = asking.join().unwrap();
    let others = tallies.iter().map(|tally| tally.other_than(Answer::VALID)).sum();
    if others > 0 {
        wrong.add("a warm call was not answered as valid".to_owned(), others);
    }
    took.as_secs_f64() * 1e6 / calls as f64
}
