//! Settings of TLS, and where plaintext may be served without it.

use std::{net::SocketAddr, time::Duration};

use clap::Args;

use super::{Reader, duration, path};
use crate::tls::Files;

/// Settings of TLS, as flags or as `CLAVIGER_*` in the environment.
#[derive(Args, Clone, Default)]
#[allow(clippy::doc_markdown, reason = "these comments are the --help, which shows no markup")]
pub(super) struct TlsArgs {
    /// The certificate to serve TLS with, PEM: the service's own first, those that signed it behind it. It is read again
    /// when it changes
    #[arg(long, value_name = "FILE", env = "CLAVIGER_TLS_CERT", hide_env_values = true)]
    pub(super) tls_cert: Option<String>,

    /// The private key of the certificate, PEM
    #[arg(long, value_name = "FILE", env = "CLAVIGER_TLS_KEY", hide_env_values = true)]
    pub(super) tls_key: Option<String>,

    /// Where plaintext may be served if there is no certificate: loopback or anywhere [default: loopback]
    #[arg(long, value_name = "WHERE", env = "CLAVIGER_PLAINTEXT", hide_env_values = true)]
    pub(super) plaintext: Option<String>,

    /// How old a connection gets before its client is asked to make another, 1m to 24h [default: 30m]
    #[arg(long, value_name = "DURATION", env = "CLAVIGER_CONNECTION_AGE", hide_env_values = true)]
    pub(super) connection_age: Option<String>,
}

impl TlsArgs {
    /// The files of the certificate, if one is to be served. What is served at `listen` has to be TLS, or known to be
    /// meant in plaintext.
    pub(super) fn files(&self, reader: &mut Reader, listen: SocketAddr) -> Option<Files> {
        let cert = reader.read("CLAVIGER_TLS_CERT", self.tls_cert.as_ref(), None, |text| path(text).map(Some));
        let key = reader.read("CLAVIGER_TLS_KEY", self.tls_key.as_ref(), None, |text| path(text).map(Some));
        let anywhere = reader.read("CLAVIGER_PLAINTEXT", self.plaintext.as_ref(), false, |text| match text {
            "loopback" => Ok(false),
            "anywhere" => Ok(true),
            _ => Err("is none of loopback and anywhere".to_owned()),
        });
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => reader.wrong(
                "CLAVIGER_TLS_KEY",
                "is missing, and CLAVIGER_TLS_CERT is set; name both files, or neither".to_owned(),
            ),
            (None, Some(_)) => reader.wrong(
                "CLAVIGER_TLS_CERT",
                "is missing, and CLAVIGER_TLS_KEY is set; name both files, or neither".to_owned(),
            ),
            (None, None) if !anywhere && !listen.ip().to_canonical().is_loopback() => reader.wrong(
                "CLAVIGER_LISTEN",
                format!(
                    "is {listen}, which others can reach, and there is no TLS: keys would travel in plaintext. Name a \
                     certificate with CLAVIGER_TLS_CERT and CLAVIGER_TLS_KEY; or, where something else encrypts, such \
                     as a mesh, say CLAVIGER_PLAINTEXT=anywhere"
                ),
            ),
            _ => {}
        }
        Some(Files { cert: cert?, key: key? })
    }

    /// How old a connection gets.
    pub(super) fn connection_age(&self, reader: &mut Reader) -> Duration {
        let (minute, day) = (Duration::from_secs(60), Duration::from_secs(24 * 60 * 60));
        reader.read("CLAVIGER_CONNECTION_AGE", self.connection_age.as_ref(), minute * 30, |text| {
            duration(text, minute, day, "30m, from 1m to 24h")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Settings, SettingsArgs};
    use super::*;

    fn read(listen: &str, tls: TlsArgs) -> Result<Settings, String> {
        let args = SettingsArgs { listen: Some(listen.to_owned()), tls, ..SettingsArgs::default() };
        args.read(&BTreeMap::new(), 2).map(|(settings, _)| settings).map_err(|problems| problems.to_string())
    }

    fn both() -> TlsArgs {
        TlsArgs {
            tls_cert: Some("/tls/tls.crt".to_owned()),
            tls_key: Some("/tls/tls.key".to_owned()),
            ..TlsArgs::default()
        }
    }

    #[test]
    fn without_tls_the_service_stays_on_the_loopback_unless_told_otherwise() {
        for loopback in ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(read(loopback, TlsArgs::default()).is_ok(), "{loopback}");
        }
        for beyond in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
            assert!(read(beyond, TlsArgs::default()).is_err(), "{beyond}");
            assert!(
                read(beyond, TlsArgs { plaintext: Some("loopback".to_owned()), ..TlsArgs::default() }).is_err(),
                "{beyond}"
            );
            assert!(
                read(beyond, TlsArgs { plaintext: Some("anywhere".to_owned()), ..TlsArgs::default() }).is_ok(),
                "{beyond}"
            );
            assert!(read(beyond, both()).is_ok_and(|settings| settings.tls.is_some()), "{beyond}");
        }
        insta::assert_snapshot!(read("0.0.0.0:50051", TlsArgs::default()).err().unwrap(), @"
        one setting is wrong:
          CLAVIGER_LISTEN is 0.0.0.0:50051, which others can reach, and there is no TLS: keys would travel in plaintext. Name a certificate with CLAVIGER_TLS_CERT and CLAVIGER_TLS_KEY; or, where something else encrypts, such as a mesh, say CLAVIGER_PLAINTEXT=anywhere
        ");
    }

    #[test]
    fn half_of_a_pair_is_told_with_its_other_half() {
        let half = |tls_cert, tls_key| read("0.0.0.0:1", TlsArgs { tls_cert, tls_key, ..TlsArgs::default() });
        insta::assert_snapshot!(half(Some("a.pem".to_owned()), None).err().unwrap(), @"
        one setting is wrong:
          CLAVIGER_TLS_KEY is missing, and CLAVIGER_TLS_CERT is set; name both files, or neither
        ");
        insta::assert_snapshot!(half(None, Some("a.pem".to_owned())).err().unwrap(), @"
        one setting is wrong:
          CLAVIGER_TLS_CERT is missing, and CLAVIGER_TLS_KEY is set; name both files, or neither
        ");
    }

    #[test]
    fn a_connection_gets_as_old_as_is_set() {
        let age = |age| read("127.0.0.1:1", TlsArgs { connection_age: age, ..TlsArgs::default() });
        assert_eq!(age(None).ok().unwrap().connection_age, Duration::from_secs(30 * 60));
        assert_eq!(age(Some("24h".to_owned())).ok().unwrap().connection_age, Duration::from_secs(24 * 60 * 60));
        insta::assert_snapshot!(age(Some("59s".to_owned())).err().unwrap(), @"
        one setting is wrong:
          CLAVIGER_CONNECTION_AGE `59s` is no duration such as 30m, from 1m to 24h
        ");
    }
}
