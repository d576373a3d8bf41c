//! Which signer a rule wants.

use std::fmt;

use super::Who;

/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 4 << 10;
/// Most memory that a pattern takes, in bytes.
#[cfg(feature = "keyless")]
const MAX_SIZE: usize = 1 << 20;
/// Longest subject that is compared with a pattern, in bytes. The time it takes grows with both.
#[cfg(feature = "keyless")]
const MAX_SUBJECT: usize = 4 << 10;

/// The rule for the subject of a certificate.
#[derive(Clone)]
pub enum Subject {
    /// It is this one.
    Exact(String),
    /// All of it matches this pattern.
    #[cfg(feature = "keyless")]
    Pattern(String, regex_lite::Regex),
    /// One of the email addresses is this one.
    Email(String),
}

impl Subject {
    /// Reads a pattern, in the syntax of the regex crate without Unicode's tables.
    pub fn pattern(text: &str) -> Result<Self, String> {
        if text.len() > MAX_PATTERN {
            let found = text.len();
            return Err(format!(
                "the pattern has {found} bytes, at most {MAX_PATTERN} are allowed"
            ));
        }
        compile(text)
    }

    /// Whether this signer is the one.
    pub fn matches(&self, who: &Who) -> bool {
        match self {
            Self::Exact(subject) => who.subject == *subject,
            #[cfg(feature = "keyless")]
            Self::Pattern(_, regex) => {
                who.subject.len() <= MAX_SUBJECT && regex.is_match(&who.subject)
            }
            Self::Email(email) => who.emails.contains(email),
        }
    }
}

#[cfg(feature = "keyless")]
fn compile(text: &str) -> Result<Subject, String> {
    let build = |text: &str| {
        let regex = regex_lite::RegexBuilder::new(text)
            .size_limit(MAX_SIZE)
            .build();
        regex.map_err(|error| format!("{text:?} is no regular expression: {error}"))
    };
    // By itself, too: `a)|(b` is none, and in the group it would be one.
    build(text)?;
    let whole = build(&format!(r"\A(?:{text})\z"))?;
    Ok(Subject::Pattern(text.to_owned(), whole))
}

#[cfg(not(feature = "keyless"))]
fn compile(_: &str) -> Result<Subject, String> {
    Err(super::absent::WHY.to_owned())
}

impl PartialEq for Subject {
    fn eq(&self, other: &Self) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) | Self::Email(text) => f.write_str(text),
            #[cfg(feature = "keyless")]
            Self::Pattern(text, _) => write!(f, "/{text}/"),
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => write!(f, "Exact({text:?})"),
            #[cfg(feature = "keyless")]
            Self::Pattern(text, _) => write!(f, "Pattern({text:?})"),
            Self::Email(text) => write!(f, "Email({text:?})"),
        }
    }
}

#[cfg(all(test, feature = "keyless"))]
mod tests {
    use super::*;

    fn who(subject: &str) -> Who {
        Who {
            subject: subject.to_owned(),
            emails: vec!["b@example.com".to_owned()],
            issuer: None,
        }
    }

    #[test]
    fn a_pattern_is_of_the_whole_subject() {
        for (pattern, subject, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("a", "ba", false),
            ("a|ab", "ab", true), // the first alternative would end before
            ("a|b", "b", true),
            ("a|b", "xb", false),
            ("a$", "a", true),
            ("a.", "a\n", false),
            ("a", "a\n", false),
            ("(?m)a$", "a\nb", false),
            ("(?m)^b", "a\nb", false),
            ("(?i)A", "a", true),
            (
                r"https://github\.com/acme/[^/]+/\.github/workflows/release\.yml@refs/tags/v.*",
                "https://github.com/acme/k8s/.github/workflows/release.yml@refs/tags/v1",
                true,
            ),
            (
                r"https://github\.com/acme/.*",
                "https://github.com/acme-evil/x",
                false,
            ),
            ("", "", true),
            ("", "a", false),
        ] {
            let subject_rule = Subject::pattern(pattern).unwrap();
            let found = subject_rule.matches(&who(subject));
            assert_eq!(found, expected, "{pattern:?} and {subject:?}");
        }
        let any = Subject::pattern(".*").unwrap();
        assert!(any.matches(&who(&"a".repeat(MAX_SUBJECT))));
        assert!(!any.matches(&who(&"a".repeat(MAX_SUBJECT + 1))));
    }

    #[test]
    fn a_pattern_that_is_none_or_too_large_is_refused() {
        for bad in ["a)|(b", "(", "(?x)a #", "a{1000}{1000}", "[", "\\"] {
            assert!(Subject::pattern(bad).is_err(), "{bad:?}");
        }
        assert!(Subject::pattern(&"a".repeat(MAX_PATTERN + 1)).is_err());
    }

    #[test]
    fn an_exact_subject_is_no_pattern_and_an_email_may_be_any() {
        assert!(!Subject::Exact(".".to_owned()).matches(&who("a")));
        assert!(Subject::Exact("a".to_owned()).matches(&who("a")));
        assert!(Subject::Email("b@example.com".to_owned()).matches(&who("a")));
        assert!(!Subject::Email("a".to_owned()).matches(&who("a")));
    }
}
