//! Letting time pass. The house forbids it to everybody who could wait for a condition; whoever makes trouble at random
//! moments waits for nothing but the moment.

use std::time::Duration;

/// Lets `time` pass.
#[expect(clippy::disallowed_methods, reason = "there is no condition: the length of the pause is the point")]
pub async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Asks again and again until there is an answer.
///
/// # Errors
/// If there is none within `patience`.
pub async fn until<T, F: Future<Output = Option<T>>>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> F,
) -> Result<T, String> {
    let end = std::time::Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return Ok(answer);
        }
        if std::time::Instant::now() >= end {
            return Err(format!("waited {patience:?} in vain until {what}"));
        }
        pause(Duration::from_millis(5)).await;
    }
}
