//! Settings files.

#![allow(
    clippy::unwrap_used,
    reason = "a property that does not hold is a panic"
)]

use std::fmt::Display;
use std::str::FromStr;

use super::{Settings, keys};
use crate::address::{Directory, Place, View};
use crate::fuzz::parts;
use crate::name::{Registry, RepositoryAddress};
use crate::server::html;

/// Settings that are accepted can be used: what they name is by the grammars and the same when it is
/// written and read again, and every repository is somewhere. Each part is a file.
pub fn settings(data: &[u8]) {
    let (mut settings, mut twice) = (Settings::default(), Settings::default());
    for part in parts(data) {
        let Ok(text) = std::str::from_utf8(part) else {
            return;
        };
        let read = keys::read(text, &mut settings);
        for _ in 0..2 {
            let again = keys::read(text, &mut twice);
            assert_eq!(again.is_ok(), read.is_ok(), "it is read now and not then");
        }
        if let Err(mistake) = read {
            assert!(!mistake.why.contains('\n'), "{:?}", mistake.why);
            assert!(mistake.at <= text.len(), "{}", mistake.at);
            return;
        }
    }
    assert_eq!(
        settings, twice,
        "a file that is there twice changes nothing"
    );

    assert_same_again(&settings.registry);
    settings.allow.iter().for_each(assert_same_again);
    let hosts = settings
        .trusted_hosts
        .iter()
        .chain(&settings.mirrors_with_ns)
        .chain(&settings.mirrors_without_ns)
        .chain(&settings.hosts);
    hosts.for_each(assert_same_again);
    assert!(settings.idle_timeout.as_millis() > 0);
    assert!(html::start(&settings, &[]).ends_with("</html>\n"));

    let ours = ["k8s", "localhost:5000/k8s", "ghcr.io/a/b"].map(|name| name.parse().unwrap());
    for address in settings.repositories.keys().chain(&ours) {
        assert_same_again(address);
        assert_located(&settings, address);
    }
}

fn assert_same_again<T: FromStr + PartialEq + Display>(value: &T) {
    let again = value.to_string().parse().ok();
    assert!(again.as_ref() == Some(value), "{value}");
}

fn assert_located(settings: &Settings, address: &RepositoryAddress) {
    let directory = Directory {
        repository: address.clone(),
        view: View::Tags,
    };
    let Ok(located) = directory.locate(settings) else {
        return;
    };
    assert!(!located.places.is_empty());
    for (_, place) in &located.places {
        match place {
            Place::Layout(path) => assert!(path.is_absolute()),
            Place::Registry { host, repository } => {
                assert_same_again(host);
                assert_same_again(repository);
                let registry = Registry {
                    host: host.clone(),
                    path: None,
                };
                assert!(registry.holds(host, repository));
            }
        }
    }
    let set = &located.settings;
    assert!(
        set.architectures
            .as_ref()
            .is_none_or(|list| !list.is_empty())
    );
    if let Some(names) = &set.names {
        let [one, two] = ["1", "2"].map(|version| names.fill("{arch}", version, Some("arm64")));
        assert!(one.is_some() && one != two, "versions share a name");
        assert_eq!(names.fill("k8s", "1", None).is_none(), names.wants_arch());
    }
}
