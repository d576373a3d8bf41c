//! Notes: what is worth knowing in the next run, and can be forgotten without harm.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::name::{RepositoryAddress, Tag};

/// The notes of one source. A field that a file lacks is empty, and one that this program does not know is
/// dropped: so fields can be added without a new format. A new one is added to [`Notes::forget_some`], too.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Notes {
    /// Tags whose manifests were not had. They are noted of a source under the name of a directory: `SOURCE as NAME`.
    pub unanswered: BTreeMap<Tag, Unanswered>,
    /// Mirrors that gave wrong bytes of a blob or manifest.
    pub wrong_mirrors: WrongMirrors,
    /// The digests of the files in the last listings, by directory. They are noted as tags without an answer are.
    pub listed: BTreeMap<String, Digest>,
    /// Of which tags a warning was logged, and what the tag was then.
    pub warned: BTreeMap<Tag, Digest>,
    /// Of each directory whose newest version is older than one before, that version: a warning was logged of it.
    pub fell: BTreeMap<RepositoryAddress, Tag>,
}

/// By what they gave wrong bytes of, the places of mirrors (`HOST/REPOSITORY`), and when that was, in seconds
/// since 1970.
pub type WrongMirrors = BTreeMap<Digest, BTreeMap<String, u64>>;

/// A tag whose manifest was asked for in vain.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Unanswered {
    /// How often it was asked for.
    pub tries: u32,
    /// How many seconds lie between the first try and the last, without long pauses.
    pub spread: u64,
    /// When the last try was, in seconds since 1970.
    pub last: u64,
}

impl Notes {
    /// Forgets what is missed least, of what there is. Nothing is left after some calls.
    pub fn forget_some(&mut self) {
        if !self.listed.is_empty() {
            self.listed.clear();
        } else if !self.warned.is_empty() {
            self.warned.clear();
        } else if !self.fell.is_empty() {
            self.fell.clear();
        } else if !self.wrong_mirrors.is_empty() {
            self.wrong_mirrors.clear();
        } else {
            self.unanswered.clear();
        }
    }
}
