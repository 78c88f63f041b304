//! A door between a replica and its database, for a test to shut.

use std::{net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

/// What goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// Everything.
    Open,
    /// Connections are accepted and kept, and nothing goes through them.
    Silent,
}

pub struct Proxy {
    door: Arc<watch::Sender<Door>>,
    _accepting: JoinSet<()>,
}

impl Proxy {
    /// Stands in front of the host and port in `url`.
    pub async fn before(url: &str) -> (Self, String) {
        let (_, rest) = url.split_once('@').unwrap();
        let (behind, _) = rest.split_once('/').unwrap();
        let behind: SocketAddr = behind.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = Arc::new(watch::Sender::new(Door::Open));
        let mut accepting = JoinSet::new();
        let watched = Arc::clone(&door);
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((front, _)) = listener.accept().await {
                connections.spawn(connect(front, behind, watched.subscribe()));
            }
        });
        let url = url.replace(&behind.to_string(), &address.to_string());
        (Self { door, _accepting: accepting }, url)
    }

    pub fn set(&self, door: Door) {
        self.door.send_replace(door);
    }
}

async fn connect(front: TcpStream, behind: SocketAddr, door: watch::Receiver<Door>) {
    let Ok(back) = TcpStream::connect(behind).await else { return };
    let ((front_read, front_write), (back_read, back_write)) = (front.into_split(), back.into_split());
    tokio::join!(forward(front_read, back_write, door.clone()), forward(back_read, front_write, door));
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut door: watch::Receiver<Door>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if door.wait_for(|door| *door == Door::Open).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
