//! A certificate and its key: read from their files, judged, and made ready to be served.

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::{
    Error as TlsError, InconsistentKeys, ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};
use zeroize::Zeroizing;

use crate::{data_folder, domain::Time};

/// The only protocol that is spoken inside of TLS.
pub(crate) const ALPN: &[u8] = b"h2";

/// The most bytes of a certificate file that are read: far more than any chain has.
const MAX_CHAIN: u64 = 1024 * 1024;

/// The files of a certificate, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The service's own certificate, and behind it those that signed it.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// All that is wrong with a pair of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable(Vec<String>);

impl Unusable {
    /// On one line, for a log.
    pub(super) fn line(&self) -> String {
        self.0.join("; ")
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificate cannot be served:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Unusable {}

/// What is in the two files at one moment.
pub(super) struct Texts {
    cert: Vec<u8>,
    key: Zeroizing<String>,
}

/// A pair that is ready to be served.
pub(super) struct Pair {
    /// For handshakes.
    pub(super) config: Arc<ServerConfig>,
    /// What can be told of the service's own certificate.
    pub(super) leaf: Leaf,
}

/// What can be told of the service's own certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leaf {
    /// From when it is good; none if that cannot be read.
    pub begin: Option<Time>,
    /// Until when it is good; none if that cannot be read.
    pub expiry: Option<Time>,
    /// The DNS names that it is for.
    pub names: Vec<String>,
    /// The addresses that it is for.
    pub addresses: Vec<IpAddr>,
    /// SHA-256, in hexadecimal digits.
    pub fingerprint: String,
}

impl Files {
    /// Reads both.
    pub(super) fn read(&self) -> Result<Texts, Unusable> {
        let cert = read_chain(&self.cert).map_err(|what| self.of_cert(what));
        let key = data_folder::read_secret_file(&self.key).map_err(|what| self.of_key(what));
        match (cert, key) {
            (Ok(cert), Ok(key)) => Ok(Texts { cert, key }),
            (cert, key) => Err(Unusable(cert.err().into_iter().chain(key.err()).collect())),
        }
    }

    fn of_cert(&self, what: impl fmt::Display) -> String {
        format!("CLAVIGER_TLS_CERT: {} {what}", self.cert.display())
    }

    fn of_key(&self, what: impl fmt::Display) -> String {
        format!("CLAVIGER_TLS_KEY: {} {what}", self.key.display())
    }
}

fn read_chain(path: &Path) -> Result<Vec<u8>, String> {
    let told = |error: io::Error| format!("cannot be read: {error}");
    if fs::metadata(path).map_err(told)?.is_dir() {
        return Err("is a folder; name the file in it".to_owned());
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_CHAIN).read_to_end(&mut bytes)).map_err(told)?;
    Ok(bytes)
}

impl Texts {
    /// Tells these contents from others.
    pub(super) fn print(&self) -> [u8; 32] {
        let length = u64::try_from(self.cert.len()).unwrap_or(u64::MAX).to_be_bytes();
        Sha256::new().chain_update(length).chain_update(&self.cert).chain_update(self.key.as_bytes()).finalize().into()
    }

    /// Judges both, and whether they belong together. An expired certificate is served, too: whether to trust it is the
    /// client's decision, and those that are told by its absence would be told less.
    pub(super) fn load(&self, files: &Files) -> Result<Pair, Unusable> {
        let (chain, key) = match (chain(&self.cert), key(&self.key)) {
            (Ok(chain), Ok(key)) => (chain, key),
            (chain, key) => {
                let cert = chain.err().map(|what| files.of_cert(what));
                let key = key.err().map(|what| files.of_key(what));
                return Err(Unusable(cert.into_iter().chain(key).collect()));
            }
        };
        let one = |problem: String| Unusable(vec![problem]);
        let provider = super::provider();
        let key = provider.key_provider.load_private_key(key).map_err(|_| {
            one(files.of_key("holds no key of a kind that is supported; use ECDSA on P-256 or P-384, RSA or Ed25519"))
        })?;
        let leaf = chain.first().map(leaf_of).unwrap_or_default();
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            // A key that cannot tell its public half is taken at its word, as rustls does.
            Ok(()) | Err(TlsError::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(TlsError::InconsistentKeys(_)) => {
                return Err(one(files.of_key(format_args!(
                    "does not belong to the first certificate in {}; the service's own certificate comes first, those \
                     that signed it behind it",
                    files.cert.display()
                ))));
            }
            Err(_) => {
                return Err(one(files.of_cert("begins with something that is no certificate of X.509 version 3")));
            }
        }
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12]);
        let builder = builder.map_err(|error| one(files.of_cert(format_args!("cannot be served: {error}"))))?;
        let resolver = Arc::new(SingleCertAndKey::from(certified));
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Pair { config: Arc::new(config), leaf })
    }
}

fn chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().map_err(|e| damage(&e))?;
    if !chain.is_empty() {
        return Ok(chain);
    }
    Err(if text.is_empty() {
        "is empty; it has to be PEM: the service's own certificate first, those that signed it behind it"
    } else if PrivateKeyDer::from_pem_slice(text).is_ok() {
        "holds a private key and no certificate; are the two files mixed up?"
    } else {
        "holds no certificate; it has to be PEM: the service's own certificate first, those that signed it behind it"
    })
}

fn key(text: &str) -> Result<PrivateKeyDer<'static>, &'static str> {
    match PrivateKeyDer::from_pem_slice(text.as_bytes()) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => Err(if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") {
            "holds a key behind a passphrase, and nobody is there to type it; take it off with `openssl pkey`"
        } else if text.contains("-----BEGIN CERTIFICATE-----") {
            "holds a certificate and no private key; are the two files mixed up?"
        } else {
            "holds no private key; it has to be PEM, of PKCS#8, PKCS#1 or SEC1"
        }),
        Err(error) => Err(damage(&error)),
    }
}

/// What is wrong with a PEM file, without a word of what is in it.
fn damage(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "is cut off: the last block of its PEM has no end",
        _ => "is damaged: its PEM cannot be read",
    }
}

/// What can be told of a certificate that rustls serves; what cannot be read is left out.
fn leaf_of(certificate: &CertificateDer<'_>) -> Leaf {
    let mut fingerprint = String::with_capacity(64);
    for byte in Sha256::digest(certificate) {
        let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
        fingerprint.extend([digit(byte >> 4), digit(byte & 0xF)]);
    }
    let Ok(parsed) = Certificate::from_der(certificate) else { return Leaf { fingerprint, ..Leaf::default() } };
    let tbs = parsed.tbs_certificate();
    let time = |time: x509_cert::time::Time| {
        i64::try_from(time.to_unix_duration().as_secs()).ok().and_then(|seconds| Time::from_timestamp(seconds, 0))
    };
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    if let Ok(Some((_, SubjectAltName(all)))) = tbs.get_extension::<SubjectAltName>() {
        for name in all {
            match name {
                GeneralName::DnsName(name) => names.push(name.to_string()),
                GeneralName::IpAddress(octets) => addresses.extend(address(octets.as_bytes())),
                _ => {}
            }
        }
    }
    let validity = tbs.validity();
    Leaf { begin: time(validity.not_before), expiry: time(validity.not_after), names, addresses, fingerprint }
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}
