//! Authorities and certificates, made for one test.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};

use super::process::write;

/// Somebody who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, PEM.
pub struct Issued {
    pub cert: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate, for those who trust it.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A certificate for DNS names and addresses, good from 2020 to the end of `year`.
    pub fn issue_until(&self, names: &[&str], year: i32) -> Issued {
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.0).unwrap();
        Issued { cert: cert.pem(), key: key.serialize_pem() }
    }

    /// Its own certificate, to be served where one of a service belongs.
    pub fn own(&self) -> Issued {
        Issued { cert: self.0.pem(), key: self.0.key().serialize_pem() }
    }

    pub fn issue(&self, names: &[&str]) -> Issued {
        self.issue_until(names, 2040)
    }
}

impl Issued {
    /// Writes `tls.crt` and `tls.key` into `folder`.
    pub fn write(&self, folder: &Path) {
        write(&folder.join("tls.crt"), &self.cert, 0o644);
        write(&folder.join("tls.key"), &self.key, 0o600);
    }
}

/// A folder that Kubernetes keeps: the files in it are links through `..data`, which is exchanged as a whole.
pub struct Mounted {
    folder: PathBuf,
    version: u32,
}

impl Mounted {
    pub fn new(folder: &Path, issued: &Issued) -> Self {
        fs::create_dir(folder).unwrap();
        let mut mounted = Self { folder: folder.to_owned(), version: 0 };
        mounted.swap(issued);
        for name in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(name), folder.join(name)).unwrap();
        }
        mounted
    }

    /// Exchanges both files at one moment.
    pub fn swap(&mut self, issued: &Issued) {
        let old = self.folder.join(format!("..{}", self.version));
        self.version += 1;
        let name = format!("..{}", self.version);
        fs::create_dir(self.folder.join(&name)).unwrap();
        issued.write(&self.folder.join(&name));
        symlink(&name, self.folder.join("..data_tmp")).unwrap();
        fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data")).unwrap();
        if old.exists() {
            fs::remove_dir_all(old).unwrap();
        }
    }
}
