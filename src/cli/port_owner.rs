//! Which user listens on the port of the service: any user can, while the socket unit is not started.
//!
//! systemd opens the socket as root. A service that somebody started by hand is theirs.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// The tables of the kernel (proc_net(5)), below the root directory.
const TABLES: [&str; 2] = ["proc/net/tcp", "proc/net/tcp6"];
/// The root user, who runs systemd.
const ROOT: u32 = 0;
/// `TCP_LISTEN` (linux:include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// The user who listens on a port of loopback and is neither root nor `caller`, if there is one.
pub fn stranger(port: u16, caller: u32) -> Option<u32> {
    let mut owners = owners(Path::new("/"), port).into_iter();
    owners.find(|owner| ![ROOT, caller].contains(owner))
}

/// The users who listen on a port of loopback, or of all addresses. `root`: the directory that the machine's files are
/// below.
pub fn owners(root: &Path, port: u16) -> Vec<u32> {
    let tables = TABLES
        .iter()
        .filter_map(|path| fs::read_to_string(root.join(path)).ok());
    tables.flat_map(|table| owners_in(&table, port)).collect()
}

/// Those in one table.
fn owners_in(table: &str, port: u16) -> Vec<u32> {
    let listeners = table.lines().filter_map(listener);
    let here = listeners.filter(|(address, at, _)| {
        *at == port && (address.is_loopback() || address.is_unspecified())
    });
    here.map(|(.., owner)| owner).collect()
}

/// A line of a table that is of a listener: where it listens, and whose it is.
///
/// `  sl  local_address rem_address   st tx_queue:rx_queue tr:tm->when retrnsmt   uid …`
fn listener(line: &str) -> Option<(IpAddr, u16, u32)> {
    let mut columns = line.split_ascii_whitespace().skip(1);
    let (address, port) = columns.next()?.split_once(':')?;
    let mut columns = columns.skip(1);
    if columns.next()? != LISTEN {
        return None;
    }
    let owner = columns.nth(3)?.parse().ok()?;
    Some((
        self::address(address)?.to_canonical(),
        u16::from_str_radix(port, 16).ok()?,
        owner,
    ))
}

/// An address as words of 32 bits, each of which is printed as a number of this machine.
fn address(hex: &str) -> Option<IpAddr> {
    let words = hex.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes = words.collect::<Option<Vec<_>>>()?.concat();
    match hex.len() {
        8 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    /// An address as the kernel of this machine prints it.
    fn printed(address: &str) -> String {
        let bytes = match address.parse().unwrap() {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let words = bytes
            .chunks(4)
            .map(|word| u32::from_ne_bytes(word.try_into().unwrap()));
        words.map(|word| format!("{word:08X}")).collect()
    }

    fn line(address: &str, port: u16, state: &str, owner: u32) -> String {
        format!(
            "   0: {}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {owner:>5}        0 7 1 0 100 0 0 10 0\n",
            printed(address)
        )
    }

    #[test]
    fn whoever_listens_on_the_port_is_found_in_the_table() {
        // As Linux 6.12 prints it on x86-64.
        if cfg!(target_endian = "little") {
            let table = format!(
                "{HEAD}   0: 0100007F:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 14213 1 0 100 0 0 10 0\n"
            );
            assert_eq!(owners_in(&table, 5001), [1000]);
        }
        for (address, port, state, expected, why) in [
            ("127.0.0.1", 5001, "0A", &[7][..], "the usual address"),
            ("127.1.2.3", 5001, "0A", &[7], "all of 127/8"),
            ("0.0.0.0", 5001, "0A", &[7], "all addresses"),
            ("::1", 5001, "0A", &[7], "of IPv6"),
            ("::", 5001, "0A", &[7], "all addresses of both"),
            ("::ffff:127.0.0.1", 5001, "0A", &[7], "IPv4 in IPv6"),
            ("192.0.2.7", 5001, "0A", &[], "no address of loopback"),
            ("127.0.0.1", 5002, "0A", &[], "another port"),
            ("127.0.0.1", 5001, "01", &[], "a connection"),
        ] {
            let table = format!("{HEAD}{}", line(address, port, state, 7));
            assert_eq!(owners_in(&table, 5001), expected, "{why}");
        }
        let both = line("127.0.0.1", 5001, "0A", 0) + &line("::1", 5001, "0A", 9);
        assert_eq!(owners_in(&both, 5001), [0, 9]);
    }

    #[test]
    fn a_line_of_another_form_is_passed_over() {
        for line in [
            "",
            "0:",
            "0: x",
            "0: 0100007F:1389 0:0 0A",
            "0: 01:1389 0:0 0A a b c 1",
            "0: ZZ00007F:1389 0:0 0A a b c 1",
        ] {
            assert_eq!(owners_in(line, 5001), [0; 0], "{line:?}");
        }
    }

    #[test]
    fn this_process_is_found_as_a_listener() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let table = fs::read_to_string(Path::new("/").join(TABLES[0])).unwrap();
        assert_eq!(owners_in(&table, port), [crate::dir::user()]);
    }
}
