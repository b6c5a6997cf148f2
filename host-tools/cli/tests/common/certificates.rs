//! Certificates that tests make.

pub use rcgen::ExtendedKeyUsagePurpose;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd,
};
use std::path::Path;

/// An authority that signs the broker's certificate, or a client's.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("an authority"))
    }

    /// Writes `NAME.pem`.
    pub fn write(&self, folder: &Path, name: &str) {
        std::fs::write(folder.join(format!("{name}.pem")), self.0.pem()).expect("written");
    }

    /// Writes `NAME.pem` and `NAME.key`, a certificate for `names`.
    pub fn sign(&self, folder: &Path, name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) {
        self.sign_params(folder, name, params(name, names, usage));
    }

    /// As [`Authority::sign`] for a server, with a certificate that has expired.
    pub fn sign_expired(&self, folder: &Path, name: &str, names: &[&str]) {
        let mut params = params(name, names, ExtendedKeyUsagePurpose::ServerAuth);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.sign_params(folder, name, params);
    }

    fn sign_params(&self, folder: &Path, name: &str, params: CertificateParams) {
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.0).expect("a certificate");
        let write = |ending: &str, text: String| {
            std::fs::write(folder.join(format!("{name}.{ending}")), text).expect("written");
        };
        write("pem", signed.pem());
        write("key", key.serialize_pem());
    }
}

fn params(name: &str, names: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![usage];
    params
}
