//! What a file says of itself.

use log::{info, warn};

use super::Resolver;
use crate::artifact::{self, Content};
use crate::cache::Made;
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
    /// What a file of this source says of itself: by its manifest and what is attached to it, and where
    /// that leaves open what it is for, by what is inside it.
    pub fn metadata(&self, name: &FileName, file: &File) -> Result<Metadata> {
        // Nobody waits for a place who holds documents.
        let place = self.place(|| format!("what is said of {name}"))?;
        let _documents = pool::documents();
        let image = match file.manifest {
            Some(manifest) => match self.named(manifest)? {
                Manifest::Image(image) => Some((manifest, image)),
                Manifest::Index(_) => None,
            },
            None => None,
        };
        let mut found = Metadata::default();
        if let Some((manifest, image)) = &image {
            found = self.published(file, *manifest, image)?;
        }
        drop(place);
        let is_known = found.has_id() && found.has_version();
        let is_text = matches!(file.content, Content::Text(_));
        if !is_known && !is_text {
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
        // What a machine a tag is for is no part of its version.
        let (in_name, _) = Architecture::at_end_of(tag).unzip();
        let version = artifact::version(&image.annotations).or(in_name);
        found.add("SYSEXT_VERSION_ID", version.unwrap_or(tag));
        // Its config is fetched only if nothing else says it.
        let architecture = match file.architecture {
            None if !found.has_architecture() => self.architecture_of(&image)?,
            known => known,
        };
        if let Some(architecture) = architecture {
            found.add("ARCHITECTURE", architecture.as_str());
        }
        Ok(found)
    }

    /// What a publisher says of a file: in documents, then in annotations.
    fn published(&self, file: &File, manifest: Digest, image: &Image) -> Result<Metadata> {
        let mut found = Metadata::default();
        let mut read = |image: &Image| {
            for layer in image.layers.iter().filter(|layer| is_document(layer)) {
                found.merge(Metadata::of_document(&self.small_blob("document", layer)?));
            }
            Ok(())
        };
        read(image)?;
        for reason in self.attached(manifest, |_, attached| read(&attached))? {
            info!("{}: {reason}", self.source.name());
        }
        let own = image
            .layers
            .iter()
            .find(|layer| layer.digest == file.digest);
        if let Some(layer) = own {
            found.merge(Metadata::of_annotations(&layer.annotations));
        }
        found.merge(Metadata::of_annotations(&image.annotations));
        Ok(found)
    }

    /// Has the repository show that it still holds what an earlier listing has as this file.
    pub fn show(&self, file: &File) -> Result<()> {
        let (what, digest, is_held) = match file.manifest {
            Some(manifest) => ("manifest", manifest, self.source.holds_manifest(manifest)?),
            None => ("blob", file.digest, self.source.holds(file.digest)?),
        };
        if is_held {
            Ok(())
        } else {
            Err(self.missing(what, digest))
        }
    }

    fn inside(&self, name: &FileName, file: &File) -> Result<Metadata> {
        let size = match file.size {
            Some(size) => size,
            None => self.source.blob_size(file.digest)?,
        };
        let (digest, source) = (file.digest, self.source);
        match &file.content {
            Content::Made(recipe) if !recipe.is_layer(digest) => {
                let what = format!("{}:{}", source.name(), file.tag);
                let made = Made { digest, size };
                let open = || (self.workshop).open(&what, source, recipe, made);
                let origin = dissect::Made {
                    name: format!("image {what}"),
                    source: source.name(),
                    open,
                };
                dissect::metadata(&origin, digest, size, self.cache, name)
            }
            _ => {
                let source = &**source;
                // What is kept may have been read at a mirror that gave wrong bytes of it later.
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
