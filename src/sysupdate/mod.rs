//! Transfer files of systemd-sysupdate (sysupdate.d(5)) on this machine, and which of them point at this service.
//!
//! ```text
//! [Source]
//! Type=url-file
//! Path=http://localhost:5001/kubernetes
//! MatchPattern=kubernetes-@v-%a.raw
//! ```
//!
//! `files.rs` finds them, `syntax.rs` reads them, `transfer.rs` checks them; `pattern.rs` matches names of files as
//! systemd does.

mod files;
pub mod nearest;
pub mod pattern;
mod specifiers;
mod syntax;
mod transfer;

use std::net::SocketAddr;
use std::path::Path;

use crate::address::Directory;
use crate::name::{Host, RepositoryAddress};

pub use files::{Definition, find};
pub use specifiers::Specifiers;
use syntax::Assignment;
pub use syntax::Fault;
pub use transfer::{Target, TargetKind, Transfer};

/// The port of the socket unit.
pub const PORT: u16 = 5001;

/// The version of systemd: 257, 262. Later ones read more, and under other names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SystemdVersion(pub u32);

/// Measured with 257 and 262. The versions between them are treated as 262.
impl SystemdVersion {
    const OLD: Self = Self(257);
    /// The one whose rules apply where the version does not matter much.
    pub const NEWEST: Self = Self(262);

    /// Whether a pattern has to match a name to its end.
    fn anchors_the_end(self) -> bool {
        self > Self::OLD
    }

    /// Whether `**/` before a pattern means any directory.
    fn knows_any_directory(self) -> bool {
        self > Self::OLD
    }

    /// Whether the directory of `CurrentSymlink=` is created where there is none.
    pub fn makes_the_directory_of_a_link(self) -> bool {
        self > Self::OLD
    }

    /// The characters of a version, beside letters and digits.
    fn version_characters(self) -> &'static str {
        match self > Self::OLD {
            true => ".-~^_+",
            false => ".,_-+",
        }
    }
}

/// Whether a transfer file below `root` names this repository. `hosts`: names of this service, by the settings.
pub fn name(root: &Path, hosts: &[Host], repository: &RepositoryAddress) -> bool {
    repositories(root, hosts).contains(repository)
}

/// The repositories that transfer files below `root` name.
///
/// A file that cannot be read names none; the check of that file reports the reason.
pub fn repositories(root: &Path, hosts: &[Host]) -> Vec<RepositoryAddress> {
    let definitions = find(root).unwrap_or_default();
    let named = definitions
        .iter()
        .filter_map(|one| repository_of(source_path(one)?, hosts));
    named.collect()
}

/// The transfer files below `root` that systemd-sysupdate reads, and that name this repository at `service`: all its
/// versions, or one of them. `hosts`: other names of the service, by the settings.
///
/// A file that systemd refuses is left out, and so is one that has the boot ID in a path or pattern; the check of that
/// file reports the reason.
pub fn transfers_of(
    root: &Path,
    systemd: SystemdVersion,
    service: &Host,
    hosts: &[Host],
    repository: &RepositoryAddress,
) -> Result<Vec<Transfer>, Fault> {
    let (definitions, specifiers) = (find(root)?, Specifiers::of_service(root));
    let names_it = |definition: &&Definition| {
        let path = source_path(definition).and_then(|path| specifiers.expand(path).ok());
        let aim = path.map(|path| aim(&path, service, hosts));
        matches!(aim, Some(Aim::Here(directory)) if directory.repository == *repository)
    };
    let named = definitions
        .iter()
        .filter(|definition| definition.is_read)
        .filter(names_it);
    let parsed = named.map(|definition| Transfer::parse(definition, &specifiers, systemd));
    Ok(parsed.flatten().collect())
}

/// The name by which clients on this machine reach a service that listens at this address. One that listens at all
/// addresses also listens at those of loopback.
pub fn name_of(address: SocketAddr) -> Option<Host> {
    let host = match address.ip().is_unspecified() {
        true => format!("localhost:{}", address.port()),
        false => address.to_string(),
    };
    host.parse().ok()
}

/// The name of the service where nothing else is known: the address of the socket unit.
pub fn usual_name() -> Host {
    let host = format!("localhost:{PORT}");
    host.parse().expect("it is a host and a port")
}

/// The last `Path=` in a section `[Source]`.
pub fn source_path(definition: &Definition) -> Option<&str> {
    let assignments = definition.assignments.as_deref().ok()?;
    let is_path = |one: &&Assignment| one.section == "Source" && one.key == "Path";
    let last = assignments.iter().rfind(is_path);
    last.map(|one| one.value.as_str())
}

/// Whether a path or pattern has the boot ID in it, which the service cannot see.
pub fn has_boot_id(definition: &Definition) -> bool {
    let assignments = definition.assignments.as_deref().unwrap_or_default();
    let mut names = assignments
        .iter()
        .filter(|one| matches!(one.key.as_str(), "Path" | "MatchPattern"));
    names.any(|one| specifiers::has_boot_id(&one.value))
}

/// Each `Path=` and `CurrentSymlink=` in a section `[Target]`, as it is written.
pub fn target_paths(definition: &Definition) -> impl Iterator<Item = &str> {
    let assignments = definition.assignments.as_deref().unwrap_or_default();
    let is_path = |one: &&Assignment| {
        one.section == "Target" && matches!(one.key.as_str(), "Path" | "CurrentSymlink")
    };
    assignments
        .iter()
        .filter(is_path)
        .map(|one| one.value.as_str())
}

/// The repository that a URL of this service names.
fn repository_of(url: &str, hosts: &[Host]) -> Option<RepositoryAddress> {
    // Specifiers of systemd.unit(5) would have to be expanded, but for the one that is no specifier.
    let url = url.replace("%%", "\0");
    if url.contains('%') {
        return None;
    }
    let service = usual_name();
    match aim(&url.replace('\0', "%"), &service, hosts) {
        Aim::Here(directory) => Some(directory.repository),
        _ => None,
    }
}

/// The target of a `Path=`.
#[derive(Clone, Debug, PartialEq)]
pub enum Aim {
    /// A directory of this service.
    Here(Directory),
    /// This service, and none of its directories. The reason.
    Unclear(String),
    /// Another port of this machine, by the path of a directory.
    Beside {
        host: Host,
        directory: Directory,
    },
    Elsewhere,
}

/// The target of a `Path=` without specifiers. `service`: the address of the service; `hosts`: its other names, by the settings.
pub fn aim(url: &str, service: &Host, hosts: &[Host]) -> Aim {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Aim::Elsewhere;
    };
    let (place, path) = rest.split_once('/').unwrap_or((rest, ""));
    let Ok(host) = place.parse::<Host>() else {
        return Aim::Elsewhere;
    };
    let directory = path.trim_end_matches('/').parse::<Directory>();
    match (scheme, is_ours(&host, service, hosts), directory) {
        ("http", true, Ok(directory)) => Aim::Here(directory),
        ("http", true, Err(why)) => Aim::Unclear(why),
        ("https", true, _) => Aim::Unclear("the service speaks HTTP, and this is HTTPS".into()),
        ("http", false, Ok(directory)) if host.is_loopback() => Aim::Beside { host, directory },
        _ => Aim::Elsewhere,
    }
}

fn is_ours(place: &Host, service: &Host, hosts: &[Host]) -> bool {
    let is_named = |host: &Host| match host.port() {
        Some(_) => host == place,
        None => host.bare() == place.bare(),
    };
    let is_here = place.is_loopback() && service.is_loopback() && place.port() == service.port();
    is_here || place == service || hosts.iter().any(is_named)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn transfer(path: &str) -> String {
        format!(
            "[Transfer]\nProtectVersion=%A\n\n[Source]\nType=url-file\nPath={path}\nMatchPattern=app_@v.raw\n"
        )
    }

    #[test]
    fn an_address_of_this_service_names_a_repository() {
        let hosts = [
            "updates.lan".parse().unwrap(),
            "proxy.lan:8080".parse().unwrap(),
        ];
        for (url, expected) in [
            ("http://localhost:5001/app", Some("app")),
            ("http://localhost:5001/app/", Some("app")),
            ("http://127.0.0.1:5001/acme/app", Some("acme/app")),
            ("http://127.0.0.2:5001/app", Some("app")),
            (
                "http://[::1]:5001/ghcr.io/acme/app",
                Some("ghcr.io/acme/app"),
            ),
            ("http://localhost:5001/app:v1/", Some("app")),
            ("http://updates.lan/app", Some("app")),
            ("http://updates.lan:5001/app", Some("app")),
            ("http://proxy.lan:8080/app", Some("app")),
            ("http://proxy.lan/app", None),
            ("http://localhost/app", None),
            ("http://localhost:80/app", None),
            ("https://localhost:5001/app", None),
            ("http://example.org:5001/app", None),
            ("http://localhost:5001@example.org/app", None),
            ("http://localhost:5001", None),
            ("http://localhost:5001/", None),
            ("http://localhost:5001/%o", None),
            ("http://localhost:5001/../app", None),
            ("/var/lib/app", None),
            ("", None),
        ] {
            let found = repository_of(url, &hosts);
            assert_eq!(
                found.map(|found| found.to_string()).as_deref(),
                expected,
                "{url}"
            );
        }
    }

    #[test]
    fn a_url_leads_to_the_service_or_beside_it() {
        let service: Host = "localhost:5001".parse().unwrap();
        let beside = |host: &str| Aim::Beside {
            host: host.parse().unwrap(),
            directory: "app".parse().unwrap(),
        };
        for (url, expected) in [
            (
                "http://localhost:5001/app",
                Aim::Here("app".parse().unwrap()),
            ),
            (
                "http://127.0.0.1:5001/app:v1/",
                Aim::Here("app:v1".parse().unwrap()),
            ),
            ("http://localhost/app", beside("localhost")),
            ("http://127.0.0.1:5000/app", beside("127.0.0.1:5000")),
            ("http://localhost:5000/", Aim::Elsewhere),
            ("https://localhost:5000/app", Aim::Elsewhere),
            ("https://example.org/app", Aim::Elsewhere),
            ("/var/lib/app", Aim::Elsewhere),
        ] {
            assert_eq!(aim(url, &service, &[]), expected, "{url}");
        }
        for (url, expected) in [
            ("https://localhost:5001/app", "this is HTTPS"),
            ("http://localhost:5001", ""),
            ("http://localhost:5001/App/", ""),
        ] {
            let Aim::Unclear(why) = aim(url, &service, &[]) else {
                panic!("{url} is clear")
            };
            assert!(why.contains(expected), "{url}: {why}");
        }
    }

    #[test]
    fn the_last_path_of_the_source_counts() {
        for (text, expected) in [
            (transfer("http://a/b").as_str(), Some("http://a/b")),
            ("[Source]\nPath=/a\nPath = /b", Some("/b")),
            ("[Target]\nPath=/a\n[Source]\n#Path=/b\n;Path=/c", None),
            ("[Source]\nPath=/a\n[Target]\nPath=/b", Some("/a")),
            ("[Source]\n  Path=/a\r\n", Some("/a")),
            ("Path=/a", None),
            ("[Source]\nPaths=/a\n[Sourcery]\nPath=/b", None),
            ("", None),
        ] {
            let path = Path::new("/etc/sysupdate.d/a.transfer");
            let definition = Definition {
                path: path.into(),
                component: None,
                is_read: true,
                assignments: syntax::parse(path, text, &mut Vec::new()),
                ignored: Vec::new(),
            };
            assert_eq!(source_path(&definition), expected, "{text:?}");
        }
    }

    #[test]
    fn transfer_files_are_found_where_systemd_looks() {
        let root =
            std::env::temp_dir().join(format!("sysext-oci-proxy-transfers-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let of = |name: &str| transfer(&format!("http://localhost:5001/{name}"));
        write("etc/sysupdate.d/10-a.transfer", &of("a"));
        write("run/sysupdate.kubernetes.d/b.conf", &of("b"));
        write("usr/local/lib/sysupdate.d/c.transfer", &of("c"));
        write("usr/lib/sysupdate.d/d.transfer", &of("d"));
        write("usr/lib/sysupdate.d/10-a.transfer", &of("replaced"));
        write(
            "usr/lib/sysupdate.other.d/10-a.transfer",
            &of("another-component"),
        );
        write("usr/lib/sysupdate.d/masked.transfer", &of("masked"));
        std::os::unix::fs::symlink("/dev/null", root.join("etc/sysupdate.d/masked.transfer"))
            .unwrap();
        write("etc/sysupdate.d/e.feature", &of("no-transfer"));
        write("etc/sysupdates/f.transfer", &of("no-folder"));
        write("home/sysupdate.d/g.transfer", &of("no-place"));
        write("etc/sysupdate.d/binary.transfer", "\u{0}");
        for (repository, expected) in [
            ("a", true),
            ("b", true),
            ("c", true),
            ("d", true),
            ("another-component", true),
            ("replaced", false),
            ("masked", false),
            ("no-transfer", false),
            ("no-folder", false),
            ("no-place", false),
            ("none", false),
        ] {
            let found = name(&root, &[], &repository.parse().unwrap());
            assert_eq!(found, expected, "{repository}");
        }
        fs::remove_dir_all(&root).unwrap();
        assert!(!name(&root, &[], &"a".parse().unwrap()));
    }
}
