//! The extension-release of a file: what its publisher wrote, and what is inside the image.

use log::{info, warn};

use super::Resolver;
use crate::artifact::{self, Content};
use crate::cache::Flattened;
use crate::digest::Digest;
use crate::dissect;
use crate::error::{Error, Result};
use crate::extension_release::{Metadata, is_document};
use crate::listing::File;
use crate::manifest::{Image, Manifest};
use crate::name::FileName;
use crate::platform::Architecture;
use crate::pool;

impl Resolver<'_> {
    /// The extension-release of a file of this source: by its manifest and what is attached to it, and if
    /// that does not name the host system, by the image itself.
    ///
    /// `is_given_out`: a client gets it. Then signed metadata alone counts where signatures are asked for: ranges of an
    /// image are not verified.
    pub fn metadata(&self, name: &FileName, file: &File, is_given_out: bool) -> Result<Metadata> {
        // Nobody waits for a place who holds documents.
        let place = self.place(|| format!("what is said of {name}"))?;
        let _documents = pool::documents();
        let manifest = file
            .manifest
            .map(|digest| Ok((digest, self.named(digest)?)));
        let image = match manifest.transpose()? {
            Some((digest, Manifest::Image(image))) => Some((digest, image)),
            _ => None,
        };
        let mut found = match &image {
            Some((manifest, image)) => self.published(file, *manifest, image)?,
            None => Metadata::default(),
        };
        drop(place);
        let is_known = found.has_id() && found.has_version();
        let may_look_inside = !is_given_out || file.accepted.is_none();
        if !is_known && may_look_inside && !matches!(file.content, Content::Text(_)) {
            match self.inside(name, file) {
                Ok(inside) => found.merge(inside),
                Err(error @ Error::BadImage { .. }) if found.has_id() => warn!("{}", error.line()),
                Err(error) => return Err(error),
            }
        }
        let Some((_, image)) = image else {
            return Ok(found);
        };
        let tag = file.tag.as_str();
        // Strip the architecture from the tag.
        let (in_name, _) = Architecture::at_end_of(tag).unzip();
        let version = artifact::version(&image.annotations).or(in_name);
        found.add("SYSEXT_VERSION_ID", version.unwrap_or(tag));
        // The config is fetched only if nothing else names the architecture.
        let architecture = match file.architecture {
            None if !found.has_architecture() => self.architecture_of(&image)?,
            known => known,
        };
        if let Some(architecture) = architecture {
            found.add("ARCHITECTURE", architecture.as_str());
        }
        Ok(found)
    }

    /// The fields that a publisher wrote about a file: in documents, then in annotations.
    fn published(&self, file: &File, manifest: Digest, image: &Image) -> Result<Metadata> {
        let mut found = Metadata::default();
        let mut read = |image: &Image| {
            for layer in image.layers.iter().filter(|layer| is_document(layer)) {
                found.merge(Metadata::of_document(&self.small_blob("document", layer)?));
            }
            Ok(())
        };
        read(image)?;
        for reason in self.attached(manifest, |_, attached, _| read(&attached))? {
            info!("{}: {reason}", self.source.name());
        }
        let mut layers = image.layers.iter();
        let own = layers.find(|layer| layer.digest == file.digest);
        if let Some(layer) = own {
            found.merge(Metadata::of_annotations(&layer.annotations));
        }
        found.merge(Metadata::of_annotations(&image.annotations));
        Ok(found)
    }

    /// Fails if the repository no longer holds a file of an earlier listing.
    pub fn show(&self, file: &File) -> Result<()> {
        let (what, digest, is_held) = match file.manifest {
            Some(manifest) => ("manifest", manifest, self.source.holds_manifest(manifest)?),
            None => ("blob", file.digest, self.source.holds(file.digest)?),
        };
        is_held
            .then_some(())
            .ok_or_else(|| self.missing(what, digest))
    }

    /// The extension-release in the image.
    fn inside(&self, name: &FileName, file: &File) -> Result<Metadata> {
        let size = match file.size {
            Some(size) => size,
            None => self.source.blob_size(file.digest)?,
        };
        let (digest, source) = (file.digest, self.source);
        match &file.content {
            Content::Flattened { recipe, .. } if !recipe.is_layer(digest) => {
                let what = format!("{}:{}", source.name(), file.tag);
                let made = Flattened { digest, size };
                let open = || (self.flattener).open(&what, source, recipe, made);
                let origin = dissect::Flattened {
                    name: format!("image {what}"),
                    source: source.name(),
                    open,
                };
                dissect::metadata(&origin, digest, size, self.cache, name)
            }
            _ => {
                let source = &**source;
                // The kept metadata may be of a mirror that gave wrong bytes later.
                let cache = self.cache.filter(|_| source.wrong_places(digest) == 0);
                let origin = dissect::Blob {
                    source,
                    digest,
                    size,
                };
                dissect::metadata(&origin, digest, size, cache, name)
            }
        }
    }
}
