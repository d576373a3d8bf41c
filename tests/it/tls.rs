//! A certificate authority of a test's own, and what it signs.

use std::sync::Arc;

use jiff::civil::{Date, date};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        Authority::named(&[])
    }

    /// One whose own certificate has names, as that of `openssl req -x509`.
    pub fn named(names: &[&str]) -> Self {
        Authority::valid(names, 2000, 4000)
    }

    /// The same, good from one year to another.
    pub fn valid(names: &[&str], from: i16, until: i16) -> Self {
        Authority::between(names, date(from, 1, 1), date(until, 1, 1))
    }

    /// One that ends at the beginning of this day, in UTC.
    pub fn ending(day: Date) -> Self {
        Authority::between(&[], date(2000, 1, 1), day)
    }

    fn between(names: &[&str], from: Date, until: Date) -> Self {
        let midnight = |day: Date| {
            let [month, date] = [day.month(), day.day()].map(|n| u8::try_from(n).unwrap());
            rcgen::date_time_ymd(day.year().into(), month, date)
        };
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_before = midnight(from);
        parameters.not_after = midnight(until);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(parameters, key).unwrap())
    }

    /// Its own certificate, as `ca.crt` has it.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server that is known by these names and addresses.
    pub fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.configure(names, false)
    }

    /// A server that shows the authority's own certificate.
    pub fn itself(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(self.0.key().serialize_der()).unwrap();
        let certificate = CertificateDer::from(self.0.der().to_vec());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth();
        Arc::new(builder.with_single_cert(vec![certificate], key).unwrap())
    }

    /// The same, for clients with a certificate of this authority only.
    pub fn server_for_its_own(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.configure(names, true)
    }

    /// The certificate and the key of a client, in PEM form.
    pub fn client(&self) -> (String, String) {
        let mut parameters = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn configure(&self, names: &[&str], asks_for_certificate: bool) -> Arc<ServerConfig> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names)
            .unwrap()
            .signed_by(&key, &self.0)
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if asks_for_certificate {
            let mut roots = RootCertStore::empty();
            roots
                .add(CertificateDer::from(self.0.der().to_vec()))
                .unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        Arc::new(
            builder
                .with_single_cert(vec![certificate.der().clone()], key)
                .unwrap(),
        )
    }
}
