//! The tags of a registry's repository.

use std::collections::BTreeSet;
use std::fmt;

use log::debug;
use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Registry;
use super::error::nonsense;
use super::pages::{Document, Pages};
use super::url::{is_broken_link, with_query_of};
use crate::error::{Error, Result};
use crate::name::Tag;
use crate::pool;

/// Tags requested in one page. ECR refuses more than 1000.
const PAGE: usize = 1000;
/// Most pages that are followed. The links of a registry may form a circle.
const MAX_PAGES: usize = 1000;
/// Largest page, in bytes. 1000 tags of the greatest length take 131 kB.
const MAX_PAGE_SIZE: u64 = 8 << 20;
/// Most bytes of all pages together.
const MAX_LIST_SIZE: usize = 64 << 20;
/// Memory of a tag while a listing is made, besides its name, in bytes: its entries in several tables.
const OF_TAG: usize = 192;
/// Most tags of a repository. More could not be resolved in the time for a listing.
const MAX_TAGS: usize = 100_000;

impl Registry {
    /// All tags: by pages, or if those fail by the list without pages.
    pub fn tags(&self) -> Result<Vec<Tag>> {
        let paged = self.url(&format!("tags/list?n={PAGE}"))?;
        let whole = self.url("tags/list")?;
        let mut pages = Pages::new("of tags", &paged, MAX_PAGES, MAX_LIST_SIZE);
        let (mut tags, lost) = self.tags_from(&paged, true, &mut pages, &BTreeSet::new())?;
        if let Some(why) = lost {
            debug!("asking for the list of tags without pages{why}");
            pages.start(&whole);
            let (more, lost) = self.tags_from(&paged, false, &mut pages, &tags)?;
            if let Some(why) = lost {
                let lost = "the list of tags goes on at a page that cannot be found";
                return Err(nonsense(&whole, format!("{lost}{why}")));
            }
            // The tags of the pages that were read count, too.
            tags.extend(more);
        }
        Ok(tags.into_iter().collect())
    }

    /// The tags of all pages, and the reason if there may be more. `paged`: the URL of the first page of the list with
    /// pages.
    fn tags_from(
        &self,
        paged: &str,
        is_paged: bool,
        pages: &mut Pages<'_>,
        before: &BTreeSet<Tag>,
    ) -> Result<(BTreeSet<Tag>, Option<String>)> {
        let mut tags = BTreeSet::new();
        let mut is_first = true;
        while let Some(url) = pages.next.take() {
            let page = pool::with_documents(
                || format!("the tags of {}", self.session.name()),
                || {
                    let page = self.page_of_tags(&url, paged);
                    let new = page.iter().flat_map(|(_, page)| &page.tags);
                    let new = new.filter(|tag| !tags.contains(*tag) && !before.contains(*tag));
                    let (number, bytes) = new.fold((0, 0), |(number, bytes), tag| {
                        (number + 1, bytes + tag.as_str().len() + OF_TAG)
                    });
                    // So many are refused below.
                    let is_too_many = tags.len() + number > MAX_TAGS;
                    (page, if is_too_many { 0 } else { bytes })
                },
            );
            let (document, page) = match page.and_then(|page| page) {
                Ok(page) => page,
                // Some registries refuse n, or a large n, and some link to a page that does not exist.
                Err(error) if (is_paged || !is_first) && is_of_the_page(&error, is_first) => {
                    return Ok((tags, Some(format!(": {}", error.line()))));
                }
                Err(error) => return Err(error),
            };
            let known = tags.len();
            tags.extend(page.tags);
            if tags.len() > MAX_TAGS {
                let why = format!("more than {MAX_TAGS} tags, the limit for a listing");
                return Err(nonsense(&url, why));
            }
            // Some registries cut the list at n without a link to the next page: a page with exactly n tags may not be the
            // last. A link that cannot be parsed may lead to more, too.
            let is_full = is_paged && is_first && document.links.is_empty() && page.entries == PAGE;
            let may_be_cut = is_full || document.links.iter().any(|link| is_broken_link(link));
            // Others end a list by a link back from a page without new tags.
            let leads_back = pages.turn(&url, &document)? && tags.len() > known;
            if may_be_cut || leads_back {
                return Ok((tags, Some(String::new())));
            }
            is_first = false;
        }
        Ok((tags, None))
    }

    /// One page. Gateways rewrite paths, but not the links in responses. If the path of a link fails, the path of the first
    /// page is used, with the query of the link.
    fn page_of_tags(&self, url: &str, paged: &str) -> Result<(Document, Tags)> {
        let fetch = |url: &str| {
            let request = self.get(url).accept("application/json");
            let document = self.document(request, MAX_PAGE_SIZE)?;
            let page = parse_tags(&document.bytes).map_err(|why| nonsense(url, why))?;
            Ok((document, page))
        };
        let found = fetch(url);
        let by_own_path = with_query_of(paged, url);
        match found {
            found if by_own_path == url => found,
            Ok(page) if page.1.entries > 0 => Ok(page),
            Err(error) if !is_of_the_page(&error, false) => Err(error),
            _ => fetch(&by_own_path),
        }
    }
}

/// Whether an error concerns this page, not the whole list or the registry. For the first page only its parameters can
/// be wrong.
fn is_of_the_page(error: &Error, is_first: bool) -> bool {
    match error {
        Error::Nonsense { .. } | Error::UnexpectedStatus { .. } => true,
        Error::Missing { .. }
        | Error::Denied { .. }
        | Error::NoLogin { .. }
        | Error::LoginRefused { .. }
        | Error::Failing { .. } => !is_first,
        _ => false,
    }
}

/// A list of tags as registries send it: `null` for an empty one (docker-registry 2.8).
#[derive(Deserialize)]
struct TagList {
    tags: Option<Tags>,
}

/// The tags of a page, each once. Other entries take no memory.
#[derive(Default)]
pub struct Tags {
    pub tags: BTreeSet<Tag>,
    /// The number of entries, including unusable ones: null (Nexus), digests (Artifactory).
    entries: usize,
}

impl<'de> Deserialize<'de> for Tags {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(TagsVisitor)
    }
}

struct TagsVisitor;

impl<'de> Visitor<'de> for TagsVisitor {
    type Value = Tags;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Tags, A::Error> {
        let mut found = Tags::default();
        while let Some(entry) = entries.next_element::<&RawValue>()? {
            found.entries += 1;
            let text: Option<String> = serde_json::from_str(entry.get()).ok();
            match text.map(|text| text.parse()) {
                Some(Ok(tag)) => drop(found.tags.insert(tag)),
                _ => debug!("{entry} in the list of tags is not a tag"),
            }
        }
        Ok(found)
    }
}

/// Parses a page.
pub fn parse_tags(json: &[u8]) -> Result<Tags, String> {
    let list: TagList =
        serde_json::from_slice(json).map_err(|error| format!("not a list of tags: {error}"))?;
    Ok(list.tags.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_t7_t8_and_t10_a_list_of_tags_keeps_its_tags() {
        let tags = |json: &str| -> Vec<String> {
            let found = parse_tags(json.as_bytes()).unwrap();
            found.tags.iter().map(Tag::to_string).collect()
        };
        assert_eq!(tags(r#"{"name":"a","tags":["v1","v2"]}"#), ["v1", "v2"]);
        assert_eq!(tags(r#"{"tags":null,"child":[],"manifest":{}}"#), [""; 0]);
        assert_eq!(tags("{}"), [""; 0]);
        assert_eq!(
            tags(r#"{"tags":["v1",null,"-ot-beta","sha512:00",7]}"#),
            ["v1"]
        );
        assert!(parse_tags(b"<html>").is_err());
    }
}
