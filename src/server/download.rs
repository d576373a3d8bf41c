//! A file of a snapshot → its bytes, from memory, from the cache or from its source; none for a client that has them.

use std::io::Read;
use std::sync::Arc;

use super::http::{Blob, Body, Request, Response};
use crate::address::Located;
use crate::artifact::{Content, Recipe};
use crate::blob::{self, Verified};
use crate::digest::Digest;
use crate::error::Result;
use crate::flatten::{FlattenedFile, ScanningReader};
use crate::listing::File;
use crate::settings::Blobs;
use crate::snapshot::{Snapshot, Snapshots, TIME_LIMIT};
use crate::task;

/// The media type of files and signatures.
pub const OCTETS: &str = "application/octet-stream";

/// The response with a file, which `what` names in errors.
pub fn file(
    snapshots: &Snapshots,
    located: &Located,
    snapshot: &Snapshot,
    file: &File,
    request: &Request,
    what: String,
) -> Result<Response> {
    if request.has_already(file.digest) {
        snapshots.show(located, snapshot, file)?;
        return Ok(Response::not_modified(file.digest));
    }
    let response = bytes(snapshots, located, snapshot, file, request.is_head(), what)?;
    Ok(response.tagged(file.digest))
}

fn bytes(
    snapshots: &Snapshots,
    located: &Located,
    snapshot: &Snapshot,
    file: &File,
    is_head: bool,
    what: String,
) -> Result<Response> {
    let connections = snapshots.download_connections(located);
    match &file.content {
        Content::Text(text) => {
            snapshots.show(located, snapshot, file)?;
            let text = Arc::<[u8]>::from(text.clone());
            Ok(Response::shared(OCTETS, Arc::new(text)))
        }
        Content::Blob => blob(snapshot, file, connections, is_head, what),
        Content::Flattened { recipe, size } if recipe.is_layer(file.digest) => {
            if !is_head && !snapshots.is_clean(snapshot, file, recipe) {
                return unread_layer(snapshots, snapshot, file, recipe, connections, what);
            }
            if !is_head
                && snapshot.blobs == Blobs::Stream
                && let Some(kept) = snapshots.kept(snapshot, file, recipe, *size)?
            {
                return from_cache(kept, file.digest, *size, what);
            }
            blob(snapshot, file, connections, is_head, what)
        }
        Content::Flattened { size, .. } if is_head => {
            Ok(Response::new(OCTETS, Body::SizeOnly(*size)))
        }
        Content::Flattened { recipe, size } => {
            let made = snapshots.flattened(snapshot, file, recipe, *size)?;
            from_cache(made, file.digest, *size, what)
        }
    }
}

/// A blob of the file's source, or a redirect to it.
fn blob(
    snapshot: &Snapshot,
    file: &File,
    connections: usize,
    is_head: bool,
    what: String,
) -> Result<Response> {
    let _limit = task::within(TIME_LIMIT);
    let (digest, source) = (file.digest, snapshot.source_of(file));
    if snapshot.blobs == Blobs::Redirect
        && let Some(url) = source.blob_url(digest)?
    {
        return Ok(Response::empty(307, vec![("Location", url)]));
    }
    if is_head {
        let size = file.size.map_or_else(|| source.blob_size(digest), Ok)?;
        return Ok(Response::new(OCTETS, Body::SizeOnly(size)));
    }
    blob::elsewhere_if_wrong(&**source, digest, || {
        let what = what.clone();
        let through = |bytes, _| bytes;
        let (size, blob) =
            blob::open_through(source, digest, file.size, connections, what, through)?;
        begin(blob, size)
    })
}

/// The one layer of an image, which is inspected while it is sent: the download breaks off if the layer has to be
/// flattened.
fn unread_layer(
    snapshots: &Snapshots,
    snapshot: &Snapshot,
    file: &File,
    recipe: &Recipe,
    connections: usize,
    what: String,
) -> Result<Response> {
    let _limit = task::within(TIME_LIMIT);
    let (digest, source) = (file.digest, snapshot.source_of(file));
    blob::elsewhere_if_wrong(&**source, digest, || {
        let through = |bytes, size| -> Box<dyn Read + Send> {
            let to_flatten = snapshots.to_flatten(snapshot, file, recipe);
            Box::new(ScanningReader::new(bytes, size, to_flatten))
        };
        let what = what.clone();
        let (size, blob) =
            blob::open_through(source, digest, file.size, connections, what, through)?;
        begin(blob, size)
    })
}

/// A file in the cache.
fn from_cache(kept: FlattenedFile, digest: Digest, size: u64, what: String) -> Result<Response> {
    let kept: Box<dyn Read + Send> = Box::new(kept);
    begin(Verified::new(kept, what, digest, size)?, size)
}

/// Waits for the first piece of a body, whose size and digest are verified while it is sent.
fn begin(blob: Verified<Box<dyn Read + Send>>, size: u64) -> Result<Response> {
    let blob = Blob::begin(blob, size)?;
    Ok(Response::new(OCTETS, Body::Blob(Box::new(blob))))
}
