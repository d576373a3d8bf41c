//! Headers by which a registry leads us on: `WWW-Authenticate`, `Link`, `Location`.

#![allow(
    clippy::unwrap_used,
    reason = "a property that does not hold is a panic"
)]

use super::registry::challenge::{self, BearerChallenge, Challenge};
use super::registry::url::{authority, is_same_origin, next_page, resolve};

/// Challenges are the same when they are written and read again, and do not depend on those of
/// schemes that we don't speak. Each line is a header.
pub fn challenges(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let found = challenge::parse(text.lines());
    let each = text
        .lines()
        .flat_map(|line| challenge::parse([line].into_iter()));
    assert_eq!(
        each.collect::<Vec<_>>(),
        found,
        "headers stand for themselves"
    );
    let others = text.lines().map(|line| format!("Negotiate,{line}"));
    let others: Vec<_> = others.collect();
    assert_eq!(challenge::parse(others.iter().map(String::as_str)), found);
    let written = found.iter().map(write).collect::<Vec<_>>().join(", ");
    assert_eq!(
        challenge::parse([written.as_str()].into_iter()),
        found,
        "{written}"
    );
}

fn write(challenge: &Challenge) -> String {
    let Challenge::Bearer(BearerChallenge {
        realm,
        service,
        scope,
    }) = challenge
    else {
        return "Basic realm=\"x\"".to_owned();
    };
    assert!(!realm.is_empty());
    let parameters = [
        ("realm", Some(realm)),
        ("service", service.as_ref()),
        ("scope", scope.as_ref()),
    ];
    let parameters: Vec<_> = parameters
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?.replace('\\', "\\\\").replace('"', "\\\""))))
        .map(|(name, value)| format!("{name}=\"{value}\""))
        .collect();
    format!("Bearer {}", parameters.join(","))
}

/// The next page is on the same origin, whatever the links say. Each line is a header.
pub fn links(data: &[u8]) {
    const BASE: &str = "https://r.example:5000/v2/a/tags/list?n=1000";
    const ORIGIN: &str = "https://r.example:5000";
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(next) = next_page(BASE, text.lines()) {
        let rest = next.strip_prefix(ORIGIN).unwrap();
        assert!(rest.starts_with('/'), "{next}");
        assert!(is_same_origin(BASE, &next), "{next}");
        assert!(is_clean(&next), "{next}");
    }
    for line in text.lines() {
        // A path and a query of unreserved characters are taken as they are.
        let is_path = line.starts_with('/') && !line.starts_with("//");
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/?&=-_~:+%".contains(&byte);
        if is_path && line.bytes().all(is_plain) && !line.contains("%2") {
            let expected = format!("{ORIGIN}{line}");
            let link = format!("<{line}>; rel=next");
            assert_eq!(
                next_page(BASE, [link.as_str()].into_iter()),
                Some(expected.clone())
            );
            assert_eq!(resolve(BASE, line.as_bytes()).unwrap().url, expected);
        }
        if let Some(target) = resolve(BASE, line.as_bytes()) {
            let target = target.url;
            assert!(
                target.starts_with("http://") || target.starts_with("https://"),
                "{target}"
            );
            assert!(is_clean(&target) && !target.contains('#'), "{target}");
            assert!(
                authority(&target).is_some_and(|host| !host.is_empty()),
                "{target}"
            );
            assert_eq!(resolve(BASE, target.as_bytes()).unwrap().url, target);
        }
    }
}

fn is_clean(url: &str) -> bool {
    url.bytes().all(|byte| byte.is_ascii_graphic())
}
