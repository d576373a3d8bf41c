//! A file of a snapshot → its bytes, from memory, from the cache, from its source or from older versions on this machine;
//! none for a client that has them.

use std::io::Read;
use std::sync::Arc;

use super::http::{Blob, Body, Request, Response};
use crate::address::Located;
use crate::artifact::{Content, Recipe};
use crate::blob::{self, Verified};
use crate::error::Result;
use crate::flatten::{FlattenedFile, ScanningReader};
use crate::listing::File;
use crate::name::FileName;
use crate::settings::Blobs;
use crate::snapshot::{Snapshot, Snapshots, TIME_LIMIT};
use crate::task;

/// The media type of files and signatures.
pub const OCTETS: &str = "application/octet-stream";

/// A file that a client asks for.
pub struct Download<'a> {
    pub snapshots: &'a Snapshots,
    pub located: &'a Located,
    pub snapshot: &'a Snapshot,
    pub name: &'a FileName,
    pub file: &'a File,
}

impl Download<'_> {
    /// The response with the file.
    pub fn answer(&self, request: &Request) -> Result<Response> {
        let digest = self.file.digest;
        if request.has_already(digest) {
            self.show()?;
            return Ok(Response::not_modified(digest));
        }
        Ok(self.bytes(request.is_head())?.tagged(digest))
    }

    /// Has the source show that it holds the file.
    fn show(&self) -> Result<()> {
        (self.snapshots).show(self.located, self.snapshot, self.file)
    }

    /// The name of the file in errors.
    fn what(&self) -> String {
        format!("{}/{} ({})", self.located, self.name, self.file.digest)
    }

    fn bytes(&self, is_head: bool) -> Result<Response> {
        let (snapshots, snapshot, file) = (self.snapshots, self.snapshot, self.file);
        match &file.content {
            Content::Text(text) => {
                self.show()?;
                let text = Arc::<[u8]>::from(text.clone());
                Ok(Response::shared(OCTETS, Arc::new(text)))
            }
            Content::Blob => self.blob(is_head),
            Content::Flattened { recipe, size } if recipe.is_layer(file.digest) => {
                if !is_head && !snapshots.is_clean(snapshot, file, recipe) {
                    return self.unread_layer(recipe);
                }
                if !is_head
                    && snapshot.blobs == Blobs::Stream
                    && let Some(kept) = snapshots.kept(snapshot, file, recipe, *size)?
                {
                    return self.cached(kept, *size);
                }
                self.blob(is_head)
            }
            Content::Flattened { size, .. } if is_head => {
                Ok(Response::new(OCTETS, Body::SizeOnly(*size)))
            }
            Content::Flattened { recipe, size } => {
                let made = snapshots.flattened(snapshot, file, recipe, *size)?;
                self.cached(made, *size)
            }
        }
    }

    /// A blob of the file's source, or a redirect to it.
    fn blob(&self, is_head: bool) -> Result<Response> {
        let _limit = task::within(TIME_LIMIT);
        let (digest, source) = (self.file.digest, self.snapshot.source_of(self.file));
        if self.snapshot.blobs == Blobs::Redirect
            && let Some(url) = source.blob_url(digest)?
        {
            return Ok(Response::empty(307, vec![("Location", url)]));
        }
        if is_head {
            let size = self.file.size;
            let size = size.map_or_else(|| source.blob_size(digest), Ok)?;
            return Ok(Response::new(OCTETS, Body::SizeOnly(size)));
        }
        let planned = (self.snapshots).plan(self.located, self.snapshot, self.name, self.file);
        if let Some(planned) = planned {
            let (size, blob) = blob::open_by_plan(source, digest, self.what(), planned)?;
            return begin(blob, size);
        }
        self.streamed(|bytes, _| bytes)
    }

    /// The one layer of an image, which is inspected while it is sent: the download breaks off if the layer has to be
    /// flattened.
    fn unread_layer(&self, recipe: &Recipe) -> Result<Response> {
        let _limit = task::within(TIME_LIMIT);
        self.streamed(|bytes, size| {
            let to_flatten = (self.snapshots).to_flatten(self.snapshot, self.file, recipe);
            Box::new(ScanningReader::new(bytes, size, to_flatten))
        })
    }

    /// A blob of the file's source, whose bytes pass through a reader.
    fn streamed(
        &self,
        through: impl Fn(Box<dyn Read + Send>, u64) -> Box<dyn Read + Send>,
    ) -> Result<Response> {
        let (digest, source) = (self.file.digest, self.snapshot.source_of(self.file));
        let connections = self.snapshots.download_connections(self.located);
        blob::elsewhere_if_wrong(&**source, digest, || {
            let (what, size) = (self.what(), self.file.size);
            let (size, blob) =
                blob::open_through(source, digest, size, connections, what, &through)?;
            begin(blob, size)
        })
    }

    /// A file in the cache.
    fn cached(&self, kept: FlattenedFile, size: u64) -> Result<Response> {
        let kept: Box<dyn Read + Send> = Box::new(kept);
        let verified = Verified::new(kept, self.what(), self.file.digest, size)?;
        begin(verified, size)
    }
}

/// Waits for the first piece of a body, whose size and digest are verified while it is sent.
fn begin(blob: Verified<Box<dyn Read + Send>>, size: u64) -> Result<Response> {
    let blob = Blob::begin(blob, size)?;
    Ok(Response::new(OCTETS, Body::Blob(Box::new(blob))))
}
