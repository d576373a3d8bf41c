//! `registries.conf`: which registries are mirrored, insecure or blocked.
//!
//! Format: containers-registries.conf(5), version 2, with its drop-ins. The rules are those of containers/image
//! (pkg/sysregistriesv2): the table with the longest prefix counts, length as written; of two tables with one
//! prefix the first in a file counts, and a later file replaces it; `blocked` and `insecure` are those of the
//! table found, whatever tables there are for its location. There is one addition: a host has one spelling, so
//! that no other one leads around a block.

mod file;
mod prefix;

use std::path::{Path, PathBuf};

use log::warn;

use crate::error::{Error, Result};
use crate::name::{Host, Repository, docker_hub, normalized, without_userinfo};
use crate::settings::{files_in, read_text, variable};
pub use file::Pull;
use file::{Table, parse};

/// Below the root directory; drop-ins are `registries.conf.d/*.conf` beside it.
const CONFIG: &str = "etc/containers/registries.conf";
/// The file of the system, if there is none above.
const VENDOR_CONFIG: &str = "usr/share/containers/registries.conf";
/// Names another file, which then stands alone, as podman has it.
const VARIABLE: &str = "CONTAINERS_REGISTRIES_CONF";
/// The registries of `registries.conf`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registries(Vec<Table>);

/// A place that may have a repository.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    pub host: Host,
    pub repository: Repository,
    /// Whether plain HTTP and any certificate will do; `None` if the file does not say.
    pub insecure: Option<bool>,
    pub role: Role,
}

/// The requests that go to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    /// The registry itself: everything.
    Primary,
    /// A mirror: for tags, for digests, or for both.
    Mirror(Pull),
}

impl Registries {
    /// Reads `registries.conf` and its drop-ins below `root`, or the file that the environment names.
    pub fn load(root: &Path) -> Result<Self> {
        match variable(VARIABLE) {
            Some(file) => Self::read([file]),
            None => {
                let mut configs = [CONFIG, VENDOR_CONFIG]
                    .map(|path| root.join(path))
                    .into_iter();
                let config = configs.find(|path| path.exists()).into_iter();
                Self::read(config.chain(files_in(&root.join(format!("{CONFIG}.d")), "conf")?))
            }
        }
    }

    fn read(files: impl IntoIterator<Item = PathBuf>) -> Result<Self> {
        let mut registries = Self::default();
        for path in files {
            let (tables, unknown) =
                parse(&read_text(&path)?).map_err(|(line, why)| Error::BadSettings {
                    path: path.clone(),
                    line,
                    why: without_userinfo(&why),
                })?;
            if !unknown.is_empty() {
                let unknown = without_userinfo(&unknown.join(", "));
                warn!("{}: unknown keys are ignored: {unknown}", path.display());
            }
            registries.merge(tables);
        }
        Ok(registries)
    }

    /// Adds the tables of a later file, which replace those for the same prefixes; of two in the file the first
    /// counts. Sorted by prefix, which decides between two of one length.
    fn merge(&mut self, tables: Vec<Table>) {
        for table in tables.into_iter().rev() {
            self.0.retain(|other| !other.prefix.is_same(&table.prefix));
            self.0.push(table);
        }
        self.0
            .sort_by(|one, other| one.prefix.written.cmp(&other.prefix.written));
    }

    /// The table for this name, and the rest of the name behind its prefix.
    fn find(&self, host: &Host, repository: &str) -> Option<(&Table, String)> {
        let matching = (self.0.iter())
            .filter_map(|table| Some((table, table.prefix.rest_of(host, repository)?)));
        // Of two the first: from the end, the last of the longest.
        (matching.rev()).max_by_key(|(table, _)| table.prefix.written.len())
    }

    /// The prefix that blocks this repository, or this host if no repository is meant.
    pub fn blocked(&self, host: &Host, repository: Option<&Repository>) -> Option<&str> {
        let found = match repository.map(|repository| normalized(host, repository)) {
            Some((host, repository)) => self.find(&host, repository.as_str()),
            None => self.find(&docker_hub(host), ""),
        };
        let (table, _) = found.filter(|(table, _)| table.registry.blocked)?;
        Some(&table.prefix.written)
    }

    /// Where to look for this repository: its mirrors in their order, and the registry itself.
    pub fn endpoints(
        &self,
        host: &Host,
        repository: &Repository,
    ) -> Result<(Vec<Endpoint>, Endpoint)> {
        let (host, repository) = normalized(host, repository);
        let Some((Table { prefix, registry }, rest)) = self.find(&host, repository.as_str()) else {
            let itself = Endpoint {
                host,
                repository,
                insecure: None,
                role: Role::Primary,
            };
            return Ok((Vec::new(), itself));
        };
        if registry.blocked {
            return Err(Error::Blocked {
                registry: format!("{host}/{repository}"),
                prefix: prefix.written.clone(),
            });
        }
        let place = |location: &str, insecure, role| {
            let full = if location.is_empty() {
                format!("{host}/{repository}")
            } else {
                format!("{location}{rest}")
            };
            let bad = |why| Error::BadAddress {
                path: full.clone(),
                why,
            };
            let (host, repository) = full
                .split_once('/')
                .ok_or_else(|| bad("registries.conf leads to no repository".into()))?;
            let (host, repository) = normalized(
                &host.parse().map_err(bad)?,
                &repository.parse().map_err(bad)?,
            );
            Ok(Endpoint {
                host,
                repository,
                insecure,
                role,
            })
        };
        let mirrors = registry.mirror.iter().map(|mirror| {
            let role = Role::Mirror(mirror.pull_from_mirror.unwrap_or_default());
            place(&mirror.location, mirror.insecure, role)
        });
        Ok((
            mirrors.collect::<Result<_>>()?,
            place(&registry.location, registry.insecure, Role::Primary)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn registries(text: &str) -> Registries {
        let mut found = Registries::default();
        found.merge(parse(text).unwrap_or_else(|why| panic!("{why:?}")).0);
        found
    }

    /// `host/repository` of each endpoint, with what it is for.
    fn endpoints(registries: &Registries, name: &str) -> Vec<String> {
        let (host, repository) = name.split_once('/').unwrap();
        match registries.endpoints(&host.parse().unwrap(), &repository.parse().unwrap()) {
            Ok((mirrors, itself)) => mirrors.iter().chain([&itself]).map(show).collect(),
            Err(error) => vec![error.line()],
        }
    }

    fn show(endpoint: &Endpoint) -> String {
        let role = match endpoint.role {
            Role::Primary => "",
            Role::Mirror(Pull::All) => " mirror",
            Role::Mirror(Pull::TagOnly) => " mirror for tags",
            Role::Mirror(Pull::DigestOnly) => " mirror for digests",
        };
        let insecure = if endpoint.insecure == Some(true) {
            " insecure"
        } else {
            ""
        };
        format!("{}/{}{role}{insecure}", endpoint.host, endpoint.repository)
    }

    #[test]
    fn row_x1_mirrors_come_in_order_and_then_the_registry() {
        let found = registries(
            r#"
            unqualified-search-registries = ["docker.io"]
            [[registry]]
            location = "ghcr.io/acme"
            [[registry.mirror]]
            location = "localhost:5000"
            insecure = true
            [[registry.mirror]]
            location = "mirror.example/ghcr"
            pull-from-mirror = "digest-only"
            [[registry.mirror]]
            location = "tags.example/acme"
            pull-from-mirror = "tag-only"
            "#,
        );
        assert_eq!(
            endpoints(&found, "ghcr.io/acme/k8s"),
            [
                "localhost:5000/k8s mirror insecure",
                "mirror.example/ghcr/k8s mirror for digests",
                "tags.example/acme/k8s mirror for tags",
                "ghcr.io/acme/k8s"
            ]
        );
        assert_eq!(
            endpoints(&found, "ghcr.io/acmecorp/k8s"),
            ["ghcr.io/acmecorp/k8s"]
        );
        assert_eq!(endpoints(&found, "quay.io/acme/k8s"), ["quay.io/acme/k8s"]);
    }

    #[test]
    fn row_x1_the_longest_prefix_counts() {
        let found = registries(
            r#"
            [[registry]]
            prefix = "a.example/x"
            location = "one.example"
            [[registry]]
            prefix = "a.example"
            location = "two.example/all"
            [[registry]]
            prefix = "*.wild.example"
            location = "three.example"
            [[registry]]
            prefix = "*.as-it-is.example"
            insecure = true
            [[registry]]
            prefix = "bad.example"
            location = "bad.example"
            blocked = true
            "#,
        );
        for (name, expected) in [
            ("a.example/x/y", "one.example/y"),
            ("a.example/xx/y", "two.example/all/xx/y"),
            ("b.wild.example/y", "three.example/y"),
            ("b.c.wild.example:5000/y", "three.example:5000/y"),
            (
                "a.example:5000/x",
                "bad address \"two.example/all:5000/x\": \"all:5000\" in repository",
            ),
            ("wild.example/y", "wild.example/y"),
            ("b.as-it-is.example/y", "b.as-it-is.example/y insecure"),
            (
                "bad.example/y",
                "bad.example/y is blocked by registries.conf, in the [[registry]] for bad.example",
            ),
        ] {
            let [found] = &endpoints(&found, name)[..] else {
                panic!("{name} is at one place");
            };
            let found = found.split(" \"all:5000/x\" is not").next().unwrap();
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn row_x1_what_is_not_followed_is_refused() {
        for (text, reason) in [
            (
                "[registries.search]\nregistries = [\"docker.io\"]",
                "is version 1 of the format",
            ),
            (
                "[[registry]]\nlocation = \"a.example\"\npull-from-mirror = \"all\"",
                "which only a [[registry.mirror]] may have",
            ),
            (
                "[[registry]]\nlocation = \"a.example\"\n[[registry.mirror]]\nlocation = \"/\"",
                "needs a location",
            ),
            (
                "[[registry]]\nprefix = \"*.a.example:5000\"",
                "must have the form *.example.com",
            ),
            (
                "[[registry]]\nprefix = \"a_b.example\"\nlocation = \"a.example\"",
                "must be host[:port][/path]",
            ),
            (
                "[[registry]]\nlocation = \"a.example\"\nblocked = true\n\
                 [[registry]]\nprefix = \"b.example\"\nlocation = \"a.example/\"",
                "disagree whether it is blocked",
            ),
            (
                "[[registry]]\nlocation = \"a.example\"\ninsecure = true\n\
                 [[registry]]\nprefix = \"b.example\"\nlocation = \"a.example\"",
                "disagree whether it is insecure",
            ),
            ("[[registry]]\nprefix = \"a.example\"", "needs a location"),
            (
                "[[registry]]\ninsecure = true",
                "needs a prefix or a location",
            ),
            (
                "[[registry]]\nlocation = \"https://a.example\"",
                "must be host[:port][/path]",
            ),
            (
                "[[registry]]\nprefix = \"*a.example\"",
                "must be host[:port][/path] or *.example.com",
            ),
            (
                "[[registry]]\nlocation = \"a.example\"\nmirror-by-digest-only = true\n\
                 [[registry.mirror]]\nlocation = \"b.example\"\npull-from-mirror = \"all\"",
                "only one may be set",
            ),
            (
                "credential-helpers = [\"ecr-login\"]",
                "expected only containers-auth.json",
            ),
        ] {
            let (_, why) = parse(text).unwrap_err();
            assert!(
                why.contains(reason),
                "{text:?}: {why:?} does not say {reason:?}"
            );
        }
        assert!(
            parse(
                "credential-helpers = [\"containers-auth.json\"]\nshort-name-mode = \"enforcing\""
            )
            .is_ok()
        );
    }

    /// The tables for which each row of a test has its own prefixes.
    fn table(prefix: &str, more: &str) -> String {
        format!("[[registry]]\nprefix = \"{prefix}\"\n{more}\n")
    }

    const BLOCKED: &str = "location = \"x.example\"\nblocked = true";
    const OPEN: &str = "location = \"y.example\"";

    #[test]
    fn row_x1_the_longest_prefix_counts_as_it_is_written() {
        let blocked = |prefix: &str| table(prefix, BLOCKED);
        let open = |prefix: &str| table(prefix, OPEN);
        for (tables, name, is_blocked, why) in [
            (
                [open("reg.example.com"), blocked("*.example.com")],
                "reg.example.com/x",
                false,
                "one host before all below",
            ),
            (
                [blocked("reg.example.com"), open("*.example.com")],
                "reg.example.com/x",
                true,
                "the same, blocked",
            ),
            (
                [blocked("*.b.example.com"), open("*.example.com")],
                "a.b.example.com/x",
                true,
                "of two wildcards the longer",
            ),
            (
                [open("*.b.example.com"), blocked("*.example.com")],
                "a.b.example.com/x",
                false,
                "the same, open",
            ),
            (
                [blocked("*.b.example"), open("a.b.example")],
                "a.b.example/x",
                true,
                "of one length: by the alphabet",
            ),
            (
                [blocked("a.example/x"), open("a.example")],
                "a.example/x",
                true,
                "a path",
            ),
            (
                [blocked("a.example/x/"), open("a.example//")],
                "a.example/x/y",
                true,
                "slashes do not count",
            ),
            (
                [blocked("a.example/x"), open("a.example")],
                "a.example/xy",
                false,
                "whole components",
            ),
            (
                [blocked("a.example"), open("a.example")],
                "a.example/x",
                true,
                "of two the first",
            ),
            (
                [open("a.example"), blocked("a.example")],
                "a.example/x",
                false,
                "of two the first, open",
            ),
            (
                [blocked("a.example"), open("b.example")],
                "a.example:5000/x",
                true,
                "every port",
            ),
            (
                [blocked("a.example:5000"), open("a.example")],
                "a.example:5000/x",
                true,
                "that port",
            ),
            (
                [blocked("a.example:5000"), open("a.example")],
                "a.example:5001/x",
                false,
                "another port",
            ),
            (
                [blocked("*.example"), open("b.example")],
                "a.example:5000/x",
                true,
                "every port below a domain",
            ),
            (
                [blocked("*.example.com"), open("b.example")],
                "example.com/x",
                false,
                "below, not the domain itself",
            ),
            (
                [blocked("*.example.com"), open("b.example")],
                "a.example.community/x",
                false,
                "whole labels",
            ),
        ] {
            for tables in [
                tables.concat(),
                tables.iter().rev().map(String::as_str).collect(),
            ] {
                if why.starts_with("of two the first")
                    && !tables
                        .starts_with(&table("a.example", if is_blocked { BLOCKED } else { OPEN }))
                {
                    continue;
                }
                let found = endpoints(&registries(&tables), name);
                assert_eq!(
                    found[0].contains("is blocked"),
                    is_blocked,
                    "{why}: {found:?}"
                );
            }
        }
    }

    #[test]
    fn no_spelling_of_a_host_leads_around_a_block() {
        for (prefix, names) in [
            (
                "ghcr.io",
                &["ghcr.io/x", "GHCR.io/x", "ghcr.io:443/x", "ghcr.io:5000/x"][..],
            ),
            ("GHCR.io", &["ghcr.io/x"]),
            ("ghcr.io:443", &["ghcr.io/x", "GHCR.IO:443/x"]),
            (
                "*.Example.com",
                &["a.example.com/x", "A.EXAMPLE.COM:5000/x"],
            ),
            (
                "docker.io",
                &["docker.io/x", "index.docker.io/x", "registry-1.docker.io/x"],
            ),
            ("index.docker.io/acme", &["docker.io/acme/x"]),
            ("registry-1.docker.io", &["docker.io/acme/x"]),
            (
                "docker.io/library",
                &["docker.io/x", "index.docker.io/library/x"],
            ),
            (
                "[2001:db8:0:0::1]",
                &["[2001:db8::1]/x", "[2001:DB8::1]:5000/x"],
            ),
            (
                "192.0.2.7",
                &[
                    "192.0.2.7:5000/x",
                    "192.0.519/x",
                    "0xc0.0.2.7/x",
                    "[::ffff:192.0.2.7]/x",
                ],
            ),
        ] {
            let found = registries(&table(prefix, BLOCKED));
            for name in names {
                let line = endpoints(&found, name).concat();
                let expected =
                    format!("blocked by registries.conf, in the [[registry]] for {prefix}");
                assert!(line.ends_with(&expected), "{prefix} {name}: {line}");
            }
        }
        let found = registries(&table("ghcr.io:443", BLOCKED));
        assert_eq!(endpoints(&found, "ghcr.io:444/x"), ["ghcr.io:444/x"]);
    }

    /// As containers/image has it: the table found for a name decides, not those for where it leads.
    #[test]
    fn what_is_blocked_by_its_own_name_may_be_a_place_of_another() {
        let found = registries(
            r#"
            [[registry]]
            prefix = "a.example"
            location = "blocked.example/a"
            [[registry.mirror]]
            location = "blocked.example/mirror"
            [[registry]]
            location = "blocked.example"
            blocked = true
            "#,
        );
        assert_eq!(
            endpoints(&found, "a.example/x"),
            ["blocked.example/mirror/x mirror", "blocked.example/a/x"]
        );
        let host = |text: &str| text.parse::<Host>().unwrap();
        for (name, repository, is_blocked) in [
            ("blocked.example", None, true),
            ("blocked.example:443", Some("x"), true),
            ("a.example", None, false),
            ("other.example", Some("x"), false),
        ] {
            let repository = repository.map(|text| text.parse().unwrap());
            let found = found.blocked(&host(name), repository.as_ref());
            assert_eq!(found, is_blocked.then_some("blocked.example"), "{name}");
        }
    }

    #[test]
    fn a_key_that_is_not_known_is_told_and_not_used() {
        let (_, unknown) = parse(
            "newer = 1\n[[registry]]\nlocation = \"a.example\"\nsigstore = true\n\
             [[registry.mirror]]\nlocation = \"b.example\"\nweight = {x = 1}",
        )
        .unwrap();
        assert_eq!(
            unknown,
            ["newer", "registry.sigstore", "registry.mirror.weight"]
        );
        for (text, line) in [
            ("\n[[registry]]\nblocked = \"yes\"", 3),
            (
                "[[registry]]\nlocation = \"a.b\"\n[[registry.mirror]]\nlocation = 1",
                4,
            ),
        ] {
            let (found, why) = parse(text).unwrap_err();
            assert_eq!(found, Some(line), "{why}");
        }
    }

    #[test]
    fn row_x1_a_drop_in_replaces_the_table_of_its_prefix() {
        let root = std::env::temp_dir().join(format!(
            "sysext-oci-proxy-registries-{}",
            std::process::id()
        ));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(Registries::load(&root).unwrap(), Registries::default());
        write(
            CONFIG,
            "[[registry]]\nlocation = \"a.example\"\n[[registry]]\nlocation = \"b.example\"",
        );
        write(
            "etc/containers/registries.conf.d/50-a.conf",
            "[[registry]]\nprefix = \"A.example/\"\nlocation = \"c.example\"",
        );
        let found = Registries::load(&root);
        fs::remove_dir_all(&root).unwrap();
        let found = found.unwrap();
        assert_eq!(endpoints(&found, "a.example/x"), ["c.example/x"]);
        assert_eq!(endpoints(&found, "b.example/x"), ["b.example/x"]);
    }
}
