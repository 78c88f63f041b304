//! The certificate and the watch over its files.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;

/// 2027-01-15T08:00:00Z.
fn now() -> Time {
    Time::from_micros(1_800_000_000_000_000)
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn files(&self) -> Files {
        Files { cert: self.0.path().join("tls.crt"), key: self.0.path().join("tls.key") }
    }

    fn write(&self, cert: &str, key: &str) {
        let Files { cert: cert_path, key: key_path } = self.files();
        fs::write(cert_path, cert).unwrap();
        fs::write(&key_path, key).unwrap();
        mode(&key_path, 0o600);
    }

    /// All that is wrong, as it is told.
    fn told(&self) -> String {
        let told = Certificates::open(self.files(), now()).err().unwrap().to_string();
        told.replace(self.0.path().to_str().unwrap(), "FOLDER")
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A certificate that is good until the last day of `year`, and its key.
fn until(year: i32) -> (String, String) {
    let mut params = CertificateParams::new(["keys.example".to_owned(), "192.0.2.1".to_owned()]).unwrap();
    params.not_after = date_time_ymd(year, 12, 31);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn looks<const N: usize>(certificates: &Certificates) -> [Look; N] {
    std::array::from_fn(|_| certificates.look(now()))
}

#[test]
fn what_is_told_of_a_certificate_is_what_is_in_it() {
    let folder = Folder::new();
    let (cert, key) = until(2040);
    folder.write(&cert, &key);
    let certificates = Certificates::open(folder.files(), now()).unwrap();
    let leaf = certificates.leaf();
    assert_eq!(leaf.names, ["keys.example"]);
    assert_eq!(leaf.addresses, ["192.0.2.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(leaf.fingerprint.len(), 64);
    assert_eq!(certificates.expiry().map(rfc_3339).as_deref(), Some("2040-12-31T00:00:00Z"));
    assert_eq!(certificates.config().alpn_protocols, [b"h2"]);
}

#[test]
fn all_that_is_wrong_with_the_files_is_told_with_what_would_be_right() {
    let folder = Folder::new();
    let (cert, key) = until(2040);
    insta::assert_snapshot!(folder.told(), @"
    the certificate cannot be served:
      CLAVIGER_TLS_CERT: FOLDER/tls.crt cannot be read: No such file or directory (os error 2)
      CLAVIGER_TLS_KEY: FOLDER/tls.key cannot be read: No such file or directory (os error 2)
    ");
    folder.write("", "");
    insta::assert_snapshot!(folder.told(), @"
    the certificate cannot be served:
      CLAVIGER_TLS_CERT: FOLDER/tls.crt is empty; it has to be PEM: the service's own certificate first, those that signed it behind it
      CLAVIGER_TLS_KEY: FOLDER/tls.key holds no private key; it has to be PEM, of PKCS#8, PKCS#1 or SEC1
    ");
    folder.write(&key, &cert);
    insta::assert_snapshot!(folder.told(), @"
    the certificate cannot be served:
      CLAVIGER_TLS_CERT: FOLDER/tls.crt holds a private key and no certificate; are the two files mixed up?
      CLAVIGER_TLS_KEY: FOLDER/tls.key holds a certificate and no private key; are the two files mixed up?
    ");
    folder.write("no PEM", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    insta::assert_snapshot!(folder.told(), @"
    the certificate cannot be served:
      CLAVIGER_TLS_CERT: FOLDER/tls.crt holds no certificate; it has to be PEM: the service's own certificate first, those that signed it behind it
      CLAVIGER_TLS_KEY: FOLDER/tls.key holds a key behind a passphrase, and nobody is there to type it; take it off with `openssl pkey`
    ");
    folder.write(&cert[..cert.len() / 2], &key.replace('M', "!"));
    insta::assert_snapshot!(folder.told(), @"
    the certificate cannot be served:
      CLAVIGER_TLS_CERT: FOLDER/tls.crt is cut off: the last block of its PEM has no end
      CLAVIGER_TLS_KEY: FOLDER/tls.key is damaged: its PEM cannot be read
    ");
    let block = |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
    folder.write(&block("CERTIFICATE"), &key);
    insta::assert_snapshot!(folder.told(), @"
    the certificate cannot be served:
      CLAVIGER_TLS_CERT: FOLDER/tls.crt begins with something that is no certificate of X.509 version 3
    ");
    folder.write(&cert, &block("PRIVATE KEY"));
    insta::assert_snapshot!(folder.told(), @"
    the certificate cannot be served:
      CLAVIGER_TLS_KEY: FOLDER/tls.key holds no key of a kind that is supported; use ECDSA on P-256 or P-384, RSA or Ed25519
    ");
    folder.write(&cert, &until(2040).1);
    insta::assert_snapshot!(folder.told(), @"
    the certificate cannot be served:
      CLAVIGER_TLS_KEY: FOLDER/tls.key does not belong to the first certificate in FOLDER/tls.crt; the service's own certificate comes first, those that signed it behind it
    ");
    folder.write(&cert, &key);
    mode(&folder.files().key, 0o644);
    insta::assert_snapshot!(folder.told(), @"
    the certificate cannot be served:
      CLAVIGER_TLS_KEY: FOLDER/tls.key can be read by everybody (mode 644); take that away with `chmod o= FILE`
    ");
    fs::remove_file(folder.files().cert).unwrap();
    fs::create_dir(folder.files().cert).unwrap();
    mode(&folder.files().key, 0o640);
    insta::assert_snapshot!(folder.told(), @"
    the certificate cannot be served:
      CLAVIGER_TLS_CERT: FOLDER/tls.crt is a folder; name the file in it
    ");
}

#[test]
fn a_new_pair_is_served_at_the_second_look() {
    let folder = Folder::new();
    let (cert, key) = until(2040);
    folder.write(&cert, &key);
    let certificates = Certificates::open(folder.files(), now()).unwrap();
    assert_eq!(looks(&certificates), [Look::Same, Look::Same]);
    let (newer, newer_key) = until(2041);
    folder.write(&newer, &newer_key);
    assert_eq!(looks(&certificates), [Look::Changing, Look::Taken, Look::Same, Look::Same]);
    assert_eq!(certificates.expiry().map(rfc_3339).as_deref(), Some("2041-12-31T00:00:00Z"));
    assert_eq!((certificates.reloads(), certificates.unusable()), (1, 0));
}

#[test]
fn a_pair_that_is_being_written_is_neither_taken_nor_an_alarm() {
    let folder = Folder::new();
    let ((cert, key), (newer, newer_key)) = (until(2040), until(2041));
    folder.write(&cert, &key);
    let certificates = Certificates::open(folder.files(), now()).unwrap();
    folder.write(&newer[..300], &key);
    assert_eq!(looks(&certificates), [Look::Changing]);
    folder.write(&newer, &key);
    assert_eq!(looks(&certificates), [Look::Changing, Look::Doubtful]);
    folder.write(&newer, &newer_key);
    assert_eq!(looks(&certificates), [Look::Changing, Look::Taken]);
    assert_eq!((certificates.reloads(), certificates.unusable()), (1, 0));
}

#[test]
fn a_bad_pair_is_one_alarm_and_the_old_one_stays_until_a_good_one_comes() {
    let folder = Folder::new();
    let (cert, key) = until(2040);
    folder.write(&cert, &key);
    let certificates = Certificates::open(folder.files(), now()).unwrap();
    let first = certificates.leaf();
    folder.write("garbage", &key);
    assert_eq!(looks(&certificates), [Look::Changing, Look::Doubtful, Look::Unusable, Look::Same, Look::Same]);
    fs::remove_file(folder.files().key).unwrap();
    assert_eq!(looks(&certificates), [Look::Changing, Look::Doubtful, Look::Unusable, Look::Same]);
    assert_eq!((certificates.leaf(), certificates.unusable()), (first, 2));

    // The one that was there before is as good as a new one.
    folder.write(&cert, &key);
    assert_eq!(looks(&certificates), [Look::Changing, Look::Taken, Look::Same]);
    assert_eq!((certificates.reloads(), certificates.unusable()), (1, 2));
}

#[test]
fn an_expired_certificate_is_served_all_the_same() {
    let folder = Folder::new();
    let (cert, key) = until(2026);
    folder.write(&cert, &key);
    let certificates = Certificates::open(folder.files(), now()).unwrap();
    assert!(certificates.expiry().unwrap() < now());
}
