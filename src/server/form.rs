//! The form of errors and pages: HTML, text, JSON or no body. No I/O.

/// The programs that people type commands for, by the beginning of their `User-Agent`. They show a body on the
/// terminal. Programs of systemd are none of them: systemd 262 keeps the body of an error as a partial download.
const FOR_PEOPLE: [&str; 3] = ["curl/", "Wget/", "HTTPie/"];

/// A form of text for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Html,
    Json,
    Text,
}

impl Form {
    /// The form that a client wants: the one of its `Accept` headers with the highest quality, the first of equal
    /// ones. A range like `*/*` names none. Without a name it is text for programs that people type commands for.
    pub fn wanted<'a>(
        accept: impl Iterator<Item = &'a [u8]>,
        agent: Option<&[u8]>,
    ) -> Option<Self> {
        let mut best: Option<(f32, Self)> = None;
        for element in accept.flat_map(|value| value.split(|byte| *byte == b',')) {
            if let Some((quality, form)) = named(&String::from_utf8_lossy(element))
                && quality > best.map_or(0.0, |(highest, _)| highest)
            {
                best = Some((quality, form));
            }
        }
        let is_for_people = || {
            let agent = agent.unwrap_or_default();
            FOR_PEOPLE
                .iter()
                .any(|name| agent.starts_with(name.as_bytes()))
        };
        match best {
            Some((_, form)) => Some(form),
            None => is_for_people().then_some(Self::Text),
        }
    }
}

/// An element of `Accept`: its quality, and the form that it names (RFC 9110 §12.5.1).
fn named(element: &str) -> Option<(f32, Form)> {
    let mut words = element.split(';').map(str::trim);
    let media_type = words.next()?.to_ascii_lowercase();
    let form = match media_type.as_str() {
        "text/html" => Form::Html,
        "application/json" => Form::Json,
        "text/plain" => Form::Text,
        _ => return None,
    };
    let quality = words.find_map(|word| {
        let (name, value) = word.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then_some(value)
    });
    Some((
        quality.map_or(Some(1.0), |value| value.trim().parse().ok())?,
        form,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_reads_for_a_person_gets_text_and_systemd_gets_none() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        for (accept, agent, form) in [
            // As the programs of Debian 13 and forky send it.
            ("*/*", "systemd-pull/257 (257.9-1~deb13u1)", None),
            ("*/*", "systemd-pull/262 (262-1)", None),
            ("*/*", "systemd-sysupdate/257", None),
            ("*/*", "sysextmgrcli/1.2", None),
            ("*/*", "importctl/262 (262-1)", None),
            ("", "", None),
            ("*/*", "python-requests/2.32", None),
            ("*/*", "Go-http-client/1.1", None),
            ("*/*", "libcurl/8.14", None),
            ("*/*", "not curl/8.14", None),
            ("*/*", "curl/8.14.1", Some(Form::Text)),
            ("*/*", "Wget/1.25.0", Some(Form::Text)),
            ("*/*", "HTTPie/3.2.4", Some(Form::Text)),
            (
                "application/json, */*;q=0.5",
                "HTTPie/3.2.4",
                Some(Form::Json),
            ),
            (browser, "Mozilla/5.0 (X11; Linux x86_64)", Some(Form::Html)),
            ("application/json", "systemd-pull/262", Some(Form::Json)),
            ("Text/Plain", "", Some(Form::Text)),
            ("text/*", "", None),
            ("text/html;q=0.5, application/json", "", Some(Form::Json)),
            ("application/json, text/html", "", Some(Form::Json)),
            ("text/html; Q=0, */*", "", None),
            (
                "text/html;q=x, text/plain;level=1;q=0.1",
                "",
                Some(Form::Text),
            ),
        ] {
            let wanted = Form::wanted([accept.as_bytes()].into_iter(), Some(agent.as_bytes()));
            assert_eq!(wanted, form, "{accept:?} by {agent:?}");
        }
    }
}
