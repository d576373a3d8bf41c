//! Artifacts that are attached to a manifest (referrers): by the referrers API, else by the fallback tag.

use super::client::{host_of, is_redirect};
use super::error::nonsense;
use super::pages::{Document, Pages};
use super::status::status_error;
use super::{Registry, url};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::lock::lock;
use crate::manifest::{self, Descriptor, Manifest};
use crate::name::{Host, Tag};
use crate::source::Reference;

/// Most pages, and most bytes of all pages together: a manifest has few referrers.
const MAX_PAGES: usize = 64;
const MAX_SIZE: usize = 16 << 20;
/// Most hosts that are remembered to give a registry's manifests.
const MAX_MANIFEST_HOSTS: usize = 16;

impl Registry {
    pub fn referrers(&self, subject: Digest) -> Result<Vec<Descriptor>> {
        let first = self.url(&format!("referrers/{subject}"))?;
        let mut pages = Pages::new("of what is attached", &first, MAX_PAGES, MAX_SIZE);
        let mut found = Vec::new();
        while let Some(url) = pages.next.take() {
            match self.referrers_at(&url, subject, true) {
                Ok((page, attached)) => {
                    found.extend(attached);
                    pages.turn(&url, &page)?;
                }
                Err(error) if url == first && is_of_no_referrers_api(&error) => {
                    return self.referrers_by_tag(subject);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    fn referrers_by_tag(&self, subject: Digest) -> Result<Vec<Descriptor>> {
        let url = self.manifest_url(Reference::Tag(&Tag::of_referrers(&subject)))?;
        match self.referrers_at(&url, subject, false) {
            Err(Error::Missing { .. }) => Ok(Vec::new()),
            found => found.map(|(_, attached)| attached),
        }
    }

    /// One page. A manifest in place of an index means that there are no referrers: GitLab resolves the fallback tag to the
    /// subject itself.
    fn referrers_at(
        &self,
        url: &str,
        subject: Digest,
        is_api: bool,
    ) -> Result<(Document, Vec<Descriptor>)> {
        let page = match is_api {
            true => self.page_of_api(url, subject)?,
            false => self.document(
                self.get(url).accept(manifest::OCI_INDEX),
                manifest::MAX_SIZE,
            )?,
        };
        let url = url::for_messages(url);
        let missing = |why| {
            let url = format!("{url}, {why}");
            Err(Error::Missing { url })
        };
        if Digest::of(&page.bytes) == subject {
            return missing("it is the manifest itself");
        }
        match Manifest::parse(page.media_type.as_deref(), &page.bytes) {
            Ok(Manifest::Index(index)) => {
                let entries = index.entries.into_iter();
                Ok((page, entries.map(|entry| entry.descriptor).collect()))
            }
            Ok(Manifest::Image(_)) => missing("it is a manifest and no list"),
            Err(_) => Err(nonsense(&url, "no index".into())),
        }
    }

    /// A page of the referrers API. A redirect to another host is followed if the registry redirects requests for
    /// manifests there, too, as registry.k8s.io does. Any other counts as 404: ghcr redirects to a web page, which says
    /// nothing about referrers.
    fn page_of_api(&self, url: &str, subject: Digest) -> Result<Document> {
        let client = &self.upstream.client;
        let mut hosts = lock(&self.manifest_hosts).clone();
        loop {
            let request = self.get(url).accept(manifest::OCI_INDEX).only_to(&hosts);
            let found = self.with_retries(|| {
                let reply = self.ask(request, true)?;
                match reply.status {
                    200 => Document::read(reply, manifest::MAX_SIZE).map(Ok),
                    status if is_redirect(status) => {
                        Ok(Err(host_of(&client.redirect_target(&reply)?.url)?))
                    }
                    _ => Err(status_error(reply)),
                }
            })?;
            let host = match found {
                Ok(page) => return Ok(page),
                Err(host) => host,
            };
            if !self.redirects_manifests_to(&host, subject)? || !hosts.insert(host) {
                let url = url::for_messages(url);
                return Err(Error::Missing { url });
            }
        }
    }

    /// Whether a manifest comes from this other host. Asked for here, so that no answer depends on which requests were
    /// made before: where one manifest comes from says nothing of the others.
    fn redirects_manifests_to(&self, host: &Host, manifest: Digest) -> Result<bool> {
        if lock(&self.manifest_hosts).contains(host) {
            return Ok(true);
        }
        match self.host_of_manifest(manifest) {
            Ok(found) if found == *host => {
                let mut hosts = lock(&self.manifest_hosts);
                if hosts.len() < MAX_MANIFEST_HOSTS {
                    hosts.insert(found);
                }
                Ok(true)
            }
            Ok(_) | Err(Error::Missing { .. }) => Ok(false),
            // It is the answer about a manifest, not that of the referrers API.
            Err(error) if is_of_no_referrers_api(&error) => Err(Error::AttachedUnknown {
                manifest,
                host: host.to_string(),
                error: Box::new(error),
            }),
            Err(error) => Err(error),
        }
    }
}

/// Whether this is the answer of a registry without the referrers API: 404 (docker-registry, crane), 400, 405, 501, or a
/// web page. Other failures say nothing about referrers.
fn is_of_no_referrers_api(error: &Error) -> bool {
    match error {
        Error::Missing { .. } | Error::Nonsense { .. } => true,
        Error::UnexpectedStatus { status, .. } => matches!(status, 400 | 405 | 406 | 410 | 501),
        _ => false,
    }
}
