//! [`Request`] → [`Response`]: the whole story, top to bottom.
//!
//! Access control is in `access.rs`, addresses are parsed and located in `address/`, and a [`Snapshot`] has what is on offer.
//! Pages are written in `html/`; `download.rs` delivers the bytes of a file.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use super::download::{Download, OCTETS};
use super::form::Form;
use super::http::{Request, Response};
use super::json::Overview;
use super::transfer::Transfer;
use super::{access, html, latest_json};
use crate::address::{Address, Asked, LISTING, Located};
use crate::companions::{companions, is_companion};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::listing::File;
use crate::name::FileName;
use crate::platform::Architecture;
use crate::settings::Settings;
use crate::snapshot::{Snapshot, Snapshots};

/// The media type of listings and checksums.
const TEXT: &str = "text/plain";
const JSON: &str = "application/json";
/// The suffixes of images that have side files; the first that exists counts. sysextmgr takes the first two, the command
/// `transfer` all.
const IMAGES: &[&str] = &[
    ".raw",
    ".img",
    ".raw.gz",
    ".raw.xz",
    ".raw.zst",
    ".squashfs",
    ".erofs",
    ".tar.gz",
    ".tar",
    ".tar.xz",
    ".tar.zst",
];

/// Answers requests.
pub struct Service {
    pub settings: Settings,
    pub snapshots: Snapshots,
}

impl Service {
    /// The same, listening at this address, if it is known.
    pub fn at(self, address: Option<SocketAddr>) -> Self {
        match address {
            Some(address) => Self {
                snapshots: self.snapshots.at(address),
                ..self
            },
            None => self,
        }
    }

    /// The response to a request. The caller logs and sends an error.
    pub fn answer(&self, request: &Request) -> Result<Response> {
        access::check(request, &self.settings.hosts)?;
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Err(Error::MethodNotAllowed {
                method: request.method.clone(),
            });
        }
        match Address::parse(&request.target)? {
            Address::Start => Ok(Response::page(Arc::new(html::start(
                &self.settings,
                &self.snapshots.health(),
            )))),
            Address::In(directory, file) => Handler {
                snapshots: &self.snapshots,
                request,
                located: &directory.locate(&self.settings)?,
            }
            .answer(file),
        }
    }
}

/// Answers one request for something in a directory.
struct Handler<'a> {
    snapshots: &'a Snapshots,
    request: &'a Request,
    located: &'a Located,
}

impl Handler<'_> {
    fn answer(&self, asked: Asked) -> Result<Response> {
        match asked {
            Asked::Page => self.overview(),
            Asked::Listing => self.listing(),
            Asked::Signature(name) => self.signature(&name),
            Asked::ChecksumOf(name) => self.checksums(&name),
            Asked::File(name) if name.as_str() == latest_json::NAME => self.latest_json(&name),
            Asked::File(name) => match SideFile::parse(&name) {
                Some(side_file) => self.side_file(&name, &side_file),
                None => self.file(&*self.snapshots.having(self.located, &[&name], &[])?, &name),
            },
        }
    }

    /// The listing for people, or for programs.
    fn overview(&self) -> Result<Response> {
        let snapshot = self.snapshots.listing(self.located)?;
        let overview = |not_in_list: &[_]| Overview::new(self.located, &snapshot, not_in_list);
        let mut response = match self.request.form {
            Some(Form::Json) => {
                let write = |not_in_list: &[_]| overview(not_in_list).text();
                Response::shared(JSON, self.snapshots.json(self.located, &snapshot, write)?)
            }
            _ => {
                let write = |not_in_list: &[_]| html::directory(&overview(not_in_list));
                Response::page(self.snapshots.page(self.located, &snapshot, write)?)
            }
        };
        response.headers.push(("Vary", "Accept".to_owned()));
        Ok(with_incomplete(response, &snapshot))
    }

    /// `SHA256SUMS`.
    fn listing(&self) -> Result<Response> {
        let is_sent = !self.request.is_head();
        let snapshot = self.snapshots.list(self.located, is_sent)?;
        let text = self.snapshots.text(&snapshot)?;
        Ok(with_incomplete(Response::shared(TEXT, text), &snapshot))
    }

    /// The signature of the list that was given out, from the same artifact.
    fn signature(&self, name: &str) -> Result<Response> {
        let has_it = |snapshot: &Snapshot| snapshot.has_signature(name);
        let is_sent = !self.request.is_head();
        let snapshot = self.snapshots.of_signature(self.located, has_it, is_sent)?;
        match self.snapshots.signature(&snapshot, name)? {
            Some(signature) => Ok(Response::shared(OCTETS, signature)),
            None if snapshot.machine().is_some() => Err(self.not_offered(
                name,
                "this machine signs the list in the form SHA256SUMS.gpg alone",
            )),
            None if snapshot.signed.is_some() => {
                Err(self.not_offered(name, "its publisher did not sign the list in this form"))
            }
            None if self.snapshots.is_to_sign(self.located) => Err(self.not_offered(
                name,
                "this machine signs only lists whose every file is verified, and 'verify' or policy.json requires no \
                 signature for all of them; Verify=no in the transfer file takes the list as it is",
            )),
            None => Err(self.not_offered(
                name,
                "the listing is not signed; Verify=no in the transfer file takes it as it is",
            )),
        }
    }

    /// `<file>.sha256`: the checksum of a file, and those of its companions. A file of that name that a publisher
    /// offers has precedence.
    ///
    /// Where the list is signed, there is none: systemd-pull takes it before the list, and would check the
    /// signature against it (systemd:src/import/pull-common.c).
    fn checksums(&self, name: &FileName) -> Result<Response> {
        // The name with the suffix may be too long for a file name.
        let own: Option<FileName> = format!("{name}.sha256").parse().ok();
        let names: Vec<_> = own.iter().chain([name]).collect();
        let beside: Vec<_> = companions(name).collect();
        let snapshot = self.snapshots.having(self.located, &names, &beside)?;
        if self.is_in_signed_list(&snapshot, name)? {
            let why = format!("the checksums of a signed directory are in {LISTING}");
            return Err(self.not_offered(&format!("{name}.sha256"), why));
        }
        if let Some(own) = own.filter(|own| snapshot.has(own)) {
            return self.file(&snapshot, &own);
        }
        let line = |name: &FileName, file: &File| format!("{}  {name}\n", file.digest.hex());
        let mut text = line(name, &*self.find(&snapshot, name)?);
        for companion in &beside {
            text.extend(snapshot.file(companion).map(|file| line(companion, &file)));
        }
        Ok(self.written(TEXT, text))
    }

    /// Whether the list of the directory is signed, or an older list that has this file was.
    fn is_in_signed_list(&self, snapshot: &Snapshot, name: &FileName) -> Result<bool> {
        if snapshot.is_signed() {
            return Ok(true);
        }
        // The listing that has the file may be older than the signature.
        if self.located.directory.view.is_of_tags() {
            let newest = self
                .snapshots
                .of_signature(self.located, Snapshot::is_signed, false)?;
            if newest.is_signed() {
                return Ok(true);
            }
        }
        // Of an older signed list only the files are kept: they have no manifest.
        Ok(snapshot.signed.is_none()
            && snapshot
                .file(name)
                .is_some_and(|file| file.manifest.is_none()))
    }

    /// The extension-release of an image. A file of that name that a publisher offers has precedence.
    fn side_file(&self, name: &FileName, side_file: &SideFile) -> Result<Response> {
        let SideFile { stem, form, images } = side_file;
        let names: Vec<_> = images.iter().chain([name]).collect();
        let snapshot = self.snapshots.having(self.located, &names, &[])?;
        let found = |image| Some((image, snapshot.file(image)?));
        let (image, file) = match images.iter().find_map(found) {
            Some(found) if !snapshot.has(name) => found,
            _ => return self.file(&snapshot, name),
        };
        let mut metadata = self
            .snapshots
            .metadata(self.located, &snapshot, image, &file)?;
        if let Some((_, architecture)) = Architecture::at_end_of(stem) {
            metadata.add("ARCHITECTURE", architecture.as_str());
        }
        if !metadata.has_id() {
            let why = match file.accepted {
                None => {
                    "neither its publisher nor the image itself says for which ID it is; \
                     an annotation ID=… would do"
                }
                Some(_) => {
                    "its signed manifest does not say for which ID it is, and what is read inside an image is not \
                     verified; an annotation ID=… would do"
                }
            };
            return Err(self.not_offered(name.as_str(), why));
        }
        Ok(match form {
            SideForm::Manifest => self.written("application/gzip", metadata.manifest_gz(stem)),
            SideForm::Json => self.written(JSON, metadata.json(image.as_str())),
        })
    }

    /// `latest.json` of KubeSolo OS. A file of that name that a publisher offers has precedence.
    fn latest_json(&self, name: &FileName) -> Result<Response> {
        let snapshot = self.snapshots.listing(self.located)?;
        if snapshot.has(name) {
            return self.file(&snapshot, name);
        }
        let host = self.request.host.as_deref();
        match latest_json::write(self.snapshots, self.located, &snapshot, host)? {
            Some(json) => Ok(self.written(JSON, json)),
            None => {
                let why = latest_json::why_none(&self.located.directory.view, &snapshot.listing);
                Err(self.not_offered(latest_json::NAME, why))
            }
        }
    }

    /// A file of a snapshot.
    fn file(&self, snapshot: &Snapshot, name: &FileName) -> Result<Response> {
        let file = &*self.find(snapshot, name)?;
        let download = Download {
            snapshots: self.snapshots,
            located: self.located,
            snapshot,
            name,
            file,
        };
        let mut response = download.answer(self.request)?;
        if response.status == 200 && !self.request.is_head() {
            let (directory, size) = (&self.located.directory, response.size());
            let transfer = Transfer::new(directory, snapshot, name, file, size);
            response.transfer = Some(Arc::new(transfer));
        }
        Ok(response)
    }

    /// A small file that was made for this request.
    fn written(&self, media_type: &'static str, bytes: impl Into<Vec<u8>>) -> Response {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        match self.request.has_already(digest) {
            true => Response::not_modified(digest),
            false => Response::bytes(media_type, bytes).tagged(digest),
        }
    }

    fn find<'a>(&self, snapshot: &'a Snapshot, name: &FileName) -> Result<Cow<'a, File>> {
        snapshot.file(name).ok_or_else(|| {
            let why = match snapshot.len() {
                0 => "the repository offers no file at all".to_owned(),
                n => format!("it is none of the {n} files in {}/{LISTING}", self.located),
            };
            self.not_offered(name.as_str(), why)
        })
    }

    fn not_offered(&self, name: &str, why: impl Into<String>) -> Error {
        Error::NotOffered {
            what: format!("{}/{name}", self.located),
            why: why.into(),
        }
    }
}

/// Says in a header where the listing lacks something.
fn with_incomplete(mut response: Response, snapshot: &Snapshot) -> Response {
    let incomplete = snapshot.listing.incomplete;
    let header = incomplete.map(|incomplete| ("X-Incomplete", incomplete.to_string()));
    response.headers.extend(header);
    response
}

/// The thing that a client asks for, for the log.
#[derive(Default)]
pub struct Asking {
    /// The directory by its address; empty if it has none.
    pub directory: String,
    /// The name in it.
    pub file: String,
    /// Clients ask for it as a matter of course, and it may not be there.
    pub is_routine: bool,
}

impl Asking {
    /// The thing in the target of a request.
    pub fn of(target: &str) -> Self {
        let Ok(Address::In(directory, asked)) = Address::parse(target) else {
            return Self::default();
        };
        let (file, is_routine) = match asked {
            Asked::Page => (String::new(), false),
            Asked::Listing => (LISTING.to_owned(), false),
            Asked::Signature(name) => (name, true),
            Asked::ChecksumOf(name) => (format!("{name}.sha256"), true),
            Asked::File(name) => {
                let is_routine = SideFile::parse(&name).is_some() || is_companion(&name);
                (name.to_string(), is_routine)
            }
        };
        Self {
            directory: directory.to_string(),
            file,
            is_routine,
        }
    }
}

/// The form of a side file.
enum SideForm {
    /// `<image>.manifest.gz`
    Manifest,
    /// `<image>.raw.json`
    Json,
}

/// A file that describes the image beside it.
struct SideFile {
    /// The image's name without its suffix.
    stem: String,
    form: SideForm,
    /// The names that the image may have.
    images: Vec<FileName>,
}

impl SideFile {
    fn parse(name: &FileName) -> Option<Self> {
        let name = name.as_str();
        let (stem, form, suffixes) = match name.strip_suffix(".manifest.gz") {
            Some(stem) => (stem, SideForm::Manifest, IMAGES),
            None => (
                name.strip_suffix(".raw.json")?,
                SideForm::Json,
                &[".raw"][..],
            ),
        };
        let names = suffixes.iter().map(|suffix| format!("{stem}{suffix}"));
        Some(Self {
            stem: stem.to_owned(),
            form,
            images: names.filter_map(|name| name.parse().ok()).collect(),
        })
    }
}
