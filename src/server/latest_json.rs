//! `latest.json` of a KubeSolo OS release, with URLs that lead back to this service.

use crate::address::{self, Located, View};
use crate::artifact::kubesolo::Release;
use crate::digest::Digest;
use crate::error::Result;
use crate::listing::{File, Listing};
use crate::snapshot::{Snapshot, Snapshots};

/// The name that older clients of KubeSolo OS ask for.
pub const NAME: &str = "latest.json";
/// Most reasons that [`why_none`] gives.
const MAX_REASONS: usize = 3;

/// `latest.json` of a directory, if that is a release. Its URLs are pinned by the digest of the manifest, or of the index
/// that is signed in its place: the tag may move before the client fetches the files. `host` is the host that the client
/// asked.
pub fn write(
    snapshots: &Snapshots,
    located: &Located,
    snapshot: &Snapshot,
    host: Option<&str>,
) -> Result<Option<String>> {
    let Some(release) = &snapshot.kubesolo else {
        return Ok(None);
    };
    let Some(digest) = pin(release, snapshot.listing.files.values()) else {
        return Ok(None);
    };
    let pinned = located.with_view(View::Digest(digest));
    // A file without a title has another name there.
    let files = &snapshots.listing(&pinned)?.listing.files;
    let host = host.unwrap_or("localhost:5001");
    let own = format!("{}-", located.directory.repository.repository.base());
    let url_of = |digest| {
        // Its title, which older clients know, rather than the name with the version.
        let (name, _) = files
            .iter()
            .filter(|(_, file)| file.digest == digest)
            .min_by_key(|(name, _)| name.as_str().starts_with(&own))?;
        Some(format!("http://{host}/{pinned}/{}", address::in_url(name)))
    };
    let label = match &located.directory.view {
        View::Tag(tag) => tag.as_str(),
        View::Tags | View::All | View::Digest(_) => "",
    };
    Ok(release.latest_json(label, url_of))
}

/// The manifest that offers both files of a release, or the index by whose signature they are accepted.
fn pin<'a>(release: &Release, files: impl Iterator<Item = &'a File> + Clone) -> Option<Digest> {
    let offering = |digest| files.clone().filter(move |file| file.digest == digest);
    let [kernel, initramfs] = release.files();
    let file = offering(kernel).find(|file| {
        let mut others = offering(initramfs).map(|other| other.manifest);
        file.manifest.is_some() && others.any(|other| other == file.manifest)
    })?;
    let accepted = file.accepted.as_ref().map(|accepted| accepted.manifest);
    accepted.or(file.manifest)
}

/// Why a directory is no release: the reasons why its artifact is skipped, if there are any.
pub fn why_none(view: &View, listing: &Listing) -> String {
    let of_artifact = listing.left_out.iter().filter(|one| one.layer.is_none());
    let of_artifact = of_artifact.filter(|_| !view.is_of_tags());
    let reasons = of_artifact.map(|one| one.reason.as_str());
    let told: Vec<_> = reasons.take(MAX_REASONS).collect();
    if told.is_empty() {
        return "only a KubeSolo OS release has it, as in /<repository>:<tag>/latest.json".into();
    }
    told.join("; ")
}
