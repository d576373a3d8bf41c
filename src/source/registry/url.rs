//! URLs of registries: targets of redirects, realms and next pages; URLs for messages.

use std::fmt;

use ::url::Url;
use percent_encoding::{CONTROLS, percent_decode_str, percent_encode};

use crate::name::{Host, Repository, url_without_userinfo};

/// The URL that a redirect or a realm leads to.
#[derive(Clone, Debug, PartialEq)]
pub struct Location {
    /// Without user name and password, and without a fragment.
    pub url: String,
    /// The user name and password before the host.
    pub login: Option<Userinfo>,
}

/// The user name and password before a host. They never show in `Debug`.
#[derive(Clone, PartialEq)]
pub struct Userinfo {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for Userinfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Userinfo(…)")
    }
}

/// Resolves a reference as browsers do (<https://url.spec.whatwg.org/>): blanks and letters beyond ASCII are
/// percent-encoded, dot segments are taken away, hosts and schemes are in lower case.
///
/// `None` if the scheme is neither http nor https, or if there is no host.
pub fn resolve(base: &str, reference: &[u8]) -> Option<Location> {
    if reference.iter().any(u8::is_ascii_control) {
        return None;
    }
    // Bytes beyond ASCII are kept as they are, as Go does. The standard reads them as UTF-8.
    let ascii = percent_encode(reference, CONTROLS).to_string();
    let mut url = Url::parse(base).ok()?.join(&ascii).ok()?;
    if !matches!(url.scheme(), "http" | "https") {
        return None;
    }
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let login = (!url.username().is_empty() || url.password().is_some()).then(|| Userinfo {
        user: decoded(url.username()),
        password: decoded(url.password().unwrap_or_default()),
    });
    url.set_fragment(None);
    url.set_username("")
        .and_then(|()| url.set_password(None))
        .ok()?;
    let url = url.to_string();
    authority(&url)?.parse::<Host>().ok()?;
    Some(Location { url, login })
}

/// The next page of a list, by its `Link` headers (RFC 8288), on the same origin as `base`.
///
/// Only path and query of the link are used, as container tools do: a registry behind a gateway may not know its public
/// name, and a hostile link must not lead elsewhere.
pub fn next_page<'a>(base: &str, links: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut links = links.flat_map(split_links);
    let (target, _) = links.find(|(_, parameters)| is_next(parameters))?;
    let target = Url::parse(&resolve(base, target.as_bytes())?.url).ok()?;
    let mut next = Url::parse(base).ok()?;
    next.set_path(target.path());
    next.set_query(target.query());
    Some(next.into())
}

/// `http://host:port` of a URL that was made or checked here.
pub fn origin(url: &str) -> Option<&str> {
    split_origin(url).map(|(origin, _)| origin)
}

/// `base` with the query of another URL in the place of its own.
pub fn with_query_of(base: &str, other: &str) -> String {
    let path = base.split(['?', '#']).next().unwrap_or_default();
    match other.split_once('?') {
        Some((_, query)) => format!("{path}?{query}"),
        None => path.to_owned(),
    }
}

/// The host of a URL, with its port where it has one.
pub fn authority(url: &str) -> Option<&str> {
    let (_, authority) = split_origin(url)?.0.split_once("://")?;
    Some(
        authority
            .rsplit_once('@')
            .map_or(authority, |(_, host)| host),
    )
}

/// The repository in a URL of the distribution API.
pub fn repository(url: &str) -> Option<Repository> {
    let (_, path) = split_origin(url.split(['?', '#']).next()?)?;
    let path = path.strip_prefix("/v2/")?;
    let end = ["/manifests/", "/blobs/", "/tags/", "/referrers/"]
        .iter()
        .filter_map(|of| path.rfind(of))
        .max()?;
    path[..end].parse().ok()
}

/// A URL for messages, valid or not: without a login before the host, and without the query, which may be a signature
/// that is as good as a password.
pub fn for_messages(url: &str) -> String {
    let mut url = url_without_userinfo(url);
    url.truncate(url.find(['?', '#']).unwrap_or(url.len()));
    url
}

/// Whether both have the same scheme, host and port, so that a secret for one may be sent to the other.
pub fn is_same_origin(one: &str, other: &str) -> bool {
    match (Url::parse(one), Url::parse(other)) {
        (Ok(one), Ok(other)) => one.origin().is_tuple() && one.origin() == other.origin(),
        _ => false,
    }
}

/// `http://host:port` and the rest, which is empty or begins with `/` or `?`.
fn split_origin(url: &str) -> Option<(&str, &str)> {
    let (scheme, _) = url.split_once("://")?;
    // The query may contain a URL.
    let is_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
    if !scheme.bytes().all(is_scheme) {
        return None;
    }
    let start = scheme.len() + "://".len();
    let end = url[start..]
        .find(['/', '?', '#'])
        .map_or(url.len(), |n| start + n);
    Some(url.split_at(end))
}

/// Whether a `Link` header names a next page, but cannot be parsed.
pub fn is_broken_link(header: &str) -> bool {
    split_links(header).is_empty() && header.to_ascii_lowercase().contains("next")
}

/// The targets and parameters of the links in one header, `<target>; rel="next", <target>…`, up to the first invalid
/// one.
fn split_links(header: &str) -> Vec<(&str, &str)> {
    let mut links = Vec::new();
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let Some((target, after)) = after.split_once('>') else {
            break;
        };
        // The parameters end at a comma that is in no quotes.
        let mut is_quoted = false;
        let end = after
            .find(|c| {
                is_quoted ^= c == '"';
                c == ',' && !is_quoted
            })
            .unwrap_or(after.len());
        links.push((target.trim(), &after[..end]));
        rest = &after[end..];
    }
    links
}

fn is_next(parameters: &str) -> bool {
    parameters
        .split(';')
        .filter_map(|parameter| parameter.split_once('='))
        .any(|(name, value)| {
            let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
            name.trim().eq_ignore_ascii_case("rel")
                && relations.any(|r| r.eq_ignore_ascii_case("next"))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "https://r.example:5000/v2/a/blobs/x?y=z";

    #[test]
    fn redirects_lead_where_they_say() {
        for (location, target) in [
            (
                "https://cdn.example/b?sig=1",
                Some("https://cdn.example/b?sig=1"),
            ),
            ("/v2/b", Some("https://r.example:5000/v2/b")),
            ("//cdn.example/b", Some("https://cdn.example/b")),
            ("other", Some("https://r.example:5000/v2/a/blobs/other")),
            ("?q=1", Some("https://r.example:5000/v2/a/blobs/x?q=1")),
            ("http://h/a#f", Some("http://h/a")),
            (
                "/login?to=https://h/a",
                Some("https://r.example:5000/login?to=https://h/a"),
            ),
            ("HTTPS://CDN.Example/B", Some("https://cdn.example/B")),
            ("https://cdn.example:443/b", Some("https://cdn.example/b")),
            ("https://cdn.example", Some("https://cdn.example/")),
            (
                "../manifests/y",
                Some("https://r.example:5000/v2/a/manifests/y"),
            ),
            ("./y", Some("https://r.example:5000/v2/a/blobs/y")),
            ("/a/../../b/./c", Some("https://r.example:5000/b/c")),
            ("http://h/a b?c d", Some("http://h/a%20b?c%20d")),
            (" http://h/a ", Some("http://h/a")),
            ("http://h/ä?ö", Some("http://h/%C3%A4?%C3%B6")),
            (
                "http://h/a%20b%2Fc?s=a%2Bb+c",
                Some("http://h/a%20b%2Fc?s=a%2Bb+c"),
            ),
            ("http://h/a//b;v=1,2:3@4", Some("http://h/a//b;v=1,2:3@4")),
            ("http://0x7f.1/a", Some("http://127.0.0.1/a")),
            (
                "http://xn--mnchen-3ya.example/a",
                Some("http://xn--mnchen-3ya.example/a"),
            ),
            ("ftp://h/a", None),
            ("javascript:x", None),
            ("http://", None),
            ("http://h:99999/", None),
            ("http://a_b.example/", None),
            ("http://münchen.example/", None),
            ("/a\r\nX: y", None),
            ("/a\tb", None),
        ] {
            let found = resolve(BASE, location.as_bytes());
            let expected = target.map(|url| Location {
                url: url.to_owned(),
                login: None,
            });
            assert_eq!(found, expected, "{location}");
        }
        let latin_1 = resolve(BASE, b"/\xe4").unwrap();
        assert_eq!(latin_1.url, "https://r.example:5000/%E4");
    }

    #[test]
    fn a_login_before_a_host_is_told_apart() {
        for (location, url, user, password) in [
            ("http://u:p@h/a", "http://h/a", "u", "p"),
            ("//u:p%40%3A@h/a", "https://h/a", "u", "p@:"),
            ("http://t0ken@h:80/", "http://h/", "t0ken", ""),
            ("http://:p@h/", "http://h/", "", "p"),
            ("http://u:p@q@h/", "http://h/", "u", "p@q"),
        ] {
            let found = resolve(BASE, location.as_bytes()).unwrap();
            assert!(!format!("{found:?}").contains("p@"), "{found:?}");
            let login = found.login.unwrap();
            assert_eq!(
                (
                    found.url.as_str(),
                    login.user.as_str(),
                    login.password.as_str()
                ),
                (url, user, password),
                "{location}"
            );
        }
    }

    #[test]
    fn messages_have_no_secret_of_a_url() {
        for (url, expected) in [
            (BASE, "https://r.example:5000/v2/a/blobs/x"),
            ("http://u:s3cret@h/a?sig=1#f", "http://h/a"),
            ("//u:s3cret@h?sig=1", "//h"),
            ("ftp://u:s3cret@h/", "ftp://h/"),
            ("u:s3cret@h/a", "h/a"),
            ("http://u:s3c?ret@h", "http://h"),
            ("http://u:s3 cret@h", "http://h"),
        ] {
            assert_eq!(for_messages(url), expected);
        }
    }

    #[test]
    fn a_request_tells_which_repository_it_is_about() {
        for (url, expected) in [
            ("https://r.example/v2/a/b/manifests/v1", Some("a/b")),
            ("https://r.example:5000/v2/a/tags/list?n=1", Some("a")),
            (
                "https://r.example/v2/manifests/manifests/v1",
                Some("manifests"),
            ),
            ("https://r.example/v2/a/referrers/sha256:00", Some("a")),
            ("https://r.example/v2/", None),
            ("https://r.example/store/a/blobs/x", None),
            ("https://r.example/v2/A/../b/blobs/x", None),
        ] {
            let found = repository(url);
            assert_eq!(found.as_ref().map(Repository::as_str), expected, "{url}");
        }
    }

    #[test]
    fn row_b1_origins_differ_by_scheme_host_and_port() {
        for (other, is_same) in [
            ("https://R.example:5000/other", true),
            ("HTTPS://u:p@r.example:5000", true),
            ("http://r.example:5000/", false),
            ("https://r.example:5001/", false),
            ("https://r.example/", false),
            ("https://r.example:5000.evil.example/", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_same_origin(BASE, other), is_same, "{other}");
        }
        assert!(is_same_origin(
            "https://r.example/a",
            "https://r.example:443/b"
        ));
        assert!(!is_same_origin("nonsense", "nonsense"));
        assert_eq!(authority(BASE), Some("r.example:5000"));
    }

    #[test]
    fn the_next_page_is_on_the_same_origin() {
        let list = "http://r.example/v2/a/tags/list?n=2";
        for (header, next) in [
            (
                r#"</v2/a/tags/list?last=b&n=2>; rel="next""#,
                Some("http://r.example/v2/a/tags/list?last=b&n=2"),
            ),
            (
                r#"<http://r.example/v2/a/tags/list?p=2>;rel=next"#,
                Some("http://r.example/v2/a/tags/list?p=2"),
            ),
            (
                r#"<https://evil.example/x?p=2>; rel="next""#,
                Some("http://r.example/x?p=2"),
            ),
            (
                r#"<?next_page=tok>; REL="next""#,
                Some("http://r.example/v2/a/tags/list?next_page=tok"),
            ),
            (
                r#"</v2/a/tags/list?next=http://x/y>; rel=next"#,
                Some("http://r.example/v2/a/tags/list?next=http://x/y"),
            ),
            (
                r#"<list?p=2>; rel=next"#,
                Some("http://r.example/v2/a/tags/list?p=2"),
            ),
            (
                r#"</a>; rel="prev", </b>; title="x, y"; rel="next""#,
                Some("http://r.example/b"),
            ),
            (r#"</a>; rel="prev next""#, Some("http://r.example/a")),
            (r#"</a>; rel="prev""#, None),
            (
                r#"<HTTP://u:p@evil.example/v2/a/tags/list?p=2>; rel="next""#,
                Some("http://r.example/v2/a/tags/list?p=2"),
            ),
            (
                r#"</v2/a/tags/../tags/list?last=a b>; rel=next"#,
                Some("http://r.example/v2/a/tags/list?last=a%20b"),
            ),
            (r#"</a"#, None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(
                next_page(list, [header].into_iter()).as_deref(),
                next,
                "{header}"
            );
        }
    }
}
