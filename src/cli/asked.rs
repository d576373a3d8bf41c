//! Whom a command asks: the running service, or this process itself. Both answer the same request in the same way.

use std::io::Write;
use std::path::Path;

use clap::{Args, ValueHint};

use super::reference::{Origin, Reference};
use super::service::{Service, ServiceUrl};
use crate::address::{Directory, LISTING, in_url};
use crate::error::{Error, Result};
use crate::name::FileName;
use crate::server::handler;
use crate::server::http::{Interrupted, Request};
use crate::server::json::Overview;
use crate::settings::{Blobs, Settings};

/// Whom a command asks.
#[derive(Args, Clone, Debug)]
pub struct Whom {
    /// Ask the service at this address [default: http://localhost:5001]
    #[arg(long, value_name = "URL", value_hint = ValueHint::Url, conflicts_with_all = ["direct", "config"])]
    pub service: Option<ServiceUrl>,
    /// Ask the registry instead of the service, with the logins and the cache of this user. --config implies this
    #[arg(long)]
    pub direct: bool,
}

/// Who answers a command.
pub enum Asked {
    /// The service, with its logins, its cache and its rights.
    Service(Service),
    /// This process, with those of its user.
    Itself(Box<handler::Service>),
}

impl Asked {
    /// Nothing is asked yet.
    pub fn new(whom: Whom, config: Option<&Path>, reference: &Reference) -> Result<Self> {
        let Whom { service, direct } = whom;
        let named = match &reference.origin {
            Origin::Layout(_) => None,
            Origin::Usual | Origin::Service(_) if direct || config.is_some() => None,
            Origin::Usual => Some(service.unwrap_or_default()),
            Origin::Service(host) => {
                let named = ServiceUrl::at(host.clone());
                if let Some(other) = service.filter(|other| *other != named) {
                    let why = format!("--service names another one, {other}");
                    return Err(Error::BadAddress {
                        path: named.to_string(),
                        why,
                    });
                }
                Some(named)
            }
        };
        match named {
            Some(url) => {
                url.warn_of_stranger();
                Ok(Self::Service(Service::new(url)))
            }
            None => Self::itself(reference.settings(super::settings(config)?)),
        }
    }

    /// By these settings. The files come through this process, whoever sends them to clients of the service.
    pub fn itself(mut settings: Settings) -> Result<Self> {
        for repository in settings.repositories.values_mut() {
            repository.blobs = Blobs::Stream;
        }
        Ok(Self::Itself(Box::new(super::service(settings)?)))
    }

    /// The URL at which clients of the service find the directory.
    pub fn url(&self) -> ServiceUrl {
        match self {
            Self::Service(service) => service.url().clone(),
            Self::Itself(_) => ServiceUrl::default(),
        }
    }

    /// The same URL, if it is not the default one.
    pub fn unusual_url(&self) -> Option<ServiceUrl> {
        Some(self.url()).filter(|url| *url != ServiceUrl::default())
    }

    /// The JSON of a directory.
    pub fn json(&self, directory: &Directory) -> Result<Vec<u8>> {
        match self {
            Self::Service(service) => service.json(directory),
            Self::Itself(service) => {
                let response = service.answer(&Request::of_command(format!("/{directory}/")))?;
                let mut bytes = Vec::new();
                match response.write_body(&mut bytes) {
                    Ok(()) => Ok(bytes),
                    Err(Interrupted::Body(error)) => Err(error),
                    Err(Interrupted::Client(error)) => Err(Error::service("hold a listing")(error)),
                }
            }
        }
    }

    /// Writes a file of a directory to `out`.
    pub fn file(
        &self,
        directory: &Directory,
        name: &FileName,
        out: &mut dyn Write,
    ) -> Result<(), Interrupted> {
        self.body(format!("/{directory}/{}", in_url(name)), out)
    }

    /// Writes the signature of a directory's list to `out`, by the name that every systemd asks for.
    pub fn signature(&self, directory: &Directory, out: &mut dyn Write) -> Result<(), Interrupted> {
        self.body(format!("/{directory}/{LISTING}.gpg"), out)
    }

    fn body(&self, path: String, out: &mut dyn Write) -> Result<(), Interrupted> {
        match self {
            Self::Service(service) => service.file(&path, out),
            Self::Itself(service) => {
                let response = service
                    .answer(&Request::of_command(path))
                    .map_err(Interrupted::Body)?;
                response.write_body(out)
            }
        }
    }
}

/// The JSON of a directory.
pub fn parse(directory: &Directory, json: &[u8]) -> Result<Overview> {
    serde_json::from_slice(json).map_err(|error| Error::Nonsense {
        url: format!("/{directory}/"),
        why: format!("its JSON is not that of a directory: {error}"),
    })
}
