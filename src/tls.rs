//! The certificate that the service shows: read from two files, served, and read again when they change.
//!
//! A change is seen by content, at each look, whatever way the files were exchanged: Kubernetes swaps a symbolic link
//! that is not even in the path. New contents are taken when two looks in a row have found the same, and are an alarm
//! when they cannot be served and are still there at a third: a pair that is just being written is neither. What cannot
//! be served leaves what is served in place.

mod pair;

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
};

pub(crate) use self::pair::ALPN;
use self::pair::Pair;
pub use self::pair::{Files, Leaf, Unusable};
use crate::{app::alarms::Alarm, domain::Time};

/// Makes ring the cryptography of all TLS in this process, also where a library asks for none by name. To be called
/// first; a second call changes nothing.
pub fn use_ring() {
    // It fails only if there is one already.
    let _ = ring::default_provider().install_default();
}

/// The cryptography of TLS.
fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().map_or_else(|| Arc::new(ring::default_provider()), Arc::clone)
}

/// The certificate that is served, and the watch over its files.
pub struct Certificates {
    files: Files,
    served: RwLock<Pair>,
    watch: Mutex<Watch>,
    reloads: AtomicU64,
    unusable: AtomicU64,
}

/// What was seen of the files. Contents are known by their digests.
struct Watch {
    /// At the last look.
    seen: [u8; 32],
    /// How many looks in a row have found it.
    looks: u32,
    /// The last that was taken, or raised an alarm.
    judged: [u8; 32],
    told_of_time: bool,
}

/// What a look at the files has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing that is new.
    Same,
    /// Something new, perhaps still being written. It is worth a second look soon.
    Changing,
    /// Something new that cannot be served, perhaps half of a pair.
    Doubtful,
    /// Something new that is served from now on.
    Taken,
    /// Something new that stays and cannot be served.
    Unusable,
}

impl Certificates {
    /// Reads and judges both files.
    ///
    /// # Errors
    /// All that is wrong with them, with their paths.
    pub fn open(files: Files, now: Time) -> Result<Self, Unusable> {
        let texts = files.read()?;
        let (print, pair) = (texts.print(), texts.load(&files)?);
        let watch = Watch { seen: print, looks: 1, judged: print, told_of_time: false };
        let certificates = Self {
            files,
            served: RwLock::new(pair),
            watch: Mutex::new(watch),
            reloads: AtomicU64::new(0),
            unusable: AtomicU64::new(0),
        };
        certificates.tell("serving a certificate");
        certificates.warn_of_time(now);
        Ok(certificates)
    }

    /// Looks at the files again, and serves what is new and good. It reads files, and blocks as long as that takes.
    pub fn look(&self, now: Time) -> Look {
        let found = self.look_at_files();
        self.warn_of_time(now);
        found
    }

    fn look_at_files(&self) -> Look {
        let texts = self.files.read();
        let print = match &texts {
            Ok(texts) => texts.print(),
            Err(unusable) => Sha256::digest(unusable.line()).into(),
        };
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.looks = if watch.seen == print { watch.looks.saturating_add(1) } else { 1 };
        watch.seen = print;
        if watch.judged == print {
            return Look::Same;
        }
        if watch.looks == 1 {
            return Look::Changing;
        }
        match texts.and_then(|texts| texts.load(&self.files)) {
            Ok(pair) => {
                *self.served.write().unwrap_or_else(PoisonError::into_inner) = pair;
                (watch.judged, watch.told_of_time) = (print, false);
                self.reloads.fetch_add(1, Ordering::Relaxed);
                self.tell("serving a certificate that has changed; connections that are open go on");
                Look::Taken
            }
            Err(_) if watch.looks == 2 => Look::Doubtful,
            Err(unusable) => {
                watch.judged = print;
                self.unusable.fetch_add(1, Ordering::Relaxed);
                tracing::error!(
                    alarm = Alarm::CertificateUnusable.name(),
                    what = unusable.line(),
                    "a changed certificate cannot be served; the one before is kept"
                );
                Look::Unusable
            }
        }
    }

    /// How to shake hands with the next connection.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.served(|pair| Arc::clone(&pair.config))
    }

    /// What can be told of the certificate that is served.
    pub fn leaf(&self) -> Leaf {
        self.served(|pair| pair.leaf.clone())
    }

    /// Until when the certificate that is served is good; none if that cannot be read in it.
    pub fn expiry(&self) -> Option<Time> {
        self.served(|pair| pair.leaf.expiry)
    }

    /// How often a certificate has been exchanged for a new one.
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// How often changed files could not be served; each new content counts once.
    pub fn unusable(&self) -> u64 {
        self.unusable.load(Ordering::Relaxed)
    }

    fn served<T>(&self, read: impl FnOnce(&Pair) -> T) -> T {
        read(&self.served.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, message: &'static str) {
        let Leaf { expiry, names, addresses, fingerprint, .. } = self.leaf();
        let until = expiry.map(rfc_3339).unwrap_or_default();
        tracing::info!(until, ?names, ?addresses, sha256 = fingerprint, "{message}");
    }

    /// Warns once of a certificate that clients will refuse for its time.
    fn warn_of_time(&self, now: Time) {
        let Leaf { begin, expiry, .. } = self.leaf();
        let over = expiry.filter(|expiry| *expiry < now);
        let early = begin.filter(|begin| now < *begin);
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if (over.is_none() && early.is_none()) || std::mem::replace(&mut watch.told_of_time, true) {
            return;
        }
        if let Some(expiry) = over {
            tracing::warn!(until = rfc_3339(expiry), "the certificate that is served has expired; clients refuse it");
        } else if let Some(begin) = early {
            tracing::warn!(from = rfc_3339(begin), "the certificate that is served is not good yet; clients refuse it");
        }
    }
}

fn rfc_3339(time: Time) -> String {
    let seconds = u64::try_from(time.to_timestamp().0).unwrap_or(0);
    humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).to_string()
}

#[cfg(test)]
mod tests;
