//! The little of URLs that talking to a registry takes.

use crate::name::Repository;

/// Where a redirect leads (RFC 3986 §5.2, without dot segments, which no registry sends).
///
/// `None` if it is neither http nor https, or not for a host.
pub(super) fn resolve(base: &str, location: &str) -> Option<String> {
    let target = if location.starts_with("http://") || location.starts_with("https://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{}//{rest}", base.split_inclusive(':').next()?)
    } else if split_origin(location).is_some() {
        return None;
    } else {
        let (origin, path) = split_origin(base)?;
        format!("{origin}{}", resolve_path(path, location))
    };
    // A fragment is not sent; a control character would end the request line.
    let target = target.split('#').next().unwrap_or_default();
    let is_clean = target.bytes().all(|b| b.is_ascii_graphic());
    let has_host = split_origin(target).is_some_and(|(origin, _)| !origin.ends_with('/'));
    (is_clean && has_host).then(|| target.to_owned())
}

/// The next page of a list, by its `Link` headers (RFC 8288), on the same origin as `base`.
///
/// Only path and query of the link are taken, as container tools do: a gateway may not know by what
/// name it is called, and a hostile link shall not lead us elsewhere.
pub(super) fn next_page<'a>(base: &str, links: impl Iterator<Item = &'a str>) -> Option<String> {
    let target = links
        .flat_map(split_links)
        .find(|link| is_next(link.parameters))?
        .target;
    let (origin, path) = split_origin(base)?;
    let reference = match split_origin(target) {
        Some((_, path)) => path,
        None => target,
    };
    resolve(base, &format!("{origin}{}", resolve_path(path, reference)))
}

/// The host of a URL, with its port where it has one.
pub(super) fn authority(url: &str) -> Option<&str> {
    split_origin(url)?
        .0
        .split_once("://")
        .map(|(_, authority)| authority)
}

/// The repository that a request of the distribution API is about.
pub(super) fn repository(url: &str) -> Option<Repository> {
    let (_, path) = split_origin(without_query(url))?;
    let path = path.strip_prefix("/v2/")?;
    let end = ["/manifests/", "/blobs/", "/tags/", "/referrers/"]
        .iter()
        .filter_map(|of| path.rfind(of))
        .max()?;
    path[..end].parse().ok()
}

/// A URL for a log: the query may hold a signature that is as good as a password.
pub(super) fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or(url)
}

/// Have they the same scheme, host and port? Then what is for one may be sent to the other.
pub(super) fn is_same_origin(one: &str, other: &str) -> bool {
    let origin = |url| split_origin(url).map(|(origin, _)| origin.to_ascii_lowercase());
    origin(one).is_some() && origin(one) == origin(other)
}

/// `http://host:port` and the rest, which is empty or begins with `/` or `?`.
fn split_origin(url: &str) -> Option<(&str, &str)> {
    let (scheme, _) = url.split_once("://")?;
    // A path may have a whole URL in its query.
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

/// A path and query relative to another's.
fn resolve_path(base: &str, reference: &str) -> String {
    let base = base.split(['?', '#']).next().unwrap_or_default();
    if reference.starts_with('/') {
        reference.to_owned()
    } else if reference.is_empty() || reference.starts_with('?') {
        format!("{base}{reference}")
    } else {
        let directory = &base[..base.rfind('/').map_or(0, |slash| slash + 1)];
        format!("{directory}{reference}")
    }
}

struct Link<'a> {
    target: &'a str,
    parameters: &'a str,
}

/// The links of one header: `<target>; rel="next", <target>…`. What is no link ends the search.
fn split_links(header: &str) -> Vec<Link<'_>> {
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
        links.push(Link {
            target: target.trim(),
            parameters: &after[..end],
        });
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
            ("ftp://h/a", None),
            ("http:///a", None),
            ("http://h/a b", None),
            ("/a\r\nX: y", None),
        ] {
            assert_eq!(resolve(BASE, location).as_deref(), target, "{location}");
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
            ("http://r.example:5000/", false),
            ("https://r.example:5001/", false),
            ("https://r.example/", false),
            ("https://r.example:5000.evil.example/", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_same_origin(BASE, other), is_same, "{other}");
        }
        assert_eq!(without_query(BASE), "https://r.example:5000/v2/a/blobs/x");
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
