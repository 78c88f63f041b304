//! Notices that the file of an embedded database was removed or replaced under the running service.

use std::time::Duration;

use crate::app::App;

/// How often the files are looked at: a change is noticed within a second.
const INTERVAL: Duration = Duration::from_millis(250);

/// Waits until the file of the database, its write-ahead log or its shared memory is no longer what it was when it was
/// opened, and returns the reason. With a database server it waits without end.
pub(super) async fn changed(app: &App) -> String {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        if let Err(reason) = app.store().require_same_files() {
            return reason;
        }
    }
}
