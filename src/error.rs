//! Every way to fail, what the person reading the journal is told, and the HTTP status it becomes.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::digest::Digest;

/// The result of everything that can fail in a way a client or an administrator hears of.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What lies below an error. Shared, for one failed listing may answer several requests.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// What went wrong.
#[derive(Clone, Debug)]
pub enum Error {
    /// The client's address is not one of ours.
    BadAddress { path: String, why: String },
    /// The URL names a registry that the settings do not allow.
    RegistryNotAllowed { host: String },
    /// There is nothing by that name.
    NotOffered { what: String, why: String },
    /// The client calls us by a name that is not ours.
    NotOurName { host: String },
    /// A browser asks for a page that came from elsewhere.
    CrossSite,
    /// Neither GET nor HEAD.
    MethodNotAllowed { method: String },
    /// The request's head could not be read; `status` says how.
    BadRequest { status: u16, why: String },
    /// As many clients as we serve at once are being served.
    Full { limit: usize },
    /// All that is kept for clients takes as much memory as it may, and it is being used.
    NoMemory { what: String, limit: usize },
    /// One listing takes as much memory as it may.
    ListingFull { limit: usize },
    /// The system gives no thread for a client.
    NoThread { cause: Arc<io::Error> },
    /// Nobody waits for the answer any more.
    ClientGone,

    /// No connection to the registry: refused, no such host, no route, bad certificate.
    Unreachable { url: String, cause: Cause },
    /// The system does not let us connect there.
    NotPermitted { url: String, cause: Cause },
    /// The connection broke, or what came over it was not HTTP.
    Broken { url: String, cause: Cause },
    /// The registry did not answer in time.
    TooSlow { url: String, limit: Duration },
    /// The registry asks us to come back later (429, 503).
    Busy {
        url: String,
        status: u16,
        retry_after: Duration,
    },
    /// The registry reports a fault of its own (408, 500, 502, 504).
    Failing { url: String, status: u16 },
    /// The registry does not let us have it (401, 403).
    Denied {
        url: String,
        status: u16,
        message: String,
    },
    /// The registry wants a login and there is none. `looked`: the files that could have had it.
    NoLogin {
        registry: String,
        looked: String,
        message: String,
    },
    /// The registry, or its token server, does not accept the login found at `place`.
    LoginRefused {
        registry: String,
        place: String,
        status: u16,
        message: String,
    },
    /// The token server answered with a status or a form that makes no sense here.
    NoToken {
        url: String,
        why: String,
        /// It is in trouble itself, and a form is not posted twice in a row for that.
        may_pass: bool,
    },
    /// What is kept as a login is none.
    BadLogin { place: String, why: String },
    /// The registry names a token server that must not have our login.
    UntrustedRealm {
        registry: String,
        realm: String,
        why: String,
    },
    /// The environment names a proxy that cannot be used.
    BadProxy {
        variable: &'static str,
        /// Without user name and password.
        value: String,
        why: String,
    },
    /// registries.conf forbids it.
    Blocked { registry: String, prefix: String },
    /// The registry's certificate is not one we trust, or ours not one it trusts.
    Untrusted { host: String, cause: Cause },
    /// The registry wants a certificate of ours, and not the one it got, if any.
    WantsCertificate { host: String, cause: Cause },
    /// TLS was spoken to something that does not speak it.
    NotTls { host: String, cause: Cause },
    /// Plain HTTP was spoken to something that speaks TLS.
    NeedsTls { host: String },
    /// A file in certs.d cannot be used.
    BadCertificate { path: PathBuf, why: String },
    /// The registry cannot be reached, and no mirror in its place.
    MirrorsToo { error: Box<Error>, mirrors: String },
    /// The registry cannot be reached, and a mirror in its place knows of nothing that is attached to a manifest.
    NoneAttachedAtMirror { error: Box<Error>, mirror: String },
    /// The registry has no such thing (404).
    Missing { url: String },
    /// The registry answered with a status that is none of those above.
    UnexpectedStatus {
        url: String,
        status: u16,
        message: String,
    },
    /// The registry redirects to where nobody answers.
    LostRedirect { url: String, cause: Cause },
    /// The registry answered in a form that makes no sense here.
    Nonsense { url: String, why: String },
    /// The bytes received are not the bytes that were asked for.
    WrongBytes {
        what: String,
        expected: Digest,
        found: Digest,
    },
    /// Fewer or more bytes than were announced.
    WrongSize {
        what: String,
        expected: u64,
        found: u64,
    },
    /// A manifest or index that cannot be understood.
    BadManifest { what: String, why: String },
    /// Too few of a source's tags were answered to list its files.
    Incomplete {
        source: String,
        unanswered: usize,
        tags: usize,
        why: String,
        retry_after: Duration,
    },

    /// What an image says of itself cannot be read out of it.
    BadImage { what: String, why: String },
    /// A layer is none that a file can be made of.
    CannotFlatten { layer: Digest, why: String },
    /// A file has to be made, and there is no directory to do it in.
    NoCache,
    /// A file is still being made.
    NotReady { what: String, retry_after: Duration },

    /// A setting needs a state directory, and there is none.
    NoState { setting: &'static str },
    /// A file of the state cannot be believed.
    BadState { path: PathBuf, why: String },
    /// There is no room in the state for what is to be remembered of a source. `limit` is in bytes.
    StateFull {
        source: String,
        directory: PathBuf,
        limit: u64,
    },
    /// A source whose publisher signed its list has no such list any more.
    NoSignedList { source: String, why: String },

    /// A command cannot do what it is for on this machine, or not as this user.
    CannotDo { command: &'static str, why: String },

    /// An OCI layout directory lacks something or holds something else.
    BadLayout { path: PathBuf, why: String },
    /// Reading or writing `path` failed.
    File {
        path: PathBuf,
        cause: Arc<io::Error>,
    },

    /// A settings file is wrong. `line` counts from 1.
    BadSettings {
        path: PathBuf,
        line: Option<usize>,
        why: String,
    },
    /// There is no usable socket to listen on.
    NoSocket {
        why: String,
        cause: Option<Arc<io::Error>>,
    },
    /// The running service cannot go on.
    Service {
        what: &'static str,
        cause: Arc<io::Error>,
    },
}

/// What a failed request tells of the thing that was asked for. Every decision about failures begins here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The source answered: it has no such thing, or what it has cannot be used. Another try finds the same.
    Answer,
    /// The source refuses it to this login (401, 403). That may be about the thing, or about the login.
    Refusal,
    /// There is no answer, and the next try may get one.
    Passing,
    /// There is no answer, and none until somebody changes something.
    Lasting,
}

impl Error {
    /// The HTTP status a client gets. Never 401: systemd would ask nobody for a password.
    pub fn status(&self) -> u16 {
        match self {
            Error::BadAddress { .. } => 400,
            Error::RegistryNotAllowed { .. }
            | Error::NotOurName { .. }
            | Error::CrossSite
            | Error::Denied { .. }
            | Error::NoLogin { .. }
            | Error::LoginRefused { .. }
            | Error::BadLogin { .. }
            | Error::UntrustedRealm { .. }
            | Error::NoSignedList { .. }
            | Error::Blocked { .. } => 403,
            // What an image does not say is like a file that is not there.
            Error::NotOffered { .. } | Error::Missing { .. } | Error::BadImage { .. } => 404,
            Error::MethodNotAllowed { .. } => 405,
            Error::BadRequest { status, .. } => *status,
            // nginx's number for it, which nobody is there to get.
            Error::ClientGone => 499,
            Error::File { .. }
            | Error::NoState { .. }
            | Error::BadState { .. }
            | Error::StateFull { .. }
            | Error::CannotDo { .. }
            | Error::NoCache
            | Error::BadSettings { .. }
            | Error::BadProxy { .. }
            | Error::BadCertificate { .. }
            | Error::NoSocket { .. }
            | Error::Service { .. } => 500,
            Error::Unreachable { .. }
            | Error::NotPermitted { .. }
            | Error::Untrusted { .. }
            | Error::WantsCertificate { .. }
            | Error::NotTls { .. }
            | Error::NeedsTls { .. }
            | Error::Broken { .. }
            | Error::Failing { .. }
            | Error::NoToken { .. }
            | Error::UnexpectedStatus { .. }
            | Error::LostRedirect { .. }
            | Error::Nonsense { .. }
            | Error::WrongBytes { .. }
            | Error::WrongSize { .. }
            | Error::BadManifest { .. }
            | Error::CannotFlatten { .. }
            | Error::BadLayout { .. } => 502,
            Error::MirrorsToo { error, .. } | Error::NoneAttachedAtMirror { error, .. } => {
                error.status()
            }
            Error::Full { .. }
            | Error::NoThread { .. }
            | Error::NoMemory { .. }
            | Error::ListingFull { .. }
            | Error::Busy { .. }
            | Error::Incomplete { .. }
            | Error::NotReady { .. } => 503,
            Error::TooSlow { .. } => 504,
        }
    }

    /// What the client is told to wait before it asks again (`Retry-After`).
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Busy { retry_after, .. }
            | Error::Incomplete { retry_after, .. }
            | Error::NotReady { retry_after, .. } => Some(*retry_after),
            Error::Full { .. } | Error::NoThread { .. } => Some(Duration::from_secs(1)),
            Error::NoMemory { .. } => Some(Duration::from_secs(10)),
            _ => None,
        }
    }

    /// What it tells of the thing that was asked for.
    pub fn finding(&self) -> Finding {
        match self {
            Error::MirrorsToo { error, .. } | Error::NoneAttachedAtMirror { error, .. } => {
                error.finding()
            }
            Error::Missing { .. }
            | Error::UnexpectedStatus {
                // Gone, held back by a policy (Harbor), or by the law.
                status: 410 | 412 | 451,
                ..
            }
            | Error::LostRedirect { .. }
            | Error::Nonsense { .. }
            | Error::WrongBytes { .. }
            | Error::WrongSize { .. }
            | Error::BadManifest { .. }
            | Error::BadImage { .. }
            | Error::BadLayout { .. }
            | Error::CannotFlatten { .. }
            | Error::NotOffered { .. } => Finding::Answer,
            Error::Denied { .. } | Error::NoLogin { .. } | Error::LoginRefused { .. } => {
                Finding::Refusal
            }
            Error::Unreachable { .. }
            | Error::Broken { .. }
            | Error::TooSlow { .. }
            | Error::Busy { .. }
            | Error::Failing { .. }
            | Error::NoToken { may_pass: true, .. } => Finding::Passing,
            Error::UnexpectedStatus { .. }
            | Error::NoToken { .. }
            | Error::NotPermitted { .. }
            | Error::Untrusted { .. }
            | Error::WantsCertificate { .. }
            | Error::NotTls { .. }
            | Error::NeedsTls { .. }
            | Error::BadLogin { .. }
            | Error::BadCertificate { .. }
            | Error::BadProxy { .. }
            | Error::UntrustedRealm { .. }
            | Error::Blocked { .. }
            | Error::RegistryNotAllowed { .. }
            | Error::BadAddress { .. }
            | Error::NotOurName { .. }
            | Error::CrossSite
            | Error::MethodNotAllowed { .. }
            | Error::BadRequest { .. }
            | Error::Full { .. }
            | Error::NoThread { .. }
            | Error::NoMemory { .. }
            | Error::ListingFull { .. }
            | Error::ClientGone
            | Error::Incomplete { .. }
            | Error::NoCache
            | Error::NotReady { .. }
            | Error::NoState { .. }
            | Error::BadState { .. }
            | Error::StateFull { .. }
            | Error::NoSignedList { .. }
            | Error::File { .. }
            | Error::BadSettings { .. }
            | Error::NoSocket { .. }
            | Error::CannotDo { .. }
            | Error::Service { .. } => Finding::Lasting,
        }
    }

    /// Is the next try worth it, though nobody changes anything before it?
    pub fn may_pass(&self) -> bool {
        self.finding() == Finding::Passing
    }

    /// The program's exit status: 78 (EX_CONFIG of sysexits.h) for settings, 69 (EX_UNAVAILABLE) where
    /// it cannot do its work at all, else 1.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::BadSettings { .. } | Error::NoState { .. } => 78,
            Error::CannotDo { .. } => 69,
            _ => 1,
        }
    }

    /// The error and its causes in one line, for the journal and for `X-Reason`.
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Libraries like to repeat their cause in their own text.
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::BadAddress { path, why } => write!(f, "bad address {path:?}: {why}"),
            Error::RegistryNotAllowed { host } => write!(
                f,
                "registry {host} is neither the default registry nor allowed; \
                 to allow it add it to 'allow' in /etc/sysext-oci-proxy/config.toml"
            ),
            Error::NotOffered { what, why } => write!(f, "{what} is not offered: {why}"),
            Error::NotOurName { host } => write!(
                f,
                "this service is not called {host:?}; if it is, add that to 'hosts' in \
                 /etc/sysext-oci-proxy/config.toml"
            ),
            Error::CrossSite => {
                f.write_str("a web page from elsewhere asked for this, and its visitor did not")
            }
            Error::MethodNotAllowed { method } => {
                write!(f, "method {method:?} is not allowed, only GET and HEAD are")
            }
            Error::BadRequest { why, .. } => write!(f, "bad request: {why}"),
            Error::Full { limit } => {
                write!(f, "{limit} clients are being served, which is the limit")
            }
            Error::NoMemory { what, limit } => write!(
                f,
                "there is no memory for {what}: listings and signed lists may take {} MiB in all, and other \
                 clients are using them; try again later",
                limit >> 20
            ),
            Error::ListingFull { limit } => write!(
                f,
                "the files and reasons of the newer tags take {} MiB of memory, which is all that one listing may",
                limit >> 20
            ),
            Error::NoThread { .. } => f.write_str(
                "no thread could be started for a client; TasksMax= of the service may be too low",
            ),
            Error::ClientGone => f.write_str("the client went away"),
            Error::Unreachable { url, .. } => {
                write!(
                    f,
                    "cannot connect for {url}; is the registry up, is its address right?"
                )
            }
            Error::NotPermitted { url, .. } => write!(
                f,
                "this machine forbids to connect for {url}; look for RestrictAddressFamilies= and \
                 SystemCallFilter= in `systemctl cat sysext-oci-proxy.service`, or at a security module"
            ),
            Error::Broken { url, .. } => write!(f, "connection broke at {url}"),
            Error::TooSlow { url, limit } => {
                write!(f, "no whole answer within {} s from {url}", limit.as_secs())
            }
            Error::Busy {
                url,
                status,
                retry_after,
            } => write!(
                f,
                "registry is busy (status {status}) at {url}, it asks to wait {} s",
                retry_after.as_secs()
            ),
            Error::Failing { url, status } => {
                write!(
                    f,
                    "registry fails (status {status}) at {url}; its own log says why"
                )
            }
            Error::Denied {
                url,
                status,
                message,
            } => {
                write!(
                    f,
                    "registry denies access (status {status}{}) to {url}",
                    prefixed(", ", message)
                )
            }
            Error::NoLogin {
                registry,
                looked,
                message,
            } => {
                let message = prefixed(", ", message);
                write!(
                    f,
                    "registry wants a login for {registry}{message}; there is none for it in {looked} \
                     (`skopeo login --authfile` makes such a file)"
                )
            }
            Error::LoginRefused {
                registry,
                place,
                status,
                message,
            } => write!(
                f,
                "registry {registry} refuses the login from {place} (status {status}{}); \
                 is the password right, has it expired, may it read this?",
                prefixed(", ", message)
            ),
            Error::BadLogin { place, why } => write!(f, "login in {place}: {why}"),
            Error::UntrustedRealm {
                registry,
                realm,
                why,
            } => write!(
                f,
                "registry {registry} sends us to {realm} for a token, where no login may go: {why}; \
                 'trusted-hosts' in the settings can allow it"
            ),
            Error::Blocked { registry, prefix } => {
                write!(
                    f,
                    "{registry} is blocked by registries.conf, in the [[registry]] for {prefix}"
                )
            }
            Error::BadProxy {
                variable,
                value,
                why,
            } => write!(
                f,
                "the proxy in ${variable} cannot be used, {value:?}: {why}; expected http://HOST:PORT, \
                 or the host in $NO_PROXY (Environment= in a drop-in for the service)"
            ),
            Error::Untrusted { host, .. } => write!(
                f,
                "certificate of {host} is not trusted; a private CA belongs into \
                 /etc/containers/certs.d/{host}/ca.crt"
            ),
            Error::WantsCertificate { host, .. } => write!(
                f,
                "{host} wants a client certificate that it accepts; it belongs into \
                 /etc/containers/certs.d/{host}/ as NAME.cert and NAME.key"
            ),
            Error::NotTls { host, .. } => write!(
                f,
                "{host} does not speak TLS; if that is meant, registries.conf must say insecure = true"
            ),
            Error::NeedsTls { host } => write!(
                f,
                "{host} speaks TLS, and plain HTTP was spoken to it; put its CA into \
                 /etc/containers/certs.d/{host}/ca.crt, or say insecure = false in registries.conf"
            ),
            Error::BadCertificate { path, why } => {
                write!(f, "certificate {}: {why}", path.display())
            }
            Error::NoneAttachedAtMirror { error, mirror } => write!(
                f,
                "{}; mirror {mirror} has no attached artifacts, but may not know all of them",
                error.line()
            ),
            Error::MirrorsToo { error, mirrors } => {
                write!(f, "{}; and of its mirrors {mirrors}", error.line())
            }
            Error::Missing { url } => write!(f, "registry has no {url}"),
            Error::UnexpectedStatus {
                url,
                status,
                message,
            } => write!(
                f,
                "unexpected answer (status {status}{}) from {url}",
                prefixed(", ", message)
            ),
            Error::LostRedirect { url, .. } => {
                write!(f, "nobody answers where {url} redirects to")
            }
            Error::NoToken { url, why, .. } | Error::Nonsense { url, why } => {
                write!(f, "unexpected answer from {url}: {why}")
            }
            Error::WrongBytes {
                what,
                expected,
                found,
            } => {
                write!(
                    f,
                    "{what} has the wrong bytes: expected {expected}, found {found}"
                )
            }
            Error::WrongSize {
                what,
                expected,
                found,
            } => {
                write!(
                    f,
                    "{what} has the wrong size: expected {expected} bytes, found {found}"
                )
            }
            Error::BadManifest { what, why } => write!(f, "{what} cannot be understood: {why}"),
            Error::Incomplete {
                source,
                unanswered,
                tags,
                why,
                ..
            } => write!(
                f,
                "{unanswered} of {tags} tags of {source} were not answered; \
                 what was learnt is kept for the next try: {why}"
            ),
            Error::BadImage { what, why } => write!(f, "{what} cannot be looked into: {why}"),
            Error::CannotFlatten { layer, why } => {
                write!(f, "the image cannot be flattened, its layer {layer}: {why}")
            }
            Error::NoCache => write!(
                f,
                "the image has to be flattened, and there is no directory to do it in; \
                 CacheDirectory= of the service, or $CACHE_DIRECTORY, names one"
            ),
            Error::NoState { setting } => write!(
                f,
                "setting {setting} needs a state directory, and there is none; \
                 StateDirectory= of the service, or $STATE_DIRECTORY, names one"
            ),
            Error::BadState { path, why } => write!(
                f,
                "state file {} {why}; restore it, or `systemctl clean --what=state \
                 sysext-oci-proxy.service` forgets all that is remembered",
                path.display()
            ),
            Error::StateFull {
                source,
                directory,
                limit,
            } => write!(
                f,
                "state directory {} has no room for what is to be remembered of {source}: \
                 the limit is {} MiB",
                directory.display(),
                limit >> 20
            ),
            Error::CannotDo { command, why } => write!(f, "{command}: {why}"),
            Error::NoSignedList { source, why } => write!(
                f,
                "{source} had a list by its publisher, and now {why}; no list is made from its tags instead. \
                 If that is right, set signed-list = \"\" for the repository, or run \
                 `sysext-oci-proxy key --forget-signed REPOSITORY` as root"
            ),
            Error::NotReady { what, .. } => {
                write!(
                    f,
                    "{what} is still being flattened; it is there when asked for later"
                )
            }
            Error::BadLayout { path, why } => write!(f, "OCI layout {}: {why}", path.display()),
            Error::File { path, .. } => write!(f, "{} cannot be read or written", path.display()),
            Error::BadSettings {
                path,
                line: Some(line),
                why,
            } => {
                write!(f, "settings {}:{line}: {why}", path.display())
            }
            Error::BadSettings {
                path,
                line: None,
                why,
            } => {
                write!(f, "settings {}: {why}", path.display())
            }
            Error::NoSocket { why, .. } => write!(f, "no socket to serve: {why}"),
            Error::Service { what, .. } => write!(f, "cannot {what}"),
        }
    }
}

/// What the other side said, if it said anything.
fn prefixed(prefix: &str, message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!("{prefix}{message}")
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Error::Unreachable { cause, .. }
            | Error::LostRedirect { cause, .. }
            | Error::NotPermitted { cause, .. }
            | Error::Broken { cause, .. }
            | Error::Untrusted { cause, .. }
            | Error::WantsCertificate { cause, .. }
            | Error::NotTls { cause, .. } => Some(cause.as_ref()),
            Error::NoThread { cause }
            | Error::File { cause, .. }
            | Error::Service { cause, .. } => Some(cause.as_ref()),
            Error::NoSocket { cause, .. } => cause.as_ref().map(|cause| cause.as_ref() as _),
            Error::BadAddress { .. }
            | Error::MirrorsToo { .. }
            | Error::NoneAttachedAtMirror { .. }
            | Error::RegistryNotAllowed { .. }
            | Error::NotOffered { .. }
            | Error::MethodNotAllowed { .. }
            | Error::NotOurName { .. }
            | Error::CrossSite
            | Error::BadRequest { .. }
            | Error::Full { .. }
            | Error::ClientGone
            | Error::TooSlow { .. }
            | Error::Busy { .. }
            | Error::Failing { .. }
            | Error::Denied { .. }
            | Error::NoLogin { .. }
            | Error::LoginRefused { .. }
            | Error::NoToken { .. }
            | Error::BadLogin { .. }
            | Error::UntrustedRealm { .. }
            | Error::Blocked { .. }
            | Error::BadProxy { .. }
            | Error::NeedsTls { .. }
            | Error::BadCertificate { .. }
            | Error::Missing { .. }
            | Error::UnexpectedStatus { .. }
            | Error::Nonsense { .. }
            | Error::WrongBytes { .. }
            | Error::WrongSize { .. }
            | Error::BadManifest { .. }
            | Error::BadImage { .. }
            | Error::Incomplete { .. }
            | Error::CannotFlatten { .. }
            | Error::NoCache
            | Error::NoState { .. }
            | Error::BadState { .. }
            | Error::StateFull { .. }
            | Error::NoSignedList { .. }
            | Error::CannotDo { .. }
            | Error::NotReady { .. }
            | Error::BadLayout { .. }
            | Error::NoMemory { .. }
            | Error::ListingFull { .. }
            | Error::BadSettings { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_status_tells_is_an_answer_or_none() {
        let unexpected = |status| Error::UnexpectedStatus {
            url: "u".into(),
            status,
            message: String::new(),
        };
        for status in [410, 412, 451] {
            assert_eq!(unexpected(status).finding(), Finding::Answer, "{status}");
        }
        for status in [400, 402, 405, 416, 418, 501] {
            assert_eq!(unexpected(status).finding(), Finding::Lasting, "{status}");
        }
        let down = |may_pass| Error::MirrorsToo {
            error: Box::new(Error::NoToken {
                url: "u".into(),
                why: String::new(),
                may_pass,
            }),
            mirrors: String::new(),
        };
        assert_eq!(down(true).finding(), Finding::Passing);
        assert_eq!(down(false).finding(), Finding::Lasting);
    }

    #[test]
    fn one_line_tells_the_whole_story() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = Error::Unreachable {
            url: "http://localhost:5000/v2/a/tags/list".into(),
            cause: Arc::new(refused),
        };
        assert_eq!(
            error.line(),
            "cannot connect for http://localhost:5000/v2/a/tags/list; \
             is the registry up, is its address right?: connection refused"
        );
        assert_eq!(error.status(), 502);
    }
}
