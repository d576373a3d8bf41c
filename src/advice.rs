//! The step at which a request failed, and the remedy, for each error. No I/O.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Way};

/// errno(3): the mode of a file or of a directory above it denies access.
const EACCES: i32 = 13;

/// A step on the way from a client to the bytes that it asked for, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// The client's request.
    Request,
    /// Settings, certificates and logins on this machine.
    Settings,
    /// The service itself: its memory, threads, cache and state.
    Service,
    /// The proxy on the way to the registry.
    Proxy,
    /// The address of the registry's host.
    Resolution,
    /// The connection to the registry.
    Connection,
    /// Its certificate, and ours.
    Tls,
    /// The registry's consent.
    Login,
    /// The repository: its tags and manifests.
    Repository,
    /// The signatures that the settings ask for.
    Signatures,
    /// The bytes of a file.
    Content,
}

/// As in JSON.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The step at which a request failed, and what to do, if anything can be done.
pub fn advice(error: &Error) -> (Step, Option<&'static str>) {
    match error {
        Error::MirrorsToo { error, .. } | Error::AttachedUnknown { error, .. } => advice(error),
        Error::NoneAttachedAtMirror { error, .. } | Error::SignaturesUnknown { error, .. } => {
            (Step::Signatures, advice(error).1)
        }

        Error::BadAddress { .. } => (
            Step::Request,
            Some("repositories are lowercase; expected /<repository>/<file>"),
        ),
        Error::NotOffered { .. } => (
            Step::Request,
            Some("compare the name with /<repository>/SHA256SUMS and with MatchPattern="),
        ),
        Error::CrossSite => (Step::Request, Some("open the address in a tab of its own")),
        Error::MethodNotAllowed { .. } => (Step::Request, Some("use GET or HEAD")),
        Error::BadRequest { .. } => (Step::Request, Some("send HTTP/1.1 without a body")),
        Error::ClientGone => (Step::Request, None),

        Error::RegistryNotAllowed { .. } => (
            Step::Settings,
            Some("add the registry to 'allow' in /etc/sysext-oci-proxy/config.toml"),
        ),
        Error::NotOurName { .. } => (
            Step::Settings,
            Some("add the name to 'hosts' in /etc/sysext-oci-proxy/config.toml"),
        ),
        Error::BadSettings { .. } => (
            Step::Settings,
            Some(
                "correct the settings, then run `systemctl try-reload-or-restart sysext-oci-proxy.service`, as a \
                 service that still runs has the settings from before",
            ),
        ),
        Error::SignedListNotWhole { .. } => (
            Step::Settings,
            Some(
                "remove the setting and narrow MatchPattern=; or set signed-list = \"\", which gives a list without a \
                  signature",
            ),
        ),
        Error::BadProxy { .. } => (
            Step::Proxy,
            Some("correct Environment= in a drop-in for sysext-oci-proxy.service"),
        ),
        Error::Blocked { .. } => (
            Step::Settings,
            Some("remove blocked = true from registries.conf if that is wrong"),
        ),
        Error::BadCertificate { .. } => (
            Step::Tls,
            Some("replace the file in /etc/containers/certs.d"),
        ),
        Error::BadLogin { .. } => (
            Step::Login,
            Some("log in again: skopeo login --authfile FILE REGISTRY"),
        ),
        Error::UntrustedRealm { .. } => (
            Step::Login,
            Some("add the host of the token server to 'trusted-hosts' if it is right"),
        ),
        Error::NoState { .. } => (
            Step::Settings,
            Some("name a directory: StateDirectory= of the service, or $STATE_DIRECTORY"),
        ),
        Error::BadLayout { .. } => (
            Step::Settings,
            Some("correct the path in the settings, or copy the layout anew"),
        ),

        Error::Full { .. } | Error::NoMemory { .. } => (Step::Service, Some("ask again later")),
        Error::NoThread { .. } => (
            Step::Service,
            Some("raise TasksMax= of sysext-oci-proxy.service"),
        ),
        Error::ListingFull { .. } => (
            Step::Service,
            Some("remove old tags from the repository, or read one tag: /<repository>:<tag>/"),
        ),
        Error::NoCache => (
            Step::Service,
            Some("name a directory: CacheDirectory= of the service, or $CACHE_DIRECTORY"),
        ),
        Error::NotReady { .. } => (Step::Service, Some("ask again later")),
        Error::BadState { .. } => (
            Step::Service,
            Some(
                "restore the file; or run systemctl clean --what=state sysext-oci-proxy.service, which also forgets which \
                  repositories were signed",
            ),
        ),
        Error::BadSeed { remedy, .. } => (Step::Service, Some(remedy)),
        Error::StateFull { .. } => (
            Step::Service,
            Some(
                "remove repositories that nobody uses from the settings, then run systemctl clean --what=state \
                  sysext-oci-proxy.service, which also forgets which repositories were signed",
            ),
        ),
        // SystemCallFilter= gives EPERM, another number.
        Error::File { cause, .. } if cause.raw_os_error() == Some(EACCES) => (
            Step::Service,
            Some(
                "make it readable for all, and each directory above it accessible: chmod a+rX; the service runs as a \
                 user of its own",
            ),
        ),
        Error::File { .. } => (
            Step::Service,
            Some("look for a full disk, or for SystemCallFilter= in a drop-in"),
        ),
        Error::NoSocket { .. } => (
            Step::Service,
            Some("systemctl start sysext-oci-proxy.socket"),
        ),
        Error::NoService { .. } => (
            Step::Service,
            Some("systemctl start sysext-oci-proxy.socket"),
        ),
        Error::CannotDo { .. } | Error::Service { .. } | Error::Refused { .. } => {
            (Step::Service, None)
        }

        Error::Unreachable { at, .. } => unreachable(*at),
        Error::NotPermitted { .. } => (
            Step::Connection,
            Some(
                "look for RestrictAddressFamilies=, IPAddressDeny= and SystemCallFilter= in \
                  systemctl cat sysext-oci-proxy.service",
            ),
        ),
        Error::Broken { .. } | Error::TooSlow { .. } | Error::LostRedirect { .. } => (
            Step::Connection,
            Some("ask again; if it fails again, look at the network and at the registry's log"),
        ),
        Error::Untrusted { .. } => (
            Step::Tls,
            Some("put the CA into /etc/containers/certs.d/HOST:PORT/ca.crt"),
        ),
        Error::WantsCertificate { .. } => (
            Step::Tls,
            Some("put NAME.cert and NAME.key into /etc/containers/certs.d/HOST:PORT/"),
        ),
        Error::NotTls { .. } => (
            Step::Tls,
            Some("set insecure = true in registries.conf if the registry has no TLS"),
        ),
        Error::NeedsTls { .. } => (
            Step::Tls,
            Some(
                "put the CA into /etc/containers/certs.d/HOST:PORT/ca.crt, or set insecure = false \
                  in registries.conf",
            ),
        ),
        Error::Busy { .. } => (
            Step::Connection,
            Some("ask again later; a smaller 'parallel' in the settings may suit the registry"),
        ),
        Error::Failing { .. } => (Step::Connection, Some("look at the registry's log")),

        Error::NoLogin { .. } => (
            Step::Login,
            Some("log in: skopeo login --authfile FILE REGISTRY; is the repository's name right?"),
        ),
        Error::LoginRefused { .. } => (
            Step::Login,
            Some("log in again: the password is wrong or has expired, or may not read this"),
        ),
        Error::Denied { .. } => (
            Step::Login,
            Some("ask the owner of the repository for the right to read it"),
        ),
        Error::NoToken { .. } => (Step::Login, Some("look at the log of the token server")),

        Error::Missing { .. } => (
            Step::Repository,
            Some(
                "look at the name of the repository and of the tag; is the registry the right one?",
            ),
        ),
        Error::Incomplete { .. } => (
            Step::Repository,
            Some("ask again: the next try goes on from here"),
        ),
        Error::BadManifest { .. } => (
            Step::Repository,
            Some("ask the publisher to push the tag again"),
        ),
        Error::NoSignedList { .. } => (
            Step::Signatures,
            Some(
                "set signed-list = \"\" for the repository if its publisher signs no more, or run \
                  sysext-oci-proxy key --forget-signed REPOSITORY",
            ),
        ),
        Error::ListRefused { .. } => (
            Step::Signatures,
            Some("ask the publisher to sign it: cosign sign --key KEY REPOSITORY@DIGEST"),
        ),
        Error::UnexpectedStatus { .. } | Error::Nonsense { .. } => (
            Step::Repository,
            Some("is there a registry at that address? Look at its log"),
        ),

        Error::WrongBytes { .. } | Error::WrongSize { .. } => (
            Step::Content,
            Some("the storage of the registry or mirror is damaged: push the file again there"),
        ),
        Error::BadImage { .. } | Error::CannotFlatten { .. } => (
            Step::Content,
            Some("ask the publisher to build the image again; other versions are not affected"),
        ),
    }
}

/// The step and the remedy where a registry cannot be reached.
fn unreachable(at: Way) -> (Step, Option<&'static str>) {
    match at {
        Way::Proxy => (
            Step::Proxy,
            Some(
                "correct Environment= in a drop-in for sysext-oci-proxy.service, or add the registry to NO_PROXY there",
            ),
        ),
        Way::Resolution => (
            Step::Resolution,
            Some("try getent hosts HOST; look at the name, at resolvectl status and at /etc/hosts"),
        ),
        Way::Connection => (
            Step::Connection,
            Some("try curl -v at the address of the registry; look at the name and the port"),
        ),
        Way::Tls => (
            Step::Tls,
            Some(
                "try curl -v at the address of the registry; look at the versions of TLS that it accepts",
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    /// Root, as whom the tests may run, reads everything.
    #[test]
    fn a_file_that_only_others_may_read_is_no_full_disk() {
        let remedy = |number| {
            let error = Error::file(Path::new("/srv/updates/oci-layout"));
            advice(&error(io::Error::from_raw_os_error(number))).1
        };
        assert!(remedy(EACCES).unwrap().contains("chmod a+rX"));
        for other in [1, 28] {
            let remedy = remedy(other).unwrap();
            assert!(remedy.contains("full disk") && !remedy.contains("chmod"));
        }
    }
}
