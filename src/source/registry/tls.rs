//! TLS to registries, with the system's CAs and the certificates of a host in `certs.d`.
//!
//! A CA in `certs.d` may be the server's own certificate: `openssl req -x509` makes such a certificate, and curl,
//! Go's tools and OpenSSL trust it. webpki refuses a certificate with the CA flag as a server's.

use std::fmt;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

use log::warn;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, StreamOwned,
};
use ureq::unversioned::transport::time::{Duration, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, NextTimeout, Transport, TransportAdapter,
};

use super::buffers::GrowingBuffers;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::source::config::certs_d::{HostCertificates, Pem};

/// Signature algorithms that a server with an unchecked certificate may use, besides ring's.
const UNCHECKED_SCHEMES: [SignatureScheme; 3] = [
    SignatureScheme::RSA_PKCS1_SHA1,
    SignatureScheme::ECDSA_NISTP521_SHA512,
    SignatureScheme::ED448,
];

/// Connects by TLS for https.
pub struct Tls {
    /// CAs besides the system's.
    authorities: Vec<CertificateDer<'static>>,
    /// Our certificate and its key.
    client: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// Any certificate of a server is accepted.
    unchecked: bool,
    /// Built at the first connection.
    config: Mutex<Option<Arc<ClientConfig>>>,
}

impl Tls {
    /// Parses the certificates that are kept for a host, if any.
    pub fn new(certificates: Option<HostCertificates>, unchecked: bool) -> Result<Self> {
        let HostCertificates {
            authorities,
            client,
        } = certificates.unwrap_or_default();
        let authorities: Result<Vec<_>> = authorities.iter().map(parse_certificates).collect();
        Ok(Self {
            authorities: authorities?.concat(),
            client: client
                .map(|(certificate, key)| parse_client(&certificate, &key))
                .transpose()?,
            unchecked,
            config: Mutex::default(),
        })
    }

    fn config(&self) -> Result<Arc<ClientConfig>, rustls::Error> {
        // Reading the system's CAs takes a while: the first of many threads does it for all.
        let mut made = lock(&self.config);
        if let Some(config) = &*made {
            return Ok(config.clone());
        }
        let provider = Arc::new(default_provider());
        let mut schemes = provider
            .signature_verification_algorithms
            .supported_schemes();
        let chains = match self.unchecked {
            // An unchecked signature may be by an algorithm that ring does not have.
            true => {
                schemes.extend(UNCHECKED_SCHEMES);
                None
            }
            false => Some(self.chains()?),
        };
        let verifier = Verifier {
            schemes,
            chains,
            authorities: self.authorities.clone(),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let config = match &self.client {
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        Ok(made.insert(Arc::new(config)).clone())
    }

    /// Checks chains against the CAs of `certs.d` and the system's: a private registry may get a public certificate.
    fn chains(&self) -> Result<Arc<WebPkiServerVerifier>, rustls::Error> {
        let system = rustls_native_certs::load_native_certs();
        for error in system.errors {
            warn!("one of the system's CA certificates cannot be read: {error}");
        }
        let mut roots = RootCertStore::empty();
        let all = self.authorities.iter().cloned().chain(system.certs);
        let (_, ignored) = roots.add_parsable_certificates(all);
        if ignored > 0 {
            warn!("{ignored} CA certificates cannot be used and are ignored");
        }
        if roots.is_empty() {
            let why =
                "this machine has no CA certificates (on Debian: the package ca-certificates)";
            return Err(rustls::Error::General(why.into()));
        }
        WebPkiServerVerifier::builder_with_provider(roots.into(), default_provider().into())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))
    }
}

/// A certificate and its key, which must belong together.
fn parse_client(
    certificate: &Pem,
    key: &Pem,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let chain = parse_certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_slice(&key.text).map_err(|_| {
        let why = "there is no private key in it, expected one in PEM form";
        bad_pem(key, why)
    })?;
    let pair = CertifiedKey::from_der(chain.clone(), private.clone_key(), &default_provider());
    match pair {
        Ok(_) => Ok((chain, private)),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let why = format!("it does not belong to {}", certificate.path.display());
            Err(bad_pem(key, &why))
        }
        Err(error) => {
            let why = format!("it cannot be used with its certificate: {error}");
            Err(bad_pem(key, &why))
        }
    }
}

fn parse_certificates(pem: &Pem) -> Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem.text).collect();
    match found {
        Err(_) => Err(bad_pem(pem, "it is not in PEM form")),
        Ok(none) if none.is_empty() => {
            let why = "there is no certificate in it, expected PEM form";
            Err(bad_pem(pem, why))
        }
        Ok(found) => Ok(found),
    }
}

fn bad_pem(pem: &Pem, why: &str) -> Error {
    Error::BadCertificate {
        path: pem.path.clone(),
        why: why.to_owned(),
    }
}

/// Checks a server's chain, or trusts its certificate if that is itself in `certs.d`.
#[derive(Debug)]
struct Verifier {
    schemes: Vec<SignatureScheme>,
    /// `None` if any certificate will do.
    chains: Option<Arc<WebPkiServerVerifier>>,
    authorities: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chains) = &self.chains else {
            return Ok(ServerCertVerified::assertion());
        };
        match chains.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            Err(error) if is_ca_of_a_server(&error) && self.authorities.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            checked => checked,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match &self.chains {
            Some(chains) => chains.verify_tls12_signature(message, certificate, signed),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match &self.chains {
            Some(chains) => chains.verify_tls13_signature(message, certificate, signed),
            None => Ok(HandshakeSignatureValid::assertion()),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}

/// Whether this is webpki's `CaUsedAsEndEntity`, which it reports after it has checked the certificate's dates.
fn is_ca_of_a_server(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(other)) => {
            other.0.to_string() == "CaUsedAsEndEntity"
        }
        _ => false,
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

impl<In: Transport> Connector<In> for Tls {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else {
            return Ok(None);
        };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default();
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
            .map_err(|_| ureq::Error::Tls("no certificate can have the name of this host"))?;
        let mut conn = ClientConnection::new(self.config()?, name)?;
        let mut sock = TransportAdapter::new(transport.boxed(), details.current_time.clone());
        sock.set_timeout(time_left(details));
        conn.complete_io(&mut sock)?;
        let sizes = details.config;
        Ok(Some(Either::B(TlsTransport {
            stream: StreamOwned { conn, sock },
            buffers: GrowingBuffers::new(sizes.input_buffer_size(), sizes.output_buffer_size()),
        })))
    }
}

/// The time that is left for connecting after TCP and a proxy.
fn time_left(details: &ConnectionDetails<'_>) -> NextTimeout {
    let mut timeout = details.timeout;
    if let (Instant::Exact(begun), Instant::Exact(now)) = (details.now, (details.current_time)())
        && !timeout.after.is_not_happening()
    {
        let left = timeout.after.saturating_sub(now.duration_since(begun));
        timeout.after = Duration::Exact(left);
    }
    timeout
}

/// A connection with TLS.
pub struct TlsTransport {
    stream: StreamOwned<ClientConnection, TransportAdapter>,
    buffers: GrowingBuffers,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let output = &self.buffers.output()[..amount];
        self.stream.write_all(output)?;
        self.buffers.sent();
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        self.stream.get_mut().set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// Asked between two requests.
    fn is_open(&mut self) -> bool {
        self.buffers.release();
        self.stream.get_mut().get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}
