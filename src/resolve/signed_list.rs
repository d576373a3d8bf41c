//! A publisher's own list of the repository's files, `SHA256SUMS`, and its signatures.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use log::debug;

use super::tags::skipped_by_name;
use super::{Contents, Resolver, Trust};
use crate::address::LISTING;
use crate::artifact::Skipped;
use crate::digest::Digest;
use crate::error::{Error, Finding, Result};
use crate::listing::{LeftOut, PublisherList};
use crate::manifest::{Descriptor, Image, Manifest};
use crate::memory::Kept;
use crate::name::Tag;
use crate::settings::SignedListTag;
use crate::state::{Promises, SignedList};
use crate::trust::Accepted;
use crate::version;

/// Largest list that a publisher signed, so that it fits into the memory for all listings. sysupdate takes 64 MiB.
const MAX_SIGNED_LIST: u64 = 60 << 20;
/// Largest signature of one.
const MAX_SIGNATURE: u64 = 1 << 20;
/// The signatures that any systemd asks for.
const SIGNATURES: [&str; 4] = [
    "SHA256SUMS.sha256.asc",
    "SHA256SUMS.sha256.gpg",
    "SHA256SUMS.asc",
    "SHA256SUMS.gpg",
];

/// A publisher's list with its signatures, byte for byte, of one artifact. All clients share them.
pub struct Signed {
    /// `SHA256SUMS`
    pub list: Arc<PublisherList>,
    /// By name: `SHA256SUMS.gpg`, …
    pub signatures: BTreeMap<String, Arc<Kept>>,
    /// The signatures by which the artifact was accepted, if the settings ask for any.
    pub accepted: Option<Arc<Accepted>>,
}

/// An artifact with a list in it.
struct WithList {
    digest: Digest,
    image: Image,
    list: Descriptor,
}

/// The list that was found before, as long as it is in memory. It is not fetched again.
#[derive(Clone, Default)]
pub struct SignedBefore(Option<(Digest, Weak<PublisherList>)>);

impl SignedBefore {
    /// This one.
    pub fn new(list: &Arc<PublisherList>) -> Self {
        Self(Some((list.digest(), Arc::downgrade(list))))
    }

    fn get(&self, digest: Digest) -> Option<Arc<PublisherList>> {
        let (before, list) = self.0.as_ref()?;
        list.upgrade().filter(|_| *before == digest)
    }
}

impl Resolver<'_> {
    /// The listing of the repository: its publisher's own list if there is one, else its files.
    ///
    /// A signed list has any number of versions for three requests, so it is asked for before the
    /// tags, which take a request for every thousand. Not so if the tags are known from an earlier listing and it
    /// was not among them.
    ///
    /// A repository that is known to have one is never listed by its tags instead.
    pub fn contents(&self) -> Result<Contents> {
        let name = self.source.name();
        if *self.signed_list == SignedListTag::Nowhere {
            return self.list().map(Contents::Files);
        }
        let known = self.known_tags();
        let promised = self.promised_list(&self.state.promises(&name)?);
        let (tag, is_certain) = match (self.signed_list, &promised) {
            (SignedListTag::Tag(tag), _) => (tag.clone(), true),
            (_, Some(promised)) => (promised.tag.clone(), true),
            _ => (Tag::of_listing(), false),
        };
        let before = known.get(&tag).copied();
        let lists_tags = !is_certain && before.is_none();
        let ahead = lists_tags.then(|| self.expect(&known)).flatten();
        if is_certain || known.is_empty() || before.is_some() {
            match self.artifact_with_list(&tag, before) {
                Ok(Some(found)) => return self.publisher_list(tag, before, &found, promised),
                Ok(None) => {}
                // Some registries refuse, or answer oddly, for what they do not have: the tags will tell.
                Err(error)
                    if !is_certain
                        && (error.finding() == Finding::Answer
                            || matches!(
                                error,
                                Error::Denied { .. } | Error::UnexpectedStatus { .. }
                            )) =>
                {
                    debug!("{name}: no signed list: {}", error.line());
                }
                // The tags would fail for the same reason, after the same wait.
                Err(error) => return Err(error),
            }
        }
        if let SignedListTag::Tag(tag) = self.signed_list {
            let why = format!("has no {LISTING} in tag {tag}, which the setting signed-list names");
            return Err(Error::NoSignedList { source: name, why });
        }
        let tags = self.tags_with(ahead.as_ref())?;
        for (tag, may_be_a_version) in [(Tag::of_listing(), false), (Tag::of_index(), true)] {
            if !tags.contains(&tag) {
                continue;
            }
            let before = known.get(&tag).copied();
            match self.artifact_with_list(&tag, before) {
                Ok(Some(found)) => return self.publisher_list(tag, before, &found, promised),
                Ok(None) => {}
                Err(error) if may_be_a_version && error.finding() == Finding::Answer => {}
                Err(error) => return Err(error),
            }
        }
        match promised {
            None => self.list_tags(tags, &known).map(Contents::Files),
            Some(SignedList { tag, .. }) => Err(Error::NoSignedList {
                source: name,
                why: format!("has none in tag {tag}"),
            }),
        }
    }

    /// The tags whose versions its publisher's list lacks. If they cannot be had, the reason stands for them.
    pub fn not_in_list(&self, list: &PublisherList) -> Vec<LeftOut> {
        let tags = match self.tags() {
            Ok(tags) => tags,
            Err(error) => {
                let why = format!("the tags that may not be in the list: {}", error.line());
                return vec![LeftOut::new(&Tag::of_listing(), Skipped::unanswered(why))];
            }
        };
        let is_of_list = |tag: &Tag| match self.signed_list {
            SignedListTag::Tag(set) => tag == set,
            _ => *tag == Tag::of_listing() || *tag == Tag::of_index(),
        };
        let mut lacking = BTreeMap::<_, Vec<_>>::new();
        for tag in tags.iter().filter(|tag| !is_of_list(tag)) {
            let version = version::comparable(tag.as_str());
            lacking.entry(version).or_default().push(tag);
        }
        for (name, _) in list.files(None) {
            if let (Some(version), _) = version::of_name(&name, self.naming.base) {
                lacking.remove(&version::comparable(version));
            }
        }
        let why = |tag| {
            let usual = "the list that its publisher signed has no file of this version";
            Skipped::whole(skipped_by_name(tag).unwrap_or(usual))
        };
        let lacking = lacking.into_values().flatten();
        lacking.map(|tag| LeftOut::new(tag, why(tag))).collect()
    }

    /// The list that this name of the source is known to have. One in a tag that a setting names is none of the
    /// source's other names.
    fn promised_list(&self, promises: &Promises) -> Option<SignedList> {
        let own = promises.signed_as.get(self.address);
        let usual = match self.signed_list {
            SignedListTag::Tag(_) => None,
            _ => promises.signed.as_ref(),
        };
        own.or(usual).cloned()
    }

    /// The list in an artifact, which from now on the source is known to have. If it cannot be had, that does not mean
    /// that there is none.
    fn publisher_list(
        &self,
        tag: Tag,
        before: Option<Digest>,
        artifact: &WithList,
        promised: Option<SignedList>,
    ) -> Result<Contents> {
        let source = self.source.name();
        // Its layers are covered by that, and so are the list and every digest in it.
        let accepted = match self.trust(artifact.digest, Some(&tag))? {
            Trust::NotAsked => None,
            Trust::Accepted(accepted) => Some(accepted),
            Trust::Refused(why) => return Err(Error::ListRefused { source, tag, why }),
        };
        let signed = self.signed(&tag, artifact, accepted)?;
        if before != Some(artifact.digest)
            && self.source.tags_are_its_own()
            && let Some(cache) = self.cache
        {
            let learnt = BTreeMap::from([(tag.clone(), artifact.digest)]);
            cache.learn_tags(&source, &learnt, |_| false);
        }
        let has_signature = !signed.signatures.is_empty();
        let had_signature = promised.as_ref().is_some_and(|list| list.has_signature);
        if had_signature && !has_signature {
            let why = format!("has one without a signature in tag {tag}");
            return Err(Error::NoSignedList { source, why });
        }
        let list = SignedList { tag, has_signature };
        if promised.as_ref() != Some(&list) && self.source.tags_are_its_own() {
            let is_named = matches!(self.signed_list, SignedListTag::Tag(_));
            self.state.promise(&source, |promises| {
                if is_named || promises.signed_as.contains_key(self.address) {
                    promises.signed_as.insert(self.address.clone(), list);
                } else {
                    promises.signed = Some(list);
                }
            })?;
        }
        Ok(Contents::Signed(signed))
    }

    /// The artifact with this tag, if there is a list in it.
    fn artifact_with_list(&self, tag: &Tag, before: Option<Digest>) -> Result<Option<WithList>> {
        match self.by_tag_now(tag, before) {
            Ok((digest, Manifest::Image(image))) => {
                let list = titled(&image, LISTING).filter(|list| list.size > 0);
                let list = list.cloned();
                Ok(list.map(|list| WithList {
                    digest,
                    image,
                    list,
                }))
            }
            Ok(_) | Err(Error::Missing { .. } | Error::NotOffered { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn signed(
        &self,
        tag: &Tag,
        artifact: &WithList,
        accepted: Option<Arc<Accepted>>,
    ) -> Result<Signed> {
        let WithList { image, list, .. } = artifact;
        let check = |title: &str, layer: &Descriptor, limit| match layer.size {
            size if size > limit => Err(Error::BadManifest {
                what: format!("tag {tag}"),
                why: format!("{title} has {size} bytes, at most {limit} are taken"),
            }),
            _ => Ok(()),
        };
        check(LISTING, list, MAX_SIGNED_LIST)?;
        let source = self.source.name();
        let known = self.signed_before.get(list.digest);
        let list = match known.filter(|known| known.bytes().len() as u64 == list.size) {
            Some(known) => known,
            None => {
                let what = format!("the signed list of {source}");
                let held = self.room.hold(&what, PublisherList::weight(list.size))?;
                let bytes = self.small_blob("signed list", list)?;
                Arc::new(PublisherList::new(list.digest, bytes, Some(held)))
            }
        };
        let mut signatures = BTreeMap::new();
        for title in SIGNATURES {
            let Some(layer) = titled(image, title) else {
                continue;
            };
            check(title, layer, MAX_SIGNATURE)?;
            let what = format!("a signature of {source}");
            let size = usize::try_from(layer.size).unwrap_or(usize::MAX);
            let held = self.room.hold(&what, size)?;
            let bytes = self.small_blob("signature", layer)?;
            signatures.insert(title.to_owned(), Arc::new(Kept::new(bytes, held)));
        }
        Ok(Signed {
            list,
            signatures,
            accepted,
        })
    }
}

/// The last layer with this title.
fn titled<'a>(image: &'a Image, title: &str) -> Option<&'a Descriptor> {
    let mut layers = image.layers.iter().rev();
    layers.find(|layer| layer.title() == Some(title))
}
