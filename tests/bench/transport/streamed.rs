//! One stream a connection, with so many items asked and not answered yet. What is ready goes out in one frame, as with
//! any client that has more than one thing to ask.

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use h2::{RecvStream, SendStream};
use prost::{
    Message,
    bytes::{BufMut, Bytes, BytesMut},
};

use super::{
    answers::{Answer, Item, Tally},
    connection::{Connection, Head, VALIDATE_STREAM, ended, failure, take_message},
    keys::Questions,
    rounds::{Run, Shape, measured},
    servers::Server,
};

/// How far apart the oldest question without an answer and the newest one may be.
const RING: usize = 4_096;
const FREE: u64 = u64::MAX;

/// A `ValidateStreamRequest` whose question is encoded already: the same bytes.
#[derive(Clone, PartialEq, prost::Message)]
struct Asked {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(bytes = "bytes", tag = "2")]
    request: Bytes,
}

/// Asks for `warm_up`, and then for `round`, over the same connections.
pub async fn run(server: Server, questions: &Questions, shape: Shape, warm_up: Duration, round: Duration) -> Run {
    let connections = Connection::open_many(server.address, shape.connections).await;
    let head = Head::new(server.address, VALIDATE_STREAM, &questions.authorization);
    let warmed = drive(&connections, &head, questions, shape, Instant::now() + warm_up).await;
    let mut run =
        measured(server, async || drive(&connections, &head, questions, shape, Instant::now() + round).await).await;
    run.tally.add(&warmed);
    run
}

async fn drive(connections: &[Connection], head: &Head, questions: &Questions, shape: Shape, until: Instant) -> Tally {
    let streams: FuturesUnordered<_> =
        connections.iter().map(|connection| ask(connection, head, questions, shape.in_flight, until)).collect();
    streams
        .fold(Tally::default(), async |mut all, tally| {
            all.add(&tally);
            all
        })
        .await
}

/// One stream from its beginning to its status.
async fn ask(connection: &Connection, head: &Head, questions: &Questions, most: usize, until: Instant) -> Tally {
    let mut stream =
        Asking { pending: vec![FREE; RING], next: 0, open: 0, most, rest: Bytes::new(), tally: Tally::default() };
    if let Err(answer) = stream.run(connection, head, questions, until).await {
        // Nothing else will come of what is still open.
        for _ in 0..stream.open.max(1) {
            stream.tally.count(answer);
        }
    }
    stream.tally
}

struct Asking {
    /// The questions without an answer, each at the place that its number modulo the size of the ring says: answers may
    /// come in any order.
    pending: Vec<u64>,
    next: u64,
    open: usize,
    most: usize,
    /// The beginning of an answer that has not come whole.
    rest: Bytes,
    tally: Tally,
}

impl Asking {
    async fn run(
        &mut self,
        connection: &Connection,
        head: &Head,
        questions: &Questions,
        until: Instant,
    ) -> Result<(), Answer> {
        let broken = |_: h2::Error| Answer::Broken;
        let (response, mut out) = connection.sender().send_request(head.request(), false).map_err(broken)?;
        self.ask_more(&mut out, questions)?;
        let response = response.await.map_err(broken)?;
        if let Some(failed) = failure(response.headers()) {
            return Err(failed);
        }
        let mut answers = response.into_body();
        while self.open > 0 {
            let Some(chunk) = answers.data().await else {
                return Err(ended(&mut answers).await.unwrap_or(Answer::Broken));
            };
            self.read(chunk.map_err(broken)?, &mut answers)?;
            // Whatever else is there already, so that what follows it goes out in one frame.
            while let Some(Some(chunk)) = poll_fn(|context| answers.poll_data(context)).now_or_never() {
                self.read(chunk.map_err(broken)?, &mut answers)?;
            }
            if Instant::now() < until {
                self.ask_more(&mut out, questions)?;
            }
        }
        out.send_data(Bytes::new(), true).map_err(broken)?;
        if answers.data().await.is_some() {
            return Err(Answer::Unreadable);
        }
        ended(&mut answers).await.map_or(Ok(()), Err)
    }

    fn ask_more(&mut self, out: &mut SendStream<Bytes>, questions: &Questions) -> Result<(), Answer> {
        let mut frame = BytesMut::with_capacity((self.most - self.open) * 256);
        while self.open < self.most && self.pending[self.place(self.next)] == FREE {
            let asked = Asked { sequence: self.next, request: questions.next_framed().slice(5..) };
            frame.put_u8(0);
            frame.put_u32(u32::try_from(asked.encoded_len()).unwrap());
            asked.encode(&mut frame).unwrap();
            let place = self.place(self.next);
            self.pending[place] = self.next;
            self.next += 1;
            self.open += 1;
        }
        if frame.is_empty() { Ok(()) } else { out.send_data(frame.freeze(), false).map_err(|_| Answer::Broken) }
    }

    fn read(&mut self, chunk: Bytes, from: &mut RecvStream) -> Result<(), Answer> {
        from.flow_control().release_capacity(chunk.len()).map_err(|_| Answer::Broken)?;
        let rest = std::mem::take(&mut self.rest);
        let mut bytes = if rest.is_empty() { chunk } else { [rest, chunk].concat().into() };
        while let Some(message) = take_message(&mut bytes) {
            let item = Item::decode(message).map_err(|_| Answer::Unreadable)?;
            let place = self.place(item.sequence);
            if self.pending[place] != item.sequence {
                return Err(Answer::Unreadable);
            }
            self.pending[place] = FREE;
            self.open -= 1;
            self.tally.count(item.into());
        }
        self.rest = bytes;
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "it reads as a question to the ring")]
    fn place(&self, sequence: u64) -> usize {
        sequence as usize % RING
    }
}
