//! The connections that ureq speaks over: as its own, but they end when the client they are for is
//! gone, also while the other side is silent.
//!
//! ureq's interface for this may change with any version; `Cargo.lock` holds it still.

use std::time::{Duration, Instant};

use log::warn;
use ureq::unversioned::transport::time::Duration as Wait;
use ureq::unversioned::transport::{
    Buffers, ConnectProxyConnector, ConnectionDetails, Connector, NextTimeout, RustlsConnector,
    TcpConnector, Transport,
};
use ureq::{Error, Proxy, ProxyProtocol};

use crate::hangup;

/// Connects as ureq's `DefaultConnector` does: through a proxy if there is one, with TLS for https.
pub(super) fn connector() -> impl Connector {
    ().chain(NoSocks)
        .chain(ConnectProxyConnector::default())
        .chain(TcpConnector::default())
        // Below TLS: there every read from the network passes.
        .chain(Attentive)
        .chain(RustlsConnector::default())
}

/// Says why a SOCKS proxy is not used.
#[derive(Debug)]
struct NoSocks;

impl<In: Transport> Connector<In> for NoSocks {
    type Out = In;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<In>, Error> {
        let protocol = details.config.proxy().map(Proxy::protocol);
        let is_socks = matches!(
            protocol,
            Some(ProxyProtocol::Socks4 | ProxyProtocol::Socks4A | ProxyProtocol::Socks5)
        );
        if chained.is_none() && is_socks {
            warn!("the proxy in the environment speaks SOCKS, which is not supported");
        }
        Ok(chained)
    }
}

/// Makes a connection one that looks after its client.
#[derive(Debug)]
struct Attentive;

impl<In: Transport> Connector<In> for Attentive {
    type Out = AttentiveTransport<In>;

    fn connect(
        &self,
        _: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| AttentiveTransport {
            inner,
            looked: Instant::now(),
        }))
    }
}

#[derive(Debug)]
struct AttentiveTransport<T> {
    inner: T,
    /// When the client was there the last time. A fast download need not look at each read.
    looked: Instant,
}

impl<T> AttentiveTransport<T> {
    fn look(&mut self) -> Result<(), Error> {
        if self.looked.elapsed() >= hangup::LOOK {
            if hangup::is_gone() {
                return Err(Error::Io(hangup::error()));
            }
            self.looked = Instant::now();
        }
        Ok(())
    }
}

impl<T: Transport> Transport for AttentiveTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        if !hangup::is_watched() {
            return self.inner.await_input(timeout);
        }
        let whole = timeout.for_read();
        let end = whole.not_zero().map(|wait| Instant::now() + *wait);
        loop {
            self.look()?;
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let is_last = left.is_some_and(|left| left <= hangup::LOOK);
            let wait = left.unwrap_or(Duration::MAX).min(hangup::LOOK);
            let slice = NextTimeout {
                after: Wait::Exact(wait),
                per_read: None,
                ..whole
            };
            match self.inner.await_input(slice) {
                Err(Error::Timeout(_)) if !is_last => {}
                result => return result,
            }
        }
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}
