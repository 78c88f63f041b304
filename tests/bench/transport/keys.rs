//! The keys that are asked about, made over the socket, and the order in which they are asked about.

use std::{
    cell::Cell,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use claviger::{
    app::offline_key,
    domain::{
        key_string::{KeyFormat, Prefix},
        root_secret::{RootId, RootSecret},
    },
    grpc::proto,
};
use prost::bytes::Bytes;

use super::{
    connection::framed,
    harness::{client_of, key_of},
    servers::Real,
};

/// Creates at a time.
const CREATES: usize = 32;
/// How many choices of a key are made beforehand.
const CHOICES: usize = 1 << 17;

/// What is asked, again and again.
pub struct Questions {
    /// The `authorization` of the caller.
    pub authorization: String,
    requests: Vec<proto::ValidateRequest>,
    /// The requests, framed for a unary call.
    framed: Vec<Bytes>,
    /// Which of them is asked when.
    choices: Vec<u32>,
    next: Cell<usize>,
}

impl Questions {
    /// Makes `count` keys, and the caller's own.
    pub async fn make(real: &Real, count: usize) -> Self {
        let scopes = ["claviger:validate", "claviger:all-merchants"];
        let caller = create(real, key_of("gateway", &scopes)).await;
        let next = Arc::new(AtomicUsize::new(0));
        let channel = real.serving.channel();
        let mut workers = Vec::new();
        for _ in 0..CREATES {
            let (next, mut client) = (Arc::clone(&next), client_of(channel.clone(), &real.admin));
            workers.push(tokio::spawn(async move {
                let mut made = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return made;
                    }
                    let request = proto::CreateRequest { api_key: Some(settings(number)), ..Default::default() };
                    made.push(client.create(request).await.unwrap().into_inner().key);
                }
            }));
        }
        let mut keys = Vec::with_capacity(count);
        for worker in workers {
            keys.extend(worker.await.unwrap());
        }
        let requests: Vec<_> = keys.into_iter().map(question).collect();
        let framed = requests.iter().map(framed).collect();
        let choices = zipf(count);
        Self { authorization: format!("Bearer {caller}"), requests, framed, choices, next: Cell::new(0) }
    }

    /// One of the questions.
    pub fn any(&self) -> &proto::ValidateRequest {
        &self.requests[0]
    }

    pub fn requests(&self) -> &[proto::ValidateRequest] {
        &self.requests
    }

    /// All of them, once each.
    pub fn once_each(&self) -> &[Bytes] {
        &self.framed
    }

    /// The next one to ask, by its number.
    pub fn next(&self) -> usize {
        let next = self.next.get();
        self.next.set(next + 1);
        self.choices[next % CHOICES] as usize
    }

    /// The next one to ask, framed.
    pub fn next_framed(&self) -> Bytes {
        self.framed[self.next()].clone()
    }
}

/// Questions with key strings of the right form and checksum that this deployment never made, no two alike, framed.
pub fn forged(questions: &Questions, count: usize) -> Vec<Bytes> {
    // Under a root secret that is unknown here the tag would not even be computed: it is said to be the one in use.
    let genuine = &questions.any().key;
    let root = genuine.as_bytes()[genuine.rfind('_').unwrap() + 1];
    let stranger = RootSecret::derive(RootId::new(char::from(root)).unwrap(), &[8; 32]);
    let format = KeyFormat::new(Prefix::default(), vec![]);
    let one = || framed(&question(offline_key(&format, &stranger).unwrap().reveal().to_owned()));
    std::iter::repeat_with(one).take(count).collect()
}

async fn create(real: &Real, key: proto::ApiKey) -> String {
    let request = proto::CreateRequest { api_key: Some(key), ..Default::default() };
    real.serving.client(&real.admin).create(request).await.unwrap().into_inner().key
}

/// Texts of the same length for each key, so that the one answer of the bare service is as long as each of ours.
fn settings(number: usize) -> proto::ApiKey {
    let mut key = key_of(&format!("merchant-{number:07}"), &["charge:create", "charge:read", "refund:create"]);
    key.allowed_ips = vec!["192.0.2.0/24".into(), "2001:db8::/32".into()];
    key.labels =
        [("shop".to_owned(), format!("{number:07}")), ("till".to_owned(), format!("{:02}", number % 50))].into();
    key
}

fn question(key: String) -> proto::ValidateRequest {
    proto::ValidateRequest {
        key,
        caller_ip: "192.0.2.7".into(),
        required_scopes: vec!["charge:create".into(), "charge:read".into()],
        ..Default::default()
    }
}

/// Numbers below `count`, the first twice as often as the second and three times as often as the third: Zipf's law with
/// the exponent 1. The same at each run.
fn zipf(count: usize) -> Vec<u32> {
    let mut sums = Vec::with_capacity(count);
    let mut sum = 0.0;
    for rank in 1..=count {
        sum += 1.0 / rank as f64;
        sums.push(sum);
    }
    // A generator of Lehmer's, with the multiplier of Park and Miller: its numbers need not surprise anybody.
    let mut state = 1_u64;
    let dice = || {
        state = state * 48_271 % 0x7fff_ffff;
        state as f64 / f64::from(0x7fff_ffff_u32) * sum
    };
    let thrown = std::iter::repeat_with(dice).take(CHOICES);
    thrown.map(|dice| sums.partition_point(|below| *below < dice).min(count - 1) as u32).collect()
}
