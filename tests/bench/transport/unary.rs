//! Unary calls in a closed loop: as many in flight as the shape says, each followed by the next.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{
    answers::Tally,
    connection::{Connection, Head, VALIDATE, call},
    keys::Questions,
    rounds::{Run, Shape, measured},
    servers::Server,
};

/// Calls for `warm_up`, and then for `round`, over the same connections.
pub async fn run(server: Server, questions: &Questions, shape: Shape, warm_up: Duration, round: Duration) -> Run {
    let connections = Connection::open_many(server.address, shape.connections).await;
    let head = Head::new(server.address, VALIDATE, &questions.authorization);
    let warmed = drive(&connections, &head, questions, shape, Instant::now() + warm_up).await;
    let mut run =
        measured(server, async || drive(&connections, &head, questions, shape, Instant::now() + round).await).await;
    run.tally.add(&warmed);
    run
}

async fn drive(connections: &[Connection], head: &Head, questions: &Questions, shape: Shape, until: Instant) -> Tally {
    let one_after_the_other = async |connection: &Connection| {
        let (mut sender, mut tally) = (connection.sender(), Tally::default());
        while Instant::now() < until {
            tally.count(call(&mut sender, head, questions.next_framed()).await);
        }
        tally
    };
    let loops: FuturesUnordered<_> =
        connections.iter().flat_map(|one| (0..shape.in_flight).map(move |_| one)).map(one_after_the_other).collect();
    loops
        .fold(Tally::default(), async |mut all, tally| {
            all.add(&tally);
            all
        })
        .await
}

/// Asks about each key once, so that it is answered from memory from then on.
pub async fn once_each(server: Server, questions: &Questions) -> Tally {
    let connections = Connection::open_many(server.address, 4).await;
    let head = Head::new(server.address, VALIDATE, &questions.authorization);
    let asked = questions.once_each().iter().zip(connections.iter().cycle());
    let answers = futures_util::stream::iter(asked)
        .map(async |(message, connection)| call(&mut connection.sender(), &head, message.clone()).await)
        .buffer_unordered(64);
    answers
        .fold(Tally::default(), async |mut all, answer| {
            all.count(answer);
            all
        })
        .await
}
