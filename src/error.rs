//! All errors: the message for the journal, the HTTP status, and what the failure says about the object that was
//! requested.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::digest::Digest;
use crate::name::Tag;

/// The result of a function whose error is shown to a client or an administrator.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of an error. Shared, because one failed listing may answer several requests.
pub type Cause = Arc<dyn StdError + Send + Sync>;

/// An error. A field called `cause` is its source; a field called `source` is the name of a [`Source`].
///
/// [`Source`]: crate::source::Source
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    // The request.
    #[error("bad address {path:?}: {why}")]
    BadAddress { path: String, why: String },
    #[error(
        "registry {host} is neither the default registry nor allowed; \
         to allow it add it to 'allow' in /etc/sysext-oci-proxy/config.toml"
    )]
    RegistryNotAllowed { host: String },
    #[error("{what} is not offered: {why}")]
    NotOffered { what: String, why: String },
    /// The `Host` of the request is not a name of this service.
    #[error(
        "the request is for the host {host:?}, which is not a name of this service; if it is one, add it to \
         'hosts' in /etc/sysext-oci-proxy/config.toml"
    )]
    NotOurName { host: String },
    /// A browser sent the request for a page of another site.
    #[error("a web page of another site sent this request; open the address itself")]
    CrossSite,
    #[error("method {method:?} is not allowed, only GET and HEAD are")]
    MethodNotAllowed { method: String },
    /// The head of the request cannot be parsed.
    #[error("bad request: {why}")]
    BadRequest { status: u16, why: String },
    /// All connections are in use.
    #[error("{limit} clients are connected, which is the limit")]
    Full { limit: usize },
    /// The memory for listings is in use by other clients.
    #[error(
        "there is no memory for {what}: listings and signed lists may take {} MiB in all, and other \
         clients are using them; try again later",
        .limit >> 20
    )]
    NoMemory { what: String, limit: usize },
    #[error(
        "the files and reasons of the newer tags take {} MiB of memory, which is all that one listing may",
        .limit >> 20
    )]
    ListingFull { limit: usize },
    #[error("no thread could be started for a client; TasksMax= of the service may be too low")]
    NoThread {
        #[source]
        cause: Arc<io::Error>,
    },
    /// The client that the work was done for has disconnected.
    #[error("the client has disconnected")]
    ClientGone,

    // The connection to the registry.
    #[error("cannot connect to {url}; is the registry up, is its address right?")]
    Unreachable {
        url: String,
        /// The part of the way on which it failed.
        at: Way,
        #[source]
        cause: Cause,
    },
    /// The kernel does not allow the connection.
    #[error(
        "this machine does not permit a connection to {url}; check RestrictAddressFamilies= and \
         SystemCallFilter= in `systemctl cat sysext-oci-proxy.service`, and security modules"
    )]
    NotPermitted {
        url: String,
        #[source]
        cause: Cause,
    },
    /// The connection broke, or its bytes were not HTTP.
    #[error("connection lost at {url}")]
    Broken {
        url: String,
        #[source]
        cause: Cause,
    },
    #[error("no complete response within {} s from {url}", .limit.as_secs())]
    TooSlow { url: String, limit: Duration },
    #[error(
        "the proxy in ${variable} cannot be used, {value:?}: {why}; expected http://HOST:PORT, \
         or the host in $NO_PROXY (Environment= in a drop-in for the service)"
    )]
    BadProxy {
        variable: &'static str,
        /// Without user name and password.
        value: String,
        why: String,
    },
    #[error("{registry} is blocked by registries.conf, in the [[registry]] for {prefix}")]
    Blocked { registry: String, prefix: String },
    #[error(
        "certificate of {host} is not trusted; put a private CA into \
         /etc/containers/certs.d/{host}/ca.crt"
    )]
    Untrusted {
        host: String,
        #[source]
        cause: Cause,
    },
    /// The registry rejects the client certificate, or got none.
    #[error(
        "{host} requires a client certificate that it accepts; put one into \
         /etc/containers/certs.d/{host}/ as NAME.cert and NAME.key"
    )]
    WantsCertificate {
        host: String,
        #[source]
        cause: Cause,
    },
    #[error("{host} does not speak TLS; for plain HTTP set insecure = true in registries.conf")]
    NotTls {
        host: String,
        #[source]
        cause: Cause,
    },
    #[error(
        "{host} requires TLS, but got plain HTTP; put its CA into \
         /etc/containers/certs.d/{host}/ca.crt, or set insecure = false in registries.conf"
    )]
    NeedsTls { host: String },
    /// A file in certs.d cannot be used.
    #[error("certificate {path}: {why}")]
    BadCertificate { path: PathBuf, why: String },

    // The response of the registry.
    /// Status 429 or 503.
    #[error(
        "registry is busy (status {status}) at {url}, it asks to wait {} s",
        .retry_after.as_secs()
    )]
    Busy {
        url: String,
        status: u16,
        retry_after: Duration,
    },
    /// Status 408, 500, 502 or 504.
    #[error("registry error (status {status}) at {url}; its own log has the reason")]
    Failing { url: String, status: u16 },
    /// Status 401 or 403.
    #[error(
        "registry denies access (status {status}{}) to {url}",
        after_comma(message)
    )]
    Denied {
        url: String,
        status: u16,
        message: String,
    },
    #[error(
        "registry wants a login for {registry}{}; there is none for it in {looked} \
         (`skopeo login --authfile` makes such a file)",
        after_comma(message)
    )]
    NoLogin {
        registry: String,
        /// The files that could have a login.
        looked: String,
        message: String,
    },
    #[error(
        "registry {registry} refuses the login from {place} (status {status}{}); \
         is the password right, has it expired, may it read this?",
        after_comma(message)
    )]
    LoginRefused {
        registry: String,
        /// The file that has the login.
        place: String,
        status: u16,
        message: String,
    },
    /// The token server gave no token.
    #[error("unexpected answer from {url}: {why}")]
    NoToken {
        url: String,
        why: String,
        /// Whether a later request may get one.
        may_pass: bool,
    },
    #[error("login in {place}: {why}")]
    BadLogin { place: String, why: String },
    #[error(
        "registry {registry} names the token server {realm}, to which no login is sent: {why}; \
         to allow it, add it to 'trusted-hosts' in /etc/sysext-oci-proxy/config.toml"
    )]
    UntrustedRealm {
        registry: String,
        realm: String,
        why: String,
    },
    #[error("{}; its mirrors failed too: {mirrors}", error.line())]
    MirrorsToo { error: Box<Error>, mirrors: String },
    #[error(
        "{}; mirror {mirror} has no attached artifacts, but may not know all of them",
        error.line()
    )]
    NoneAttachedAtMirror { error: Box<Error>, mirror: String },
    /// The registry's answer about the signatures of a manifest tells nothing.
    #[error("whether {manifest} is signed could not be found out: {}", error.line())]
    SignaturesUnknown { manifest: Digest, error: Box<Error> },
    /// Whether a redirect of the referrers API is to be followed.
    #[error(
        "what is attached to {manifest} could not be found out: the registry redirects to {host}, and where it has \
         the manifest itself is not known: {}",
        error.line()
    )]
    AttachedUnknown {
        manifest: Digest,
        host: String,
        error: Box<Error>,
    },
    /// Status 404.
    #[error("registry has no {url}")]
    Missing { url: String },
    /// Any other status.
    #[error(
        "unexpected answer (status {status}{}) from {url}",
        after_comma(message)
    )]
    UnexpectedStatus {
        url: String,
        status: u16,
        message: String,
    },
    #[error("{url} redirects to a host that does not answer")]
    LostRedirect {
        url: String,
        #[source]
        cause: Cause,
    },
    #[error("unexpected answer from {url}: {why}")]
    Nonsense { url: String, why: String },

    // The content.
    #[error("{what} has the wrong bytes: expected {expected}, found {found}")]
    WrongBytes {
        what: String,
        expected: Digest,
        found: Digest,
    },
    #[error("{what} has the wrong size: expected {expected} bytes, found {found}")]
    WrongSize {
        what: String,
        expected: u64,
        found: u64,
    },
    #[error("{what} cannot be understood: {why}")]
    BadManifest { what: String, why: String },
    /// Too few of a source's tags were answered to list its files.
    #[error(
        "{unanswered} of {tags} tags of {source} were not answered; \
         the answers so far are kept for the next try: {why}"
    )]
    Incomplete {
        r#source: String,
        unanswered: usize,
        tags: usize,
        why: String,
        retry_after: Duration,
    },
    #[error("{what} cannot be read: {why}")]
    BadImage { what: String, why: String },
    #[error("the image cannot be flattened, its layer {layer}: {why}")]
    CannotFlatten { layer: Digest, why: String },
    #[error(
        "the image must be flattened, but there is no cache directory to do it in; \
         set CacheDirectory= for the service, or $CACHE_DIRECTORY"
    )]
    NoCache,
    #[error("{what} is still being flattened; ask for it again later")]
    NotReady { what: String, retry_after: Duration },
    #[error(
        "{source} had a list by its publisher, but now {why}; no list is made from its tags instead. \
         If this is intended, set signed-list = \"\" for the repository, or run \
         `sysext-oci-proxy key --forget-signed REPOSITORY` as root"
    )]
    NoSignedList { r#source: String, why: String },
    #[error(
        "the list in tag {tag} of {source} is refused: {why}; no list is made from the tags instead"
    )]
    ListRefused {
        r#source: String,
        tag: Tag,
        why: String,
    },
    /// A list that its publisher wrote, and a setting that leaves out a part of it.
    #[error(
        "{directory} has a list by its publisher, which is given out whole or not at all, but '{setting}' leaves out \
         a part of it; narrow MatchPattern= in the transfer file instead and {}, or set signed-list = \"\" for the \
         repository: then the list is made from its tags and has no signature",
        match *setting {
            "compatible-only" => "set compatible-only = false for the repository".to_owned(),
            _ => format!("remove '{setting}'"),
        }
    )]
    SignedListNotWhole {
        directory: String,
        setting: &'static str,
    },
    #[error("OCI layout {path}: {why}")]
    BadLayout { path: PathBuf, why: String },

    // This machine.
    #[error(
        "setting {setting} needs a state directory, but there is none; \
         set StateDirectory= for the service, or $STATE_DIRECTORY"
    )]
    NoState { setting: &'static str },
    /// A file of the state is damaged.
    #[error(
        "state file {path} {why}; restore it, or delete all state by `systemctl clean --what=state \
         sysext-oci-proxy.service`"
    )]
    BadState { path: PathBuf, why: String },
    /// The seed of this machine's key cannot be used.
    #[error("seed of the key of this machine, {path}: {why}; {remedy}")]
    BadSeed {
        path: PathBuf,
        why: String,
        remedy: &'static str,
    },
    #[error(
        "state directory {directory} is full: with the state of {source} it would exceed {} MiB",
        .limit >> 20
    )]
    StateFull {
        r#source: String,
        directory: PathBuf,
        /// In bytes.
        limit: u64,
    },
    /// Nothing listens where a command expects the service.
    #[error(
        "no service answers at {url}; start it by `systemctl start sysext-oci-proxy.socket` as root, add --service URL if it \
         listens elsewhere, or add --direct: then this command asks the registry itself"
    )]
    NoService {
        url: String,
        #[source]
        cause: Cause,
    },
    /// The service answered a command with an error, whose line this is.
    #[error("{reason}")]
    Refused {
        status: u16,
        reason: String,
        /// The step that failed and the remedy, as its JSON has them.
        step: Option<String>,
        remedy: Option<String>,
    },
    /// A command cannot run on this machine, or not as this user.
    #[error("{command}: {why}")]
    CannotDo { command: &'static str, why: String },
    #[error("{path} cannot be read or written")]
    File {
        path: PathBuf,
        #[source]
        cause: Arc<io::Error>,
    },
    #[error("settings {path}{}: {why}", line.map_or_else(String::new, |line| format!(":{line}")))]
    BadSettings {
        path: PathBuf,
        /// Counts from 1.
        line: Option<usize>,
        why: String,
    },
    /// There is no usable socket to listen on.
    #[error("no socket to listen on: {why}")]
    NoSocket {
        why: String,
        #[source]
        cause: Option<Arc<io::Error>>,
    },
    /// The service cannot go on.
    #[error("cannot {what}")]
    Service {
        what: &'static str,
        #[source]
        cause: Arc<io::Error>,
    },
}

/// A part of the way to a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The name of its host has to be resolved.
    Resolution,
    /// A proxy has to connect.
    Proxy,
    /// The host has to accept a connection.
    Connection,
    /// Both have to agree on TLS.
    Tls,
}

/// A conclusion about the requested object from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The source answered: it does not have the object, or the object cannot be used. A retry gets the same answer.
    Answer,
    /// The source denies the object to this login (401, 403).
    Refusal,
    /// The source did not answer, and the next try may succeed.
    Passing,
    /// The source did not answer, and no try succeeds until somebody changes something (settings, certificates).
    Lasting,
}

impl Error {
    /// For `map_err`: the service cannot do this.
    pub fn service(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |cause| Error::Service {
            what,
            cause: Arc::new(cause),
        }
    }

    /// For `map_err`: this file or directory cannot be read or written.
    pub fn file(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |cause| Self::File {
            path: path.clone(),
            cause: Arc::new(cause),
        }
    }

    /// The HTTP status that the client gets, and what the failure says about the object. The status is never 401:
    /// systemd's clients cannot log in.
    fn class(&self) -> (u16, Finding) {
        match self {
            Error::MirrorsToo { error, .. } | Error::NoneAttachedAtMirror { error, .. } => {
                error.class()
            }
            // The client's question was another one than the one that failed.
            Error::SignaturesUnknown { error, .. } | Error::AttachedUnknown { error, .. } => {
                let status = match error.status() {
                    404 => 502,
                    status => status,
                };
                (status, Finding::Lasting)
            }
            Error::BadAddress { .. } => (400, Finding::Lasting),
            Error::RegistryNotAllowed { .. }
            | Error::NotOurName { .. }
            | Error::CrossSite
            | Error::BadLogin { .. }
            | Error::UntrustedRealm { .. }
            | Error::NoSignedList { .. }
            | Error::ListRefused { .. }
            | Error::SignedListNotWhole { .. }
            | Error::Blocked { .. } => (403, Finding::Lasting),
            Error::Denied { .. } | Error::NoLogin { .. } | Error::LoginRefused { .. } => {
                (403, Finding::Refusal)
            }
            // An image without extension-release is like a file that does not exist.
            Error::NotOffered { .. } | Error::Missing { .. } | Error::BadImage { .. } => {
                (404, Finding::Answer)
            }
            Error::MethodNotAllowed { .. } => (405, Finding::Lasting),
            Error::BadRequest { status, .. } | Error::Refused { status, .. } => {
                (*status, Finding::Lasting)
            }
            // nginx's number for this; the client does not receive it.
            Error::ClientGone => (499, Finding::Lasting),
            Error::File { .. }
            | Error::NoState { .. }
            | Error::BadState { .. }
            | Error::BadSeed { .. }
            | Error::StateFull { .. }
            | Error::CannotDo { .. }
            | Error::NoCache
            | Error::BadSettings { .. }
            | Error::BadProxy { .. }
            | Error::BadCertificate { .. }
            | Error::NoSocket { .. }
            | Error::Service { .. } => (500, Finding::Lasting),
            // Gone, held back by a policy (Harbor), or by the law.
            Error::UnexpectedStatus {
                status: 410 | 412 | 451,
                ..
            }
            | Error::LostRedirect { .. }
            | Error::Nonsense { .. }
            | Error::WrongBytes { .. }
            | Error::WrongSize { .. }
            | Error::BadManifest { .. }
            | Error::CannotFlatten { .. }
            | Error::BadLayout { .. } => (502, Finding::Answer),
            Error::Unreachable { .. }
            | Error::NoService { .. }
            | Error::Broken { .. }
            | Error::Failing { .. }
            | Error::NoToken { may_pass: true, .. } => (502, Finding::Passing),
            Error::UnexpectedStatus { .. }
            | Error::NoToken { .. }
            | Error::NotPermitted { .. }
            | Error::Untrusted { .. }
            | Error::WantsCertificate { .. }
            | Error::NotTls { .. }
            | Error::NeedsTls { .. } => (502, Finding::Lasting),
            Error::Busy { .. } => (503, Finding::Passing),
            Error::Full { .. }
            | Error::NoThread { .. }
            | Error::NoMemory { .. }
            | Error::ListingFull { .. }
            | Error::Incomplete { .. }
            | Error::NotReady { .. } => (503, Finding::Lasting),
            Error::TooSlow { .. } => (504, Finding::Passing),
        }
    }

    /// The HTTP status that the client gets.
    pub fn status(&self) -> u16 {
        self.class().0
    }

    /// The conclusion about the requested object.
    pub fn finding(&self) -> Finding {
        self.class().1
    }

    /// Whether the failure is an answer about a part of something: what is attached to it, its metadata. There a redirect to
    /// a host that does not answer is none; of a tag it is one, so that no dead tag spoils a listing.
    pub fn is_answer_about_a_part(&self) -> bool {
        self.finding() == Finding::Answer && !matches!(self, Error::LostRedirect { .. })
    }

    /// Whether another try may succeed without any change.
    pub fn may_pass(&self) -> bool {
        self.finding() == Finding::Passing
    }

    /// Whether the registry itself did not respond, so that mirrors are asked instead.
    pub fn is_registry_down(&self) -> bool {
        matches!(
            self,
            Error::Unreachable { .. }
                | Error::NotPermitted { .. }
                | Error::Broken { .. }
                | Error::TooSlow { .. }
                | Error::Failing { .. }
        )
    }

    /// Whether the disk, or a quota on it, has no room.
    pub fn is_disk_full(&self) -> bool {
        let Error::File { cause, .. } = self else {
            return false;
        };
        matches!(
            cause.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        )
    }

    /// Whether every request to the host would fail like this one.
    pub fn is_of_host(&self) -> bool {
        matches!(
            self,
            Error::Unreachable { .. }
                | Error::NotPermitted { .. }
                | Error::TooSlow { .. }
                | Error::Untrusted { .. }
                | Error::WantsCertificate { .. }
                | Error::BadCertificate { .. }
                | Error::NotTls { .. }
                | Error::NeedsTls { .. }
        )
    }

    /// How long the client is told to wait before it asks again (`Retry-After`).
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

    /// The exit status of a command that fails with it: 1 if that is an answer (there is no such thing, the bytes are wrong),
    /// 2 for a wrong argument as clap has it, 69 (EX_UNAVAILABLE of sysexits.h) if there is no answer, 78 (EX_CONFIG) for
    /// settings. Of `serve` too, which otherwise ends with 1.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::BadSettings { .. } | Error::NoState { .. } => 78,
            // The service has read its settings, and says this of them.
            Error::Refused {
                status: 500,
                step: Some(step),
                ..
            } if step == "settings" => 78,
            Error::NoSocket { .. }
            | Error::Service { .. }
            | Error::WrongBytes { .. }
            | Error::WrongSize { .. } => 1,
            error => match error.status() {
                400 => 2,
                404 => 1,
                _ => 69,
            },
        }
    }

    /// The error and its causes in one line, for the journal and for `X-Reason`.
    pub fn line(&self) -> String {
        let mut line = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Libraries repeat their cause in their own text.
            if !line.ends_with(&text) {
                line.push_str(": ");
                line.push_str(&text);
            }
            cause = error.source();
        }
        line
    }
}

/// A message of the registry after a comma, if there is one.
fn after_comma(message: &str) -> String {
    match message {
        "" => String::new(),
        message => format!(", {message}"),
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
    fn what_could_not_be_found_out_is_not_called_missing() {
        let unknown = |error| Error::SignaturesUnknown {
            manifest: Digest::of(b""),
            error: Box::new(error),
        };
        let url = String::new();
        assert_eq!(unknown(Error::Missing { url: url.clone() }).status(), 502);
        let denied = Error::Denied {
            url,
            status: 401,
            message: String::new(),
        };
        assert_eq!(unknown(denied).status(), 403);
    }

    #[test]
    fn one_line_tells_the_whole_story() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = Error::Unreachable {
            url: "http://localhost:5000/v2/a/tags/list".into(),
            at: Way::Connection,
            cause: Arc::new(refused),
        };
        assert_eq!(
            error.line(),
            "cannot connect to http://localhost:5000/v2/a/tags/list; \
             is the registry up, is its address right?: connection refused"
        );
        assert_eq!(error.status(), 502);
    }
}
