//! The worker that looks whether the files of the certificate have changed.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, alarms::Alarm},
    tls::{Certificates, Look},
};

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(5);
/// How soon a change is looked at again.
const SOON: Duration = Duration::from_secs(1);

/// Looks until `stop`. Without a certificate there is nothing to look at.
pub(super) async fn watch(
    certificates: Option<Arc<Certificates>>,
    app: Arc<App>,
    stop: CancellationToken,
) -> &'static str {
    let Some(certificates) = certificates else {
        stop.cancelled().await;
        return "certificates";
    };
    let mut pause = INTERVAL;
    while tokio::time::timeout(pause, stop.cancelled()).await.is_err() {
        let (certificates, now) = (Arc::clone(&certificates), app.now());
        // The files may lie on something slow.
        match tokio::task::spawn_blocking(move || certificates.look(now)).await {
            Ok(Look::Changing) => pause = SOON,
            Ok(found) => {
                if found == Look::Unusable {
                    app.alarms().count(Alarm::CertificateUnusable);
                }
                pause = INTERVAL;
            }
            Err(_) => break,
        }
    }
    "certificates"
}
