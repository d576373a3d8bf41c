//! Request → Answer: the whole story, top to bottom.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::address::{Address, Asked, Directory, View};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::http::{Answer, Body, Request};
use crate::listing::File;
use crate::name::{FileName, RepositoryAddress};
use crate::page;
use crate::payload::{Origin, Resumed, Verified};
use crate::settings::{Blobs, Settings};
use crate::snapshot::{Snapshot, Snapshots};
use crate::source::Upstream;

/// What answers requests.
pub struct Service {
    settings: Settings,
    snapshots: Snapshots,
}

impl Service {
    /// A service by these settings, with this way to registries and this directory for its cache.
    pub fn new(settings: Settings, upstream: Arc<Upstream>, cache: Option<PathBuf>) -> Self {
        Self {
            snapshots: Snapshots::new(settings.clone(), upstream, cache),
            settings,
        }
    }

    /// The answer to a request. An error is the caller's to log and to send.
    pub fn answer(&self, request: &Request) -> Result<Answer> {
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Err(Error::MethodNotAllowed {
                method: request.method.clone(),
            });
        }
        let (repository, view, asked) = match Address::parse(&request.target)? {
            Address::Start => {
                return Ok(Answer::text(page::MEDIA_TYPE, page::start(&self.settings)));
            }
            Address::In {
                repository,
                view,
                file,
            } => (repository, view, file),
        };
        if view != View::Tags {
            return Err(Error::NotOffered {
                what: Directory(&repository, &view).to_string(),
                why: "one artifact as a directory of its own is not served yet".into(),
            });
        }
        match asked {
            Asked::Page => {
                let snapshot = self.snapshots.listing(&repository)?;
                Ok(Answer::text(
                    page::MEDIA_TYPE,
                    page::repository(&repository, &snapshot.listing),
                ))
            }
            Asked::Listing => {
                let snapshot = self.snapshots.listing(&repository)?;
                Ok(Answer::text(
                    "text/plain",
                    snapshot.listing.text(tomorrow()),
                ))
            }
            Asked::Signature(name) => Err(Error::NotOffered {
                what: format!("{repository}/{name}"),
                why: "the listing is not signed; Verify=no in the transfer file takes it as it is"
                    .into(),
            }),
            Asked::ChecksumOf(name) => {
                let (_, File { digest, .. }) = self.snapshots.find(&repository, &name)?;
                Ok(Answer::text(
                    "text/plain",
                    format!("{}  {name}\n", digest.hex()),
                ))
            }
            Asked::File(name) => self.file(request, &repository, &name),
        }
    }

    fn file(
        &self,
        request: &Request,
        repository: &RepositoryAddress,
        name: &FileName,
    ) -> Result<Answer> {
        let (snapshot, File { digest, size, .. }) = self.snapshots.find(repository, name)?;
        if snapshot.blobs == Blobs::Redirect
            && let Some(url) = snapshot.source.blob_url(digest)?
        {
            let mut answer = Answer::empty(307);
            answer.headers.push(("Location", url));
            return Ok(answer);
        }
        let body = if request.is_head() {
            Body::SizeOnly(size)
        } else {
            let what = format!("{repository}/{name} ({digest})");
            let blob = Resumed::open(
                Blob {
                    snapshot,
                    digest,
                    size,
                },
                what.clone(),
                size,
            )?;
            Body::Blob(Verified::new(Box::new(blob), what, digest, size), size)
        };
        let headers = vec![("Content-Type", "application/octet-stream".to_owned())];
        Ok(Answer {
            status: 200,
            headers,
            body,
        })
    }
}

/// A blob of a snapshot, to be read from any of its bytes on.
struct Blob {
    snapshot: Arc<Snapshot>,
    digest: Digest,
    size: u64,
}

impl Origin for Blob {
    fn open(&self, from: u64) -> Result<Box<dyn Read + Send>> {
        self.snapshot.source.blob(self.digest, self.size, from)
    }
}

/// Tomorrow in UTC.
fn tomorrow() -> Date {
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    // Only the last day that jiff knows has none, in the year 9999.
    today.tomorrow().unwrap_or(today)
}
