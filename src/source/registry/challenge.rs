//! `WWW-Authenticate`: the authentication schemes that a registry offers.
//!
//! Grammar: RFC 9110 §11.6.1. Several challenges may stand in one header or in several, in any order
//! and case; quay omits the quotes. Unknown schemes are skipped.

/// A supported authentication scheme.
#[derive(Clone, Debug, PartialEq)]
pub enum Challenge {
    /// User name and password with each request.
    Basic,
    /// A token with each request.
    Bearer(BearerChallenge),
}

/// The token server that gives a token, and the parameters that it is asked with.
/// <https://distribution.github.io/distribution/spec/auth/token/>
#[derive(Clone, Debug, PartialEq)]
pub struct BearerChallenge {
    pub realm: String,
    pub service: Option<String>,
    pub scope: Option<String>,
}

/// The first Bearer challenge of these.
pub fn bearer(challenges: &[Challenge]) -> Option<&BearerChallenge> {
    challenges.iter().find_map(|challenge| match challenge {
        Challenge::Bearer(bearer) => Some(bearer),
        Challenge::Basic => None,
    })
}

/// The challenges in these headers, in their order.
pub fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Vec<Challenge> {
    headers.flat_map(parse_header).collect()
}

/// A scheme and its parameters, as they stand in the header.
struct RawChallenge<'a> {
    scheme: &'a str,
    parameters: Vec<(&'a str, String)>,
}

fn parse_header(header: &str) -> Vec<Challenge> {
    let mut raw: Vec<RawChallenge<'_>> = Vec::new();
    for element in elements(header) {
        let word_end = element
            .find(|c: char| c.is_ascii_whitespace() || c == '=')
            .unwrap_or(element.len());
        let (word, rest) = element.split_at(word_end);
        let rest = rest.trim_start();
        // 'name=value' belongs to the challenge before it; anything else begins a new one.
        let parameter = if let Some(value) = rest.strip_prefix('=') {
            Some((word, value))
        } else {
            raw.push(RawChallenge {
                scheme: word,
                parameters: Vec::new(),
            });
            rest.split_once('=')
                .map(|(name, value)| (name.trim(), value))
        };
        if let (Some((name, value)), Some(challenge)) = (parameter, raw.last_mut()) {
            challenge.parameters.push((name, unquote(value.trim())));
        }
    }
    raw.into_iter().filter_map(understand).collect()
}

fn understand(raw: RawChallenge<'_>) -> Option<Challenge> {
    let get = |name: &str| {
        let mut parameters = raw.parameters.iter();
        let (_, value) = parameters.find(|(other, _)| other.eq_ignore_ascii_case(name))?;
        (!value.is_empty()).then(|| value.clone())
    };
    if raw.scheme.eq_ignore_ascii_case("basic") {
        Some(Challenge::Basic)
    } else if raw.scheme.eq_ignore_ascii_case("bearer") {
        Some(Challenge::Bearer(BearerChallenge {
            realm: get("realm")?,
            service: get("service"),
            scope: get("scope"),
        }))
    } else {
        None
    }
}

/// The elements between commas that are not in quotes. An unclosed quote runs to the end.
fn elements(header: &str) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    header
        .split(move |c| {
            let is_end = c == ',' && !is_quoted;
            is_quoted ^= c == '"' && !is_escaped;
            is_escaped = is_quoted && c == '\\' && !is_escaped;
            is_end
        })
        .map(str::trim)
        .filter(|element| !element.is_empty())
}

fn unquote(value: &str) -> String {
    let Some(quoted) = value.strip_prefix('"') else {
        return value.to_owned();
    };
    let mut text = String::new();
    let mut characters = quoted.chars();
    while let Some(c) = characters.next() {
        match c {
            '"' => break,
            '\\' => text.extend(characters.next()),
            c => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: &str, scope: &str) -> Challenge {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Challenge::Bearer(BearerChallenge {
            realm: realm.into(),
            service: some(service),
            scope: some(scope),
        })
    }

    #[test]
    fn row_a4_challenges_are_read_in_any_spelling() {
        let full = r#"Bearer realm="https://auth.example/token",service="registry",scope="repository:a/b:pull,push""#;
        for (header, expected) in [
            (
                full,
                vec![bearer(
                    "https://auth.example/token",
                    "registry",
                    "repository:a/b:pull,push",
                )],
            ),
            (
                r#"bearer REALM="https://a/t""#,
                vec![bearer("https://a/t", "", "")],
            ),
            (
                "Bearer realm=https://a/t,service=quay.io,scope=repository:a/b:pull",
                vec![bearer("https://a/t", "quay.io", "repository:a/b:pull")],
            ),
            (
                r#"Basic realm="x, y=z", Bearer realm="https://a/t""#,
                vec![Challenge::Basic, bearer("https://a/t", "", "")],
            ),
            (r#"Negotiate, Basic realm="x""#, vec![Challenge::Basic]),
            (r#"Negotiate dG9rZW4=, NTLM, Basic"#, vec![Challenge::Basic]),
            (
                r#"Digest realm="x", nonce="y", Bearer realm = "https://a/t" , service = "s""#,
                vec![bearer("https://a/t", "s", "")],
            ),
            (
                r#"Bearer realm="https://a/\"t\"\\""#,
                vec![bearer(r#"https://a/"t"\"#, "", "")],
            ),
            (
                r#"Bearer realm="https://a/t, service="#,
                vec![bearer("https://a/t, service=", "", "")],
            ),
            ("Bearer", vec![]),
            (r#"Bearer realm="""#, vec![]),
            ("", vec![]),
            (",,, ,", vec![]),
            ("=x", vec![]),
        ] {
            assert_eq!(parse([header].into_iter()), expected, "{header}");
        }
    }

    #[test]
    fn row_a4_several_headers_count_as_one() {
        let found = parse(
            [
                "Negotiate",
                "Basic realm=x",
                r#"Bearer realm="https://a/t""#,
            ]
            .into_iter(),
        );
        assert_eq!(found, [Challenge::Basic, bearer("https://a/t", "", "")]);
    }
}
