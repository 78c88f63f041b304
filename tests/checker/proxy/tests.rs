//! Each trouble is what it says, seen from a client whose server gives back what it gets, after its name.

use std::io::ErrorKind;

use super::*;

/// A server that gives back what it gets, each time after `name`.
async fn echo(name: &'static str) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 256];
                while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                    let answer = [name.as_bytes(), &buffer[..read]].concat();
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    port
}

async fn proxy() -> Proxy {
    Proxy::start(echo("one ").await, Clock::start()).await.unwrap()
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(loopback(proxy.port())).await.unwrap()
}

/// What comes within `patience`; none if nothing does.
async fn answer(stream: &mut TcpStream, patience: Duration) -> Option<std::io::Result<String>> {
    let mut buffer = [0; 256];
    let read = tokio::time::timeout(patience, stream.read(&mut buffer)).await.ok()?;
    Some(read.map(|read| String::from_utf8_lossy(&buffer[..read]).into_owned()))
}

/// Sends `text` and gives what comes back soon.
async fn said(stream: &mut TcpStream, text: &str) -> Option<String> {
    stream.write_all(text.as_bytes()).await.unwrap();
    answer(stream, Duration::from_millis(300)).await.map(Result::unwrap)
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn silence_holds_everything_back_until_it_ends() {
    let proxy = proxy().await;
    let mut old = connect(&proxy).await;
    assert_eq!(said(&mut old, "a").await.as_deref(), Some("one a"));
    assert_eq!(proxy.silent_since(), None);
    proxy.silence();
    let mut new = connect(&proxy).await;
    assert_eq!((said(&mut old, "b").await, said(&mut new, "c").await), (None, None));
    assert!(proxy.silent_since().is_some());
    proxy.speak();
    assert_eq!(answer(&mut old, LONG).await.unwrap().unwrap(), "one b");
    assert_eq!(answer(&mut new, LONG).await.unwrap().unwrap(), "one c");
    assert_eq!(proxy.silent_since(), None);
}

#[tokio::test]
async fn answers_are_late_and_no_longer_when_that_ends() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    proxy.make_late(Duration::from_millis(150));
    let begun = Instant::now();
    assert_eq!(said(&mut stream, "a").await.as_deref(), Some("one a"));
    assert!(begun.elapsed() >= Duration::from_millis(150));
    proxy.make_late(LONG * 10);
    assert_eq!(said(&mut stream, "b").await, None);
    proxy.make_late(Duration::ZERO);
    assert_eq!(answer(&mut stream, LONG).await.unwrap().unwrap(), "one b");
}

#[tokio::test]
async fn an_answer_is_cut_in_the_middle() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(said(&mut stream, "a").await.as_deref(), Some("one a"));
    proxy.cut();
    stream.write_all(b"0123456789ABCDEF").await.unwrap();
    let mut all = Vec::new();
    let end = tokio::time::timeout(LONG, stream.read_to_end(&mut all)).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(all, b"one 012345");
    let mut next = connect(&proxy).await;
    assert_eq!(said(&mut next, "b").await.as_deref(), Some("one b"));
}

#[tokio::test]
async fn connections_are_reset_and_new_ones_made() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(said(&mut stream, "a").await.as_deref(), Some("one a"));
    proxy.reset();
    assert_eq!(answer(&mut stream, LONG).await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut next = connect(&proxy).await;
    assert_eq!(said(&mut next, "b").await.as_deref(), Some("one b"));
}

#[tokio::test]
async fn a_half_open_connection_takes_everything_and_says_nothing() {
    let proxy = proxy().await;
    let mut stream = connect(&proxy).await;
    assert_eq!(said(&mut stream, "a").await.as_deref(), Some("one a"));
    proxy.half_open();
    assert_eq!((said(&mut stream, "b").await, said(&mut stream, "c").await), (None, None));
    let mut next = connect(&proxy).await;
    assert_eq!(said(&mut next, "d").await.as_deref(), Some("one d"));
}

#[tokio::test]
async fn connections_are_led_astray_and_back_and_to_a_new_primary() {
    let (proxy, other, third) = (proxy().await, echo("two ").await, echo("three ").await);
    proxy.lead_astray(other, false);
    assert_eq!(said(&mut connect(&proxy).await, "a").await.as_deref(), Some("two a"));
    proxy.lead_back();
    assert_eq!(said(&mut connect(&proxy).await, "b").await.as_deref(), Some("one b"));
    proxy.lead_astray(other, true);
    let (one, two) = (said(&mut connect(&proxy).await, "c").await, said(&mut connect(&proxy).await, "d").await);
    let mut both = [one.unwrap(), two.unwrap()];
    both.sort_unstable_by_key(|text| text.starts_with("two"));
    assert!(both[0].starts_with("one ") && both[1].starts_with("two "), "{both:?}");
    proxy.lead_back();
    proxy.move_to(third);
    assert_eq!(said(&mut connect(&proxy).await, "e").await.as_deref(), Some("three e"));
}
