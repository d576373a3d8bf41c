//! The agents that speak HTTP to registries: their times and buffers.

use std::time::Duration;

use ureq::{Agent, Proxy};

use super::proxy::ProxyUrl;
use super::tls::Tls;
use super::transport;

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
/// The bytes that a connection reads at once, and the largest head of an answer. With TLS there are two of each:
/// before it and behind it. All that 64 downloads hold must stay within 16 MiB (see `MAX_CONNECTIONS`
/// in `server/mod.rs` and `BUFFER` in `server/http.rs`); ureq's own 128 KiB would make it 40.
const INPUT_BUFFER: usize = 32 << 10;
/// Room for the longest line of a request: the token.
const OUTPUT_BUFFER: usize = 16 << 10;
/// The longest token that fits, the rest of its line included. Most servers take half of that.
pub const MAX_TOKEN: usize = 16_000;

/// An agent for all hosts that are spoken to with this TLS.
pub fn agent(parallel: usize, tls: Tls) -> Agent {
    let config = Agent::config_builder()
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
    Agent::with_parts(config, transport::connector(tls), transport::SystemResolver)
}

/// A proxy as ureq wants it.
pub fn proxy(url: &ProxyUrl) -> Result<Proxy, ureq::Error> {
    Proxy::new(url.reveal())
}
