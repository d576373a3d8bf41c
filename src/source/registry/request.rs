//! One request to a registry, and the secrets that go with it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::url;
use crate::name::Host;

/// A request. It may carry secrets, so it has no `Debug`.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `HEAD` or `POST`.
    pub method: &'static str,
    pub url: &'a str,
    pub accept: &'a str,
    pub authorization: Option<&'a Authorization>,
    /// The first and the last byte that is wanted.
    pub range: Option<(u64, u64)>,
    /// The encoded fields of a form to be posted.
    pub form: Option<&'a str>,
    /// The body may be large, so its transfer has no time limit.
    pub is_blob: bool,
    /// Any certificate of the host is accepted (`insecure = true`).
    pub unchecked: bool,
    /// Sent to another registry if a redirect leads there.
    pub foreign_token: Option<&'a ForeignToken>,
    /// The only other hosts to which a redirect is followed; `None`: any.
    pub only_to: Option<&'a BTreeSet<Host>>,
}

impl<'a> Request<'a> {
    /// A request for a small document of any type, without a login.
    pub fn get(url: &'a str) -> Self {
        Self {
            method: "GET",
            url,
            accept: "*/*",
            authorization: None,
            range: None,
            form: None,
            is_blob: false,
            unchecked: false,
            foreign_token: None,
            only_to: None,
        }
    }

    /// Posts a form; the answer is JSON.
    pub fn post(url: &'a str, form: &'a str) -> Self {
        Self {
            method: "POST",
            form: Some(form),
            ..Self::get(url).accept("application/json")
        }
    }

    /// The same without the body.
    pub fn head(self) -> Self {
        Self {
            method: "HEAD",
            ..self
        }
    }

    pub fn accept(self, accept: &'a str) -> Self {
        Self { accept, ..self }
    }

    pub fn authorization(self, authorization: Option<&'a Authorization>) -> Self {
        Self {
            authorization,
            ..self
        }
    }

    /// Asks for a blob, or for the bytes of it in this range.
    pub fn blob(self, range: Option<(u64, u64)>) -> Self {
        Self {
            is_blob: true,
            range,
            ..self
        }
    }

    pub fn unchecked(self, unchecked: bool) -> Self {
        Self { unchecked, ..self }
    }

    /// A redirect to another host than these is the response.
    pub fn only_to(self, hosts: &'a BTreeSet<Host>) -> Self {
        Self {
            only_to: Some(hosts),
            ..self
        }
    }
}

/// An anonymous token of another registry, to which this one redirects. It is for that origin alone.
#[derive(Clone)]
pub struct ForeignToken {
    pub origin: String,
    pub authorization: Authorization,
}

impl ForeignToken {
    /// The header to send to this URL, if it has the token's origin.
    pub fn authorization_for(&self, url: &str) -> Option<Authorization> {
        url::is_same_origin(&self.origin, url).then(|| self.authorization.clone())
    }
}

/// The value of an `Authorization` header. It never shows in `Debug`.
#[derive(Clone, PartialEq)]
pub struct Authorization(Arc<str>);

impl Authorization {
    pub fn bearer(token: &str) -> Self {
        Self(format!("Bearer {token}").into())
    }

    pub fn basic(user: &str, password: &str) -> Self {
        let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
        Self(format!("Basic {encoded}").into())
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authorization(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorizations_do_not_show() {
        for secret in [
            Authorization::bearer("s3cret"),
            Authorization::basic("s3cret", "s3cret"),
        ] {
            assert_eq!(format!("{secret:?}"), "Authorization(…)");
        }
    }
}
