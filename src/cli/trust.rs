//! Whom to trust at the other end of TLS, and what to say when it is somebody else.

use std::{error::Error as StdError, fs, io, path::PathBuf, time::Duration};

use clap::Args;
use tokio_rustls::rustls::{
    self, CertificateError, RootCertStore,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Uri};

use super::exit::{Exit, Failure};

/// Whom to trust.
#[derive(Args, Clone, Debug)]
pub(super) struct TrustArgs {
    /// With https: whom to trust to sign certificates, a PEM file, instead of those that this machine trusts
    #[arg(long, global = true, value_name = "FILE", env = "CLAVIGER_CA_FILE", hide_env_values = true)]
    ca_file: Option<PathBuf>,

    /// With https: the name that the certificate has to be for, if it is not that in the address
    #[arg(
        long, global = true, value_name = "NAME", value_parser = name,
        env = "CLAVIGER_SERVER_NAME", hide_env_values = true
    )]
    server_name: Option<String>,
}

fn name(text: &str) -> Result<String, &'static str> {
    match ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("it is no DNS name and no address; write it like keys.example"),
    }
}

/// Whether `uri` asks for TLS.
pub(super) fn is_tls(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

impl TrustArgs {
    /// The endpoint with TLS, if its address asks for it.
    pub(super) fn apply(&self, endpoint: Endpoint) -> Result<Endpoint, Failure> {
        if !is_tls(endpoint.uri()) {
            let meant_for_tls = [
                self.ca_file.as_ref().map(|_| "--ca-file or CLAVIGER_CA_FILE is given"),
                self.server_name.as_ref().map(|_| "--server-name or CLAVIGER_SERVER_NAME is given"),
            ];
            return match meant_for_tls.into_iter().flatten().next() {
                None => Ok(endpoint),
                Some(what) => Err(Failure::new(Exit::Usage, format!("{what}, but the address begins with http://"))
                    .line("Nothing would be checked and nothing encrypted: write https://, or leave it out.")),
            };
        }
        let mut tls = ClientTlsConfig::new();
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        tls = match &self.ca_file {
            Some(_) => tls.ca_certificate(self.authorities()?),
            None => tls.with_native_roots(),
        };
        endpoint.tls_config(tls).map_err(|error| {
            let failure = Failure::new(Exit::Fault, format!("TLS cannot be spoken: {}", super::client::root_cause(&error)));
            if self.ca_file.is_some() {
                failure
            } else {
                failure.line("Perhaps this machine trusts nobody to sign certificates; name a file with --ca-file or CLAVIGER_CA_FILE.")
            }
        })
    }

    /// The certificates in the file; what the transport would pass over in silence is told.
    fn authorities(&self) -> Result<Certificate, Failure> {
        let path = self.ca_file.as_deref().unwrap_or_else(|| "".as_ref());
        let wrong = |what: &str| {
            Failure::new(Exit::Usage, format!("the CA file {} {what}", path.display()))
                .line("It has to be PEM, with the certificates of those who sign.")
        };
        let text = fs::read(path).map_err(|error| wrong(&format!("cannot be read: {error}")))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate = certificate.map_err(|_| wrong("is damaged: its PEM cannot be read"))?;
            roots.add(certificate).map_err(|_| wrong("holds something that is no certificate"))?;
        }
        if roots.is_empty() { Err(wrong("holds no certificate")) } else { Ok(Certificate::from_pem(text)) }
    }

    /// What to say of a connection to `address` that failed with `error`, if TLS was the reason.
    pub(super) fn refusal(&self, error: &(dyn StdError + 'static), address: &str) -> Option<Failure> {
        let error = super::client::chain(error).find_map(tls_error)?;
        let fault = |what: String| Failure::new(Exit::Fault, what);
        Some(match error {
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                let failure = fault(format!("the certificate of {address} is signed by nobody who is trusted here"));
                match &self.ca_file {
                    None => failure.line("--ca-file or CLAVIGER_CA_FILE names the certificate of who signed it."),
                    Some(path) => failure.line(format!("Those in {} did not.", path.display())),
                }
            }
            rustls::Error::InvalidCertificate(CertificateError::NotValidForNameContext { expected, presented }) => {
                let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
                let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
                fault(format!("the certificate of {address} is not for {} but for {names}", expected.to_str()))
                    .line("If that is who you mean, say so with --server-name or CLAVIGER_SERVER_NAME.")
            }
            rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. }) => {
                fault(format!("the certificate of {address} has expired: it was good until {}", rfc_3339(*not_after)))
                    .line("The service needs a new one; or the clock of this machine is wrong.")
            }
            rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. }) => {
                fault(format!("the certificate of {address} is not good before {}", rfc_3339(*not_before)))
                    .line("Perhaps the clock of this machine is wrong.")
            }
            rustls::Error::InvalidCertificate(why) => {
                fault(format!("the certificate of {address} is not accepted: {why}"))
                    .line("A service needs one of its own, signed by an authority; an authority's own does not do.")
            }
            error => fault(format!("TLS with {address} failed: {error}")),
        })
    }
}

/// The error of TLS that `error` is, or carries.
fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    error.downcast_ref().or_else(|| error.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref())
}

/// `keys.example` of `DnsName("keys.example")`, as rustls shows what a certificate is for.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inner.trim_matches('"')
}

fn rfc_3339(time: UnixTime) -> String {
    let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs());
    humantime::format_rfc3339_seconds(time).to_string()
}
