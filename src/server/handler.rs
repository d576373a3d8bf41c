//! Request → Answer: the whole story, top to bottom.

use std::borrow::Cow;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::access;
use super::html;
use super::http::{Answer, Blob, Body, Request};
use crate::address::{self, Address, Asked, LISTING, View};
use crate::artifact::kubesolo::Release;
use crate::artifact::{self, Content, Recipe};
use crate::blob::{self, Verified};
use crate::companions::companions;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::flatten::Watched;
use crate::listing::{File, Listing};
use crate::name::FileName;
use crate::platform::Architecture;
use crate::settings::{Blobs, Settings};
use crate::snapshot::{Directory, Snapshot, Snapshots, TIME_LIMIT};
use crate::task;

/// The type of listings and checksums.
const TEXT: &str = "text/plain";
/// The type of everything else.
const OCTETS: &str = "application/octet-stream";
/// The images that have side files. sysextmgr takes both; of two by one name the first counts.
const IMAGES: &[&str] = &[".raw", ".img"];
/// What the older clients of KubeSolo OS ask for.
const LATEST: &str = "latest.json";
/// Reasons why there is none that are told.
const MAX_REASONS: usize = 3;

/// What answers requests.
pub struct Service {
    settings: Settings,
    snapshots: Snapshots,
}

impl Service {
    /// A service with these settings, which answers from these snapshots.
    pub fn new(settings: Settings, snapshots: Snapshots) -> Self {
        Self {
            settings,
            snapshots,
        }
    }

    /// How long the service waits for a client before it exits.
    pub fn idle_timeout(&self) -> Duration {
        self.settings.idle_timeout
    }

    /// The answer to a request. An error is the caller's to log and to send.
    pub fn answer(&self, request: &Request) -> Result<Answer> {
        access::check(request, &self.settings.hosts)?;
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Err(Error::MethodNotAllowed {
                method: request.method.clone(),
            });
        }
        let (directory, asked) = match Address::parse(&request.target)? {
            Address::Start => {
                return Ok(Answer::page(Arc::new(
                    html::start(&self.settings).into_bytes(),
                )));
            }
            Address::In {
                repository,
                view,
                file,
            } => (Directory { repository, view }, file),
        };
        match asked {
            Asked::Page => {
                let snapshot = self.snapshots.listing(&directory)?;
                let write = || {
                    let Listing {
                        left_out,
                        incomplete,
                        ..
                    } = &snapshot.listing;
                    let (files, number) = (snapshot.files(), snapshot.len());
                    html::directory(&directory.to_string(), number, files, left_out, *incomplete)
                };
                let page = self.snapshots.page(&snapshot, write)?;
                Ok(of_listing(Answer::page(page), &snapshot))
            }
            Asked::Listing => {
                let snapshot = self.snapshots.list(&directory, !request.is_head())?;
                let text = self.snapshots.text(&snapshot, tomorrow())?;
                Ok(of_listing(Answer::shared(TEXT, text), &snapshot))
            }
            Asked::Signature(name) => self.signature(request, &directory, &name),
            Asked::ChecksumOf(name) => self.checksum_of(request, &directory, &name),
            Asked::File(name) if name.as_str() == LATEST => self.latest(request, &directory),
            Asked::File(name) => match side_file_of(&name) {
                Some(side_file) => self.side_file(request, &directory, &name, &side_file),
                None => {
                    let snapshot = self.snapshots.having(&directory, &[&name], &[])?;
                    self.file(request, &directory, &snapshot, &name)
                }
            },
        }
    }

    /// The line of a file, and those of its companions. A file of that name that a publisher offers comes first.
    ///
    /// Beside a signature of the list there is none: systemd-pull takes it before the list, and would check the
    /// signature against it (systemd:src/import/pull-common.c).
    fn checksum_of(
        &self,
        request: &Request,
        directory: &Directory,
        name: &FileName,
    ) -> Result<Answer> {
        // A name may be too long for another one beside it.
        let own: Option<FileName> = format!("{name}.sha256").parse().ok();
        let names: Vec<_> = own.iter().chain([name]).collect();
        let beside: Vec<_> = companions(name).collect();
        let snapshot = self.snapshots.having(directory, &names, &beside)?;
        let signed = snapshot.signed.as_ref();
        let has_signature = |snapshot: &Snapshot| {
            let signed = snapshot.signed.as_ref();
            signed.is_some_and(|signed| !signed.signatures.is_empty())
        };
        // The listing that has the file may be older than the signature.
        let is_of_signed = has_signature(&snapshot)
            || directory.view == View::Tags
                && has_signature(
                    &*self
                        .snapshots
                        .of_signature(directory, has_signature, false)?,
                );
        // An older signed list is kept as its files alone, without its bytes and signatures.
        let is_of_older = |file: &File| signed.is_none() && file.manifest.is_none();
        if is_of_signed || snapshot.file(name).is_some_and(|file| is_of_older(&file)) {
            return Err(Error::NotOffered {
                what: format!("{directory}/{name}.sha256"),
                why: format!("the checksums of a signed directory are in {LISTING}"),
            });
        }
        if let Some(own) = own.filter(|own| snapshot.has(own)) {
            return self.file(request, directory, &snapshot, &own);
        }
        let line = |name: &FileName, file: &File| {
            format!(
                "{}  {name}
",
                file.digest.hex()
            )
        };
        let mut text = line(name, &*offered(directory, &snapshot, name)?);
        for companion in &beside {
            text.extend(snapshot.file(companion).map(|file| line(companion, &file)));
        }
        Ok(Answer::bytes(TEXT, text))
    }

    /// What an image says of itself. A file of that name that a publisher offers comes first.
    fn side_file(
        &self,
        request: &Request,
        directory: &Directory,
        name: &FileName,
        side_file: &SideFile,
    ) -> Result<Answer> {
        let SideFile { stem, form, images } = side_file;
        let names: Vec<_> = images.iter().chain([name]).collect();
        let snapshot = self.snapshots.having(directory, &names, &[])?;
        let found = |image| Some((image, snapshot.file(image)?));
        let (image, file) = match images.iter().find_map(found) {
            Some(found) if !snapshot.has(name) => found,
            _ => return self.file(request, directory, &snapshot, name),
        };
        let mut metadata = self
            .snapshots
            .metadata(directory, &snapshot, image, &file)?;
        if let Some((_, architecture)) = Architecture::at_end_of(stem) {
            metadata.add("ARCHITECTURE", architecture.as_str());
        }
        if !metadata.has_id() {
            return Err(Error::NotOffered {
                what: format!("{directory}/{name}"),
                why: "neither its publisher nor the image itself says for which ID it is; \
                      an annotation ID=… would do"
                    .into(),
            });
        }
        Ok(match form {
            SideForm::Manifest => Answer::bytes("application/gzip", metadata.manifest_gz(stem)),
            SideForm::Json => Answer::bytes("application/json", metadata.json(image.as_str())),
        })
    }

    /// The signature of the list that was given out, from the same artifact.
    fn signature(&self, request: &Request, directory: &Directory, name: &str) -> Result<Answer> {
        let is_in = |snapshot: &Snapshot| {
            let signed = snapshot.signed.as_ref();
            signed.is_some_and(|signed| signed.signatures.contains_key(name))
        };
        let is_sent = !request.is_head();
        let snapshot = self.snapshots.of_signature(directory, is_in, is_sent)?;
        let found = snapshot
            .signed
            .as_ref()
            .and_then(|signed| signed.signatures.get(name));
        let not_offered = |why: &str| Error::NotOffered {
            what: format!("{directory}/{name}"),
            why: why.to_owned(),
        };
        match found {
            Some(signature) => Ok(Answer::shared(OCTETS, signature.clone())),
            None if snapshot.signed.is_some() => Err(not_offered(
                "its publisher did not sign the list in this form",
            )),
            None => Err(not_offered(
                "the listing is not signed; Verify=no in the transfer file takes it as it is",
            )),
        }
    }

    /// `latest.json` of KubeSolo OS, with URLs that lead back here.
    fn latest(&self, request: &Request, directory: &Directory) -> Result<Answer> {
        let snapshot = self.snapshots.listing(directory)?;
        if let Ok(own) = LATEST.parse()
            && snapshot.has(&own)
        {
            return self.file(request, directory, &snapshot, &own);
        }
        match self.latest_json(request, directory, &snapshot)? {
            Some(json) => Ok(Answer::bytes("application/json", json)),
            None => Err(Error::NotOffered {
                what: format!("{directory}/{LATEST}"),
                why: no_release(&directory.view, &snapshot.listing),
            }),
        }
    }

    /// `latest.json` of a release, if it is one. Its URLs are pinned by the digest of the manifest: the tag may
    /// move before the client fetches the files.
    fn latest_json(
        &self,
        request: &Request,
        directory: &Directory,
        snapshot: &Snapshot,
    ) -> Result<Option<String>> {
        let Some(release) = &snapshot.kubesolo else {
            return Ok(None);
        };
        let files = &snapshot.listing.files;
        let Some(manifest) = manifest_of(release, files.values()) else {
            return Ok(None);
        };
        let pinned = Directory {
            repository: directory.repository.clone(),
            view: View::Digest(manifest),
        };
        // A file without a title has another name there.
        let files = &self.snapshots.listing(&pinned)?.listing.files;
        let host = request.host.as_deref().unwrap_or("localhost:5001");
        let own = format!("{}-", directory.repository.repository.base());
        let url_of = |digest| {
            // Its title, which older clients know, rather than the name with the version.
            let (name, _) = files
                .iter()
                .filter(|(_, file)| file.digest == digest)
                .min_by_key(|(name, _)| name.as_str().starts_with(&own))?;
            Some(format!("http://{host}/{pinned}/{}", address::in_url(name)))
        };
        let label = match &directory.view {
            View::Tag(tag) => tag.to_string(),
            View::Tags | View::Digest(_) => String::new(),
        };
        Ok(release.latest_json(&label, url_of))
    }

    /// One of the files of a snapshot.
    fn file(
        &self,
        request: &Request,
        directory: &Directory,
        snapshot: &Snapshot,
        name: &FileName,
    ) -> Result<Answer> {
        let file = &*offered(directory, snapshot, name)?;
        let what = format!("{directory}/{name} ({})", file.digest);
        match &file.content {
            Content::Text(text) => {
                let text = self.snapshots.text_of(directory, snapshot, file, text)?;
                Ok(Answer::shared(OCTETS, Arc::new(Arc::<[u8]>::from(text))))
            }
            Content::Made(recipe) if recipe.is_layer(file.digest) => {
                self.layer(request, snapshot, file, recipe, what)
            }
            Content::Made(_) if request.is_head() => Ok(Answer::new(
                OCTETS,
                Body::SizeOnly(file.size.unwrap_or_default()),
            )),
            Content::Made(recipe) => {
                let size = file.size.unwrap_or_default();
                let made = self.snapshots.made(snapshot, file, recipe)?;
                let made: Box<dyn Read + Send> = Box::new(made);
                begun(Verified::new(made, what, file.digest, size)?, size)
            }
            Content::Blob => blob(request, snapshot, file, what),
        }
    }

    /// The one layer of an image. As long as nobody has read it, it is read while it is sent: what is no file as it
    /// is does not arrive.
    fn layer(
        &self,
        request: &Request,
        snapshot: &Snapshot,
        file: &File,
        recipe: &Recipe,
        what: String,
    ) -> Result<Answer> {
        if request.is_head() || self.snapshots.is_clean(snapshot, file, recipe) {
            if !request.is_head()
                && snapshot.blobs == Blobs::Stream
                && let Some(kept) = self.snapshots.kept_layer(snapshot, file)?
            {
                let size = file.size.unwrap_or_default();
                let kept: Box<dyn Read + Send> = Box::new(kept);
                return begun(Verified::new(kept, what, file.digest, size)?, size);
            }
            return blob(request, snapshot, file, what);
        }
        let _limit = task::within(TIME_LIMIT);
        let (digest, source) = (file.digest, snapshot.source_of(file));
        blob::elsewhere_if_wrong(&**source, digest, || {
            let through = |bytes, size| -> Box<dyn Read + Send> {
                let to_make = self.snapshots.to_make(snapshot, file, recipe);
                Box::new(Watched::new(bytes, size, to_make))
            };
            let (size, blob) =
                blob::open_through(source, digest, file.size, what.clone(), through)?;
            begun(blob, size)
        })
    }

    /// Leaves nothing unfinished behind in the cache, whatever is still being done: the process ends.
    pub fn close(&self) {
        self.snapshots.close();
    }

    /// Is something being done that nobody may wait for any more?
    pub fn is_busy(&self) -> bool {
        self.snapshots.is_busy()
    }
}

/// The manifest that offers both files of a release.
fn manifest_of<'a>(
    release: &Release,
    files: impl Iterator<Item = &'a File> + Clone,
) -> Option<Digest> {
    let [kernel, initramfs] = release.files();
    let of = |digest| {
        let files = files.clone().filter(move |file| file.digest == digest);
        files.filter_map(|file| file.manifest)
    };
    of(kernel).find(|manifest| of(initramfs).any(|other| other == *manifest))
}

/// The answer with a listing, which says where it lacks something.
fn of_listing(mut answer: Answer, snapshot: &Snapshot) -> Answer {
    let incomplete = snapshot.listing.incomplete;
    let header = incomplete.map(|incomplete| ("X-Incomplete", incomplete.to_string()));
    answer.headers.extend(header);
    answer
}

/// A file of a snapshot.
fn offered<'a>(
    directory: &Directory,
    snapshot: &'a Snapshot,
    name: &FileName,
) -> Result<Cow<'a, File>> {
    snapshot.file(name).ok_or_else(|| Error::NotOffered {
        what: format!("{directory}/{name}"),
        why: match snapshot.len() {
            0 => "the repository offers no file at all".into(),
            n => format!("it is none of the {n} files in {directory}/{LISTING}"),
        },
    })
}

/// A file that is a blob, or where the registry has it. `what` it is called in errors.
fn blob(request: &Request, snapshot: &Snapshot, file: &File, what: String) -> Result<Answer> {
    let _limit = task::within(TIME_LIMIT);
    let (digest, source) = (file.digest, snapshot.source_of(file));
    if snapshot.blobs == Blobs::Redirect
        && let Some(url) = source.blob_url(digest)?
    {
        let mut answer = Answer::empty(307);
        answer.headers.push(("Location", url));
        return Ok(answer);
    }
    if request.is_head() {
        let size = file.size.map_or_else(|| source.blob_size(digest), Ok)?;
        return Ok(Answer::new(OCTETS, Body::SizeOnly(size)));
    }
    blob::elsewhere_if_wrong(&**source, digest, || {
        let (size, blob) = blob::open(source, digest, file.size, what.clone())?;
        begun(blob, size)
    })
}

/// Bytes to come, which are held to size and digest on the way, once the first are there.
fn begun(blob: Verified<Box<dyn Read + Send>>, size: u64) -> Result<Answer> {
    let blob = Blob::begin(blob, size)?;
    Ok(Answer::new(OCTETS, Body::Blob(Box::new(blob))))
}

/// In which form a file beside an image says what the image is.
#[derive(Clone, Copy)]
enum SideForm {
    Manifest,
    Json,
}

/// A file that tells what the image beside it is.
struct SideFile {
    /// The image's name without its suffix.
    stem: String,
    form: SideForm,
    /// What the image may be called.
    images: Vec<FileName>,
}

/// What a name is a side file of: `<image>.manifest.gz` or `<image>.raw.json`.
fn side_file_of(name: &FileName) -> Option<SideFile> {
    let name = name.as_str();
    let (stem, form, suffixes) = match name.strip_suffix(".manifest.gz") {
        Some(stem) => (stem, SideForm::Manifest, IMAGES),
        None => (
            name.strip_suffix(".raw.json")?,
            SideForm::Json,
            &IMAGES[..1],
        ),
    };
    let names = suffixes.iter().map(|suffix| format!("{stem}{suffix}"));
    Some(SideFile {
        stem: stem.to_owned(),
        form,
        images: names.filter_map(|name| name.parse().ok()).collect(),
    })
}

/// Tomorrow in UTC.
fn tomorrow() -> Date {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    // Only the last day that jiff knows has none, in the year 9999.
    today.tomorrow().unwrap_or(today)
}

/// Why a directory has no release of KubeSolo OS: the reason why its artifact is none, if there is one.
fn no_release(view: &View, listing: &Listing) -> String {
    let reasons = listing.left_out.iter().map(|one| one.reason.as_str());
    let of_artifact =
        reasons.filter(|reason| *view != View::Tags && !artifact::is_of_a_layer(reason));
    let told: Vec<_> = of_artifact.take(MAX_REASONS).collect();
    if told.is_empty() {
        return "only a KubeSolo OS release has it, as in /<repository>:<tag>/latest.json".into();
    }
    told.join("; ")
}
