//! Small documents of a registry, and lists that come in pages.

use std::collections::HashSet;

use super::error::nonsense;
use super::reply::Reply;
use super::request::Request;
use super::url::next_page;
use super::{Registry, refuse_encoding};
use crate::digest::Digest;
use crate::error::Result;

/// A small document, with its headers.
pub struct Document {
    pub links: Vec<String>,
    pub media_type: Option<String>,
    pub bytes: Vec<u8>,
}

impl Document {
    /// Reads a response of at most `limit` bytes.
    pub fn read(reply: Reply, limit: u64) -> Result<Self> {
        refuse_encoding(&reply)?;
        Ok(Self {
            links: reply.all("link").map(str::to_owned).collect(),
            media_type: reply.header("content-type").map(str::to_owned),
            bytes: reply.read(limit)?,
        })
    }
}

impl Registry {
    pub fn document(&self, request: Request<'_>, limit: u64) -> Result<Document> {
        self.with_retries(|| Document::read(self.fetch_once(request)?, limit))
    }
}

/// The pages of a list, followed by their links. Pages and bytes are bounded, whatever the links are.
pub struct Pages<'a> {
    /// The kind of items in the list, for messages.
    what: &'static str,
    first: &'a str,
    max_pages: usize,
    max_size: usize,
    /// The page to read now.
    pub next: Option<String>,
    /// The digests of the URLs of the pages that were read. The URLs themselves may be long.
    seen: HashSet<Digest>,
    /// How many pages were read, and their bytes.
    count: usize,
    size: usize,
}

impl<'a> Pages<'a> {
    pub fn new(what: &'static str, first: &'a str, max_pages: usize, max_size: usize) -> Self {
        Self {
            what,
            first,
            max_pages,
            max_size,
            next: Some(first.to_owned()),
            seen: HashSet::new(),
            count: 0,
            size: 0,
        }
    }

    /// Begins again, with another URL for the list.
    pub fn start(&mut self, url: &str) {
        self.seen.clear();
        self.next = Some(url.to_owned());
    }

    /// Goes on from a page that was read. The result is true if its link leads back to a page that was read.
    pub fn turn(&mut self, url: &str, page: &Document) -> Result<bool> {
        self.size += page.bytes.len();
        self.count += 1;
        self.seen.insert(Digest::of(url.as_bytes()));
        let next = next_page(url, page.links.iter().map(String::as_str));
        let is_seen = |next: &String| self.seen.contains(&Digest::of(next.as_bytes()));
        let leads_back = next.as_ref().is_some_and(is_seen);
        self.next = next.filter(|_| !leads_back);
        let count = self.count;
        if self.next.is_some() && (count == self.max_pages || self.size > self.max_size) {
            let why = format!(
                "the list {} does not end, {count} pages were read",
                self.what
            );
            return Err(nonsense(self.first, why));
        }
        Ok(leads_back)
    }
}
