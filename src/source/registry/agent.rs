//! How registries are spoken to: certificates, times, buffers.

use std::sync::Arc;
use std::time::Duration;

use log::warn;
use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::{Agent, Proxy};

use super::proxy::ProxyUrl;
use super::tls::{self, Tls, Trust};
use super::transport;
use crate::error::{Error, Result};
use crate::source::config::certs_d::{HostCertificates, Pem};

/// To find a host's address. glibc gives a name server five seconds, and tries it twice (resolv.conf(5)).
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// To connect, TLS handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// From the request to the whole head of the answer; and for each piece of a request to be taken. systemd
/// gives up on us after 60 s of silence.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two pieces of a body.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// For the whole of a body that is a small document: one that trickles must not hold a listing.
pub const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(20);
/// What a connection reads at once, and the largest head of an answer. With TLS there are two of each:
/// before it and behind it. All that 64 downloads hold must stay within 16 MiB (see `MAX_CONNECTIONS`
/// in `server/mod.rs` and `BUFFER` in `server/http.rs`); ureq's own 128 KiB would make it 40.
const INPUT_BUFFER: usize = 32 << 10;
/// Room for the longest line of a request: the token.
const OUTPUT_BUFFER: usize = 16 << 10;
/// The longest token that fits, the rest of its line included. Most servers take half of that.
pub const MAX_TOKEN: usize = 16_000;

/// The certificates kept for a host, ready for use.
pub struct ParsedCertificates {
    /// Where there are CAs: TLS with these.
    own: Option<Arc<ClientConfig>>,
    /// Our certificate, for TLS by the system's CAs or by none.
    client: Option<ClientCert>,
}

impl ParsedCertificates {
    pub fn new(found: HostCertificates) -> Result<Self> {
        let client = match &found.client {
            Some((certificate, key)) => Some(parse_client(certificate, key)?),
            None => None,
        };
        let (client, own_client) = match client {
            Some(client) => (Some(client.for_ureq), Some((client.chain, client.key))),
            None => (None, None),
        };
        let Some(first) = found.authorities.first() else {
            return Ok(Self { own: None, client });
        };
        let mut own = Vec::new();
        for pem in &found.authorities {
            own.extend(parse_certificates(pem)?.iter().map(der));
        }
        let config = tls::config(Trust {
            own,
            // They come beside the system's: a private registry may have a public certificate one day.
            usual: system_roots(),
            client: own_client,
        });
        Ok(Self {
            own: Some(config.map_err(|error| bad_pem(first, &error.to_string()))?),
            client,
        })
    }
}

/// Our certificate and its key.
struct Client {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    for_ureq: ClientCert,
}

/// A certificate and its key. What cannot be used is refused here, for ureq panics over it.
fn parse_client(certificate: &Pem, key: &Pem) -> Result<Client> {
    let certificates = parse_certificates(certificate)?;
    let none = || {
        let why = "there is no private key in it, expected one in PEM form";
        bad_pem(key, why)
    };
    let private = PrivateKey::from_pem(&key.text).map_err(|_| none())?;
    let for_rustls = PrivateKeyDer::from_pem_slice(&key.text).map_err(|_| none())?;
    let bad = |error| {
        let why = match error {
            rustls::Error::InconsistentKeys(_) => {
                format!("it does not belong to {}", certificate.path.display())
            }
            error => format!("it cannot be used with its certificate: {error}"),
        };
        bad_pem(key, &why)
    };
    let chain: Vec<_> = certificates.iter().map(der).collect();
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain.clone(), for_rustls.clone_key(), &provider).map_err(bad)?;
    Ok(Client {
        chain,
        key: for_rustls,
        for_ureq: ClientCert::new_with_certs(&certificates, private),
    })
}

fn der(certificate: &Certificate<'static>) -> CertificateDer<'static> {
    CertificateDer::from(certificate.der()).into_owned()
}

fn parse_certificates(pem: &Pem) -> Result<Vec<Certificate<'static>>> {
    let mut found = Vec::new();
    for item in ureq::tls::parse_pem(&pem.text) {
        match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => found.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(bad_pem(pem, "it is not in PEM form")),
        }
    }
    if found.is_empty() {
        Err(bad_pem(
            pem,
            "there is no certificate in it, expected PEM form",
        ))
    } else {
        Ok(found)
    }
}

fn bad_pem(pem: &Pem, why: &str) -> Error {
    Error::BadCertificate {
        path: pem.path.clone(),
        why: why.to_owned(),
    }
}

fn system_roots() -> Vec<CertificateDer<'static>> {
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        warn!("one of the system's CA certificates cannot be read: {error}");
    }
    found.certs
}

/// `is_unchecked`: whatever certificate a host has will do.
pub fn agent(
    parallel: usize,
    certificates: Option<ParsedCertificates>,
    is_unchecked: bool,
) -> Agent {
    let (own, client) = match certificates {
        Some(ParsedCertificates { own, client }) => (own, client),
        None => (None, None),
    };
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::PlatformVerifier)
        .client_cert(client)
        .disable_verification(is_unchecked)
        .build();
    let own = own.filter(|_| !is_unchecked);
    let config = Agent::config_builder()
        .tls_config(tls)
        .user_agent(concat!("sysext-oci-proxy/", env!("CARGO_PKG_VERSION")))
        // Digests are of the bytes as stored: nobody may compress them on the way.
        .accept_encoding("identity")
        .http_status_as_error(false)
        // Redirects are followed by hand: ureq's rules look at the host and not at its port.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .input_buffer_size(INPUT_BUFFER)
        .output_buffer_size(OUTPUT_BUFFER)
        .timeout_resolve(Some(RESOLVE_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(HEAD_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        .timeout_per_write(Some(HEAD_TIMEOUT))
        .max_idle_connections(2 * parallel)
        .max_idle_connections_per_host(parallel)
        // Each request names its own, if it has one. By default ureq reads the environment, and goes around a
        // proxy that it cannot use.
        .proxy(None)
        .build();
    Agent::with_parts(
        config,
        transport::connector(Tls(own)),
        transport::SystemResolver,
    )
}

/// A proxy as ureq wants it.
pub fn proxy(url: &ProxyUrl) -> Result<Proxy, ureq::Error> {
    Proxy::new(url.reveal())
}
