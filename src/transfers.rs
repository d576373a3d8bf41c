//! The repositories that transfer files of systemd-sysupdate name with an address of this service.
//!
//! ```text
//! [Source]
//! Type=url-file
//! Path=http://localhost:5001/kubernetes
//! ```
//!
//! Format: sysupdate.d(5). Drop-ins of transfer files are not read.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::address::Directory;
use crate::name::{Host, RepositoryAddress};

/// The directories of `sysupdate.d` and `sysupdate.COMPONENT.d`. A transfer file replaces its namesake in a later one.
const DIRECTORIES: [&str; 4] = ["etc", "run", "usr/local/lib", "usr/lib"];
/// The port of the socket unit.
const PORT: u16 = 5001;
/// Largest transfer file that is read, in bytes.
const LARGEST: u64 = 64 << 10;

/// Whether a transfer file below `root` names this repository. `hosts`: names of this service, by the settings.
pub fn name(root: &Path, hosts: &[Host], repository: &RepositoryAddress) -> bool {
    let mut files = BTreeMap::new();
    for directory in DIRECTORIES {
        for folder in folders(&root.join(directory)) {
            for file in entries(&folder).filter(is_transfer) {
                let place = (folder.file_name().map(OsString::from), file.clone());
                files.entry(place).or_insert_with(|| folder.join(file));
            }
        }
    }
    let mut texts = files.values().filter_map(|path| read(path));
    texts.any(|text| {
        let named = source_path(&text).and_then(|path| repository_of(path, hosts));
        named.as_ref() == Some(repository)
    })
}

fn folders(directory: &Path) -> Vec<PathBuf> {
    let is_one = |name: &OsString| {
        let name = name.to_string_lossy();
        name == "sysupdate.d" || (name.starts_with("sysupdate.") && name.ends_with(".d"))
    };
    entries(directory)
        .filter(is_one)
        .map(|name| directory.join(name))
        .collect()
}

fn entries(directory: &Path) -> impl Iterator<Item = OsString> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name())
}

fn is_transfer(name: &OsString) -> bool {
    let ending = Path::new(name).extension();
    ending.is_some_and(|ending| ending == "transfer" || ending == "conf")
}

fn read(path: &Path) -> Option<String> {
    // A link to /dev/null masks its namesakes.
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(LARGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// The last `Path=` in a section `[Source]`.
fn source_path(text: &str) -> Option<&str> {
    let mut is_in_source = false;
    let mut found = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') {
            is_in_source = line == "[Source]";
        } else if let Some((key, value)) = line.split_once('=')
            && is_in_source
            && key.trim_end() == "Path"
        {
            found = Some(value.trim_start());
        }
    }
    found
}

/// The repository that a URL of this service names.
fn repository_of(url: &str, hosts: &[Host]) -> Option<RepositoryAddress> {
    let (place, path) = url.strip_prefix("http://")?.split_once('/')?;
    if !is_ours(place, hosts) {
        return None;
    }
    // Specifiers of systemd.unit(5) would have to be expanded, but for the one that is no specifier.
    let path = path.replace("%%", "\0");
    if path.contains('%') {
        return None;
    }
    let path = path.replace('\0', "%");
    let directory: Directory = path.trim_end_matches('/').parse().ok()?;
    Some(directory.repository)
}

fn is_ours(place: &str, hosts: &[Host]) -> bool {
    let Ok(place) = place.parse::<Host>() else {
        return false;
    };
    let is_named = |host: &Host| match host.port() {
        Some(_) => *host == place,
        None => host.bare() == place.bare(),
    };
    place.is_loopback() && place.port() == Some(PORT) || hosts.iter().any(is_named)
}

#[cfg(test)]
mod tests {
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
            assert_eq!(source_path(text), expected, "{text:?}");
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
