//! ureq agents for registries: their timeouts and buffers.

use std::time::Duration;

use ureq::{Agent, Proxy};

use super::ahead::Ahead;
use super::proxy::ProxyUrl;
use super::tls::Tls;
use super::transport;

/// Time to resolve a host name. glibc gives a name server five seconds, and tries it twice (resolv.conf(5)).
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Time to connect, including the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time from the request to the complete head of the response, and for each write of a request. systemd-pull gives up
/// after 60 s without data.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between two reads of a body.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for the whole body of a small document: one that trickles must not hold up a listing.
pub const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(20);
/// The bytes that a connection reads at once as long as it has no large buffer, and the largest head of an answer. With
/// TLS there are two of each: before it and behind it. All that 64 downloads hold must stay within 16 MiB (see
/// `MAX_CONNECTIONS` in `server/clients.rs`, `BUFFER` in `server/http/response.rs` and `memory::LARGE_BUFFERS`); ureq's own
/// 128 KiB would make it 40.
const INPUT_BUFFER: usize = 32 << 10;
/// Room for the longest line of a request: the token.
const OUTPUT_BUFFER: usize = 16 << 10;
/// The longest token that fits, the rest of its line included. Most servers take half of that.
pub const MAX_TOKEN: usize = 16_000;

/// An agent for all hosts with this TLS configuration, which uses the connections that were opened ahead.
pub fn agent(parallel: usize, tls: Tls, ahead: Ahead) -> Agent {
    let config = Agent::config_builder()
        .user_agent(concat!("sysext-oci-proxy/", env!("CARGO_PKG_VERSION")))
        // Digests are of the bytes as stored, so no proxy may compress them.
        .accept_encoding("identity")
        .http_status_as_error(false)
        // Redirects are followed in client.rs: ureq compares hosts, but not ports.
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
        // Each request names its proxy. By default ureq reads the environment, and connects directly if a proxy cannot be
        // used.
        .proxy(None)
        .build();
    Agent::with_parts(
        config,
        transport::connector(tls, ahead),
        transport::SystemResolver,
    )
}

/// A proxy as ureq wants it.
pub fn proxy(url: &ProxyUrl) -> Result<Proxy, ureq::Error> {
    Proxy::new(url.reveal())
}
