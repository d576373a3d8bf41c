//! Manifests of a registry, by tag or digest.

use std::sync::atomic::Ordering::Relaxed;

use super::client::host_of;
use super::pages::Document;
use super::{Registry, is_of_the_method};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest;
use crate::name::{Host, Tag};
use crate::source::{Download, Reference, StoredManifest};

impl Registry {
    /// The digest of a tag, if HEAD tells it. Where it did not for another tag, it is not asked.
    pub fn digest_of(&self, tag: &Tag) -> Result<Option<Digest>> {
        if self.hides_digests.load(Relaxed) {
            return Ok(None);
        }
        let url = self.manifest_url(Reference::Tag(tag))?;
        let accept = manifest::ACCEPT.join(", ");
        match self.fetch(self.get(&url).head().accept(&accept)) {
            // ECR, Red Hat's registry and Nexus send no such header. A sha512 is not used.
            Ok(reply) => {
                let digest = reply.header("docker-content-digest");
                self.hides_digests.fetch_or(digest.is_none(), Relaxed);
                Ok(digest.and_then(|digest| digest.parse().ok()))
            }
            // Some do not support HEAD, or deny only HEAD: GET gets the manifest, or a reason.
            Err(Error::Denied { .. } | Error::UnexpectedStatus { .. } | Error::Nonsense { .. }) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A manifest as it is stored. If it is asked for by digest, its digest is checked ([`Error::WrongBytes`]).
    pub fn manifest(&self, reference: Reference<'_>) -> Result<StoredManifest> {
        let url = self.manifest_url(reference)?;
        let accept = manifest::ACCEPT.join(", ");
        let Document {
            bytes, media_type, ..
        } = self.document(self.get(&url).accept(&accept), manifest::MAX_SIZE)?;
        let stored = StoredManifest { bytes, media_type };
        match reference {
            Reference::Tag(_) => Ok(stored),
            Reference::Digest(digest) => {
                stored.verified(digest, || format!("manifest {digest} at {}", self.host()))
            }
        }
    }

    /// Shows that the registry has the manifest; [`Error::Missing`] if it does not.
    pub fn show_manifest(&self, digest: Digest) -> Result<()> {
        let url = self.manifest_url(Reference::Digest(digest))?;
        let accept = manifest::ACCEPT.join(", ");
        match self.fetch(self.get(&url).head().accept(&accept)) {
            Err(error) if is_of_the_method(&error) => {
                self.manifest(Reference::Digest(digest)).map(drop)
            }
            shown => shown.map(drop),
        }
    }

    /// The host that a manifest comes from: this one, or the one to which it redirects.
    pub fn host_of_manifest(&self, digest: Digest) -> Result<Host> {
        let url = self.manifest_url(Reference::Digest(digest))?;
        let accept = manifest::ACCEPT.join(", ");
        let request = self.get(&url).accept(&accept);
        let reply = match self.fetch(request.head()) {
            // The answer to HEAD alone decides nothing: some registries have 404 for it.
            Err(error) if is_of_the_method(&error) || matches!(error, Error::Missing { .. }) => {
                self.fetch(request)?
            }
            reply => reply?,
        };
        host_of(&reply.asked)
    }

    pub fn manifest_request(&self, reference: Reference<'_>, media_type: &str) -> Result<Download> {
        self.download(self.manifest_url(reference)?, Some(media_type))
    }
}
