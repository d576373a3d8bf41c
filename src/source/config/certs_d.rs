//! Certificates for single registries in `certs.d`, as for podman and docker.
//!
//! Format: containers-certs.d(5). Of the directories below the first that exists for a host counts:
//! `*.crt` are CAs to trust beside the system's, `*.cert` with `*.key` is a client certificate.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::name::Host;
use crate::settings::{BY_GROUP, variable, why_unreadable};

/// Below the root directory. The directory of the user is searched before them.
const DIRECTORIES: [&str; 2] = ["etc/containers/certs.d", "etc/docker/certs.d"];

/// Where `certs.d` directories are.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateDirectories(Vec<PathBuf>);

/// A file in PEM form.
#[derive(Clone, Debug, PartialEq)]
pub struct Pem {
    pub path: PathBuf,
    pub text: Vec<u8>,
}

/// The certificates that are kept for one host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostCertificates {
    pub authorities: Vec<Pem>,
    /// A certificate and its key.
    pub client: Option<(Pem, Pem)>,
}

impl CertificateDirectories {
    /// The usual ones below `root`, and the user's.
    pub fn usual(root: &Path) -> Self {
        let config = variable("XDG_CONFIG_HOME");
        let config = config.or_else(|| Some(variable("HOME")?.join(".config")));
        let user = config.map(|directory| directory.join("containers/certs.d"));
        let Self(system) = Self::of_system(root);
        Self(user.into_iter().chain(system).collect())
    }

    /// The same without the user's.
    pub fn of_system(root: &Path) -> Self {
        Self(
            DIRECTORIES
                .iter()
                .map(|directory| root.join(directory))
                .collect(),
        )
    }

    /// The directory for a host, if there is one.
    pub fn of(&self, host: &Host) -> Option<PathBuf> {
        let mut directories = self.0.iter().map(|base| base.join(host.as_str()));
        directories.find(|directory| directory.is_dir())
    }

    /// The certificates for a host; `None` if there is no directory for it.
    pub fn find(&self, host: &Host) -> Result<Option<HostCertificates>> {
        self.of(host).map(|directory| read(&directory)).transpose()
    }
}

fn read(directory: &Path) -> Result<HostCertificates> {
    let entries = fs::read_dir(directory);
    let mut paths: Vec<PathBuf> = entries
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(|cause| bad(directory, &cause))?;
    paths.sort();
    let mut found = HostCertificates::default();
    for path in &paths {
        let partner = |extension: &str| {
            let partner = path.with_extension(extension);
            if paths.contains(&partner) {
                return Ok(partner);
            }
            let why = format!("its other half {} is missing", partner.display());
            Err(Error::BadCertificate {
                path: path.clone(),
                why,
            })
        };
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => found.authorities.push(pem(path.clone())?),
            Some("cert") => {
                let key = pem(partner("key")?)?;
                // There may be several. Servers rarely tell which one they want, so the first is used.
                found.client.get_or_insert((pem(path.clone())?, key));
            }
            Some("key") => drop(partner("cert")?),
            _ => {}
        }
    }
    Ok(found)
}

fn pem(path: PathBuf) -> Result<Pem> {
    let text = fs::read(&path).map_err(|cause| bad(&path, &cause))?;
    Ok(Pem { path, text })
}

fn bad(path: &Path, cause: &io::Error) -> Error {
    Error::BadCertificate {
        path: path.to_owned(),
        why: why_unreadable(cause, BY_GROUP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_n1_the_first_directory_for_a_host_counts_and_halves_are_refused() {
        let root =
            std::env::temp_dir().join(format!("sysext-oci-proxy-certs-{}", std::process::id()));
        let write = |path: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        };
        write("first/a.example:5000/ca.crt");
        write("first/a.example:5000/client.cert");
        write("first/a.example:5000/client.key");
        write("first/a.example:5000/README");
        write("second/a.example:5000/other.crt");
        write("second/b.example/half.cert");
        write("second/c.example/half.key");
        let directories = CertificateDirectories(vec![root.join("first"), root.join("second")]);
        let find = |host: &str| directories.find(&host.parse().unwrap());

        let pem = |path: &str| Pem {
            path: root.join(path),
            text: b"x".to_vec(),
        };
        let expected = HostCertificates {
            authorities: vec![pem("first/a.example:5000/ca.crt")],
            client: Some((
                pem("first/a.example:5000/client.cert"),
                pem("first/a.example:5000/client.key"),
            )),
        };
        let (a, b, c, d) = (
            find("a.example:5000"),
            find("b.example"),
            find("c.example"),
            find("a.example"),
        );
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(a.unwrap(), Some(expected));
        assert!(b.unwrap_err().line().contains("half.cert: its other half"));
        assert!(c.unwrap_err().line().contains("half.key: its other half"));
        assert_eq!(d.unwrap(), None, "the port is part of the name");
    }
}
