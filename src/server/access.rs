//! Access control: any program on this machine may ask, but no web page from elsewhere.
//!
//! Clients do not log in, because only this machine reaches loopback. But a browser on this machine sends whatever
//! requests a web page wants, and the service would fetch with the machine's registry logins for it. Such a request
//! is recognized in two ways: its `Host` is a name of the page's own that leads here (DNS rebinding), or the browser
//! says that it comes from another site (`Sec-Fetch-Site`).

use std::net::IpAddr;

use super::http::Request;
use crate::error::{Error, Result};
use crate::name::{Host, without_userinfo};

/// Refuses a request whose `Host` is not ours, or that comes from a page of another site.
///
/// Ours are the names of loopback, the local address of the connection, and `hosts` of the settings. A client that
/// names no host is no browser.
pub fn check(request: &Request, hosts: &[Host]) -> Result<()> {
    if let Some(host) = &request.host
        && !is_ours(host, request.local, hosts)
    {
        let host = without_userinfo(host);
        return Err(Error::NotOurName { host });
    }
    if request.is_cross_site {
        return Err(Error::CrossSite);
    }
    Ok(())
}

fn is_ours(text: &str, local: Option<IpAddr>, hosts: &[Host]) -> bool {
    // A final dot is the DNS root's.
    let text = match text.split_once(".:") {
        Some((name, port)) => format!("{name}:{port}"),
        None => text.strip_suffix('.').unwrap_or(text).to_owned(),
    };
    let Ok(host) = text.to_ascii_lowercase().parse::<Host>() else {
        return false;
    };
    if let Some(address) = host.address() {
        return address.is_loopback()
            || local.is_some_and(|local| local.to_canonical() == address)
            || hosts.iter().any(|own| own.is_same_machine(&host));
    }
    host.is_localhost()
        || hosts
            .iter()
            .any(|own| own.bare().eq_ignore_ascii_case(host.bare()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_names_are_those_of_loopback_and_of_the_settings() {
        let hosts: Vec<Host> = ["updates.lan", "192.0.2.7:5001", "Box"]
            .map(|host| host.parse().unwrap())
            .into();
        let local = "198.51.100.3".parse().ok();
        for (host, is_good, why) in [
            ("localhost:5001", true, "as everybody calls us"),
            ("LOCALHOST", true, "names have no case"),
            ("localhost.:5001", true, "with the root's dot"),
            ("kubernetes.localhost", true, "RFC 6761"),
            ("127.0.0.1:5001", true, ""),
            ("127.1.2.3", true, "all of 127/8"),
            ("[::1]:5001", true, ""),
            ("[::ffff:127.0.0.1]:5001", true, "IPv4 in IPv6"),
            ("127.1:5001", true, "as curl sends it"),
            ("[::ffff:192.0.2.7]", true, "set, and IPv4 in IPv6"),
            ("updates.lan:80", true, "set, whatever the port"),
            ("box:5001", true, "set, and a name of one label"),
            ("192.0.2.7", true, "set"),
            ("198.51.100.3:5001", true, "what the client connected to"),
            ("198.51.100.4", false, "another address"),
            (
                "0.0.0.0:5001",
                false,
                "reaches us, and no client calls us so",
            ),
            ("[::]:5001", false, "the same"),
            ("0:5001", false, "the same"),
            ("evil.example", false, "a name that leads here"),
            ("localhost.evil.example", false, "a part of a name"),
            ("evillocalhost", false, "a part of a label"),
            ("127.0.0.1.evil.example", false, "an address in a name"),
            ("updates.lan.evil.example", false, "one of ours in a name"),
            ("user@localhost", false, "no host"),
            ("localhost/evil", false, "no host"),
            ("local host", false, "no host"),
        ] {
            assert_eq!(is_ours(host, local, &hosts), is_good, "{host}: {why}");
        }
    }
}
