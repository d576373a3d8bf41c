//! Notes: hints for the next run that can be lost without harm.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::name::{RepositoryAddress, Tag};

/// The notes of one source. A field that a file lacks is empty, and one that this program does not know is
/// dropped: so fields can be added without a new format. A new one is added to [`Notes::forget_some`], too.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Notes {
    /// Tags whose manifests had no answer. The source is named with its directory here: `SOURCE as NAME`.
    pub unanswered: BTreeMap<Tag, Unanswered>,
    /// Mirrors that gave wrong bytes of a blob or manifest.
    pub wrong_mirrors: WrongMirrors,
    /// The files that were wrong after they were put together by a plan, and the time, in seconds since 1970. They are
    /// fetched whole.
    pub wrong_plans: BTreeMap<Digest, u64>,
    /// The digests of the files in the last listings, by directory. They are noted as tags without an answer are.
    pub listed: BTreeMap<String, Digest>,
    /// The tags for which a warning was logged, with their digests at that time.
    pub warned: BTreeMap<Tag, Digest>,
    /// The newest version of each directory in which it is older than one before. A warning was logged.
    pub fell: BTreeMap<RepositoryAddress, Tag>,
    /// The tags that the schedule of a rollout held back in the last listing. They are noted as tags without an answer
    /// are.
    pub scheduled: BTreeSet<Tag>,
}

/// Mirrors that gave wrong bytes, by digest: their places (`HOST/REPOSITORY`) and the time, in seconds since
/// 1970.
pub type WrongMirrors = BTreeMap<Digest, BTreeMap<String, u64>>;

/// A tag whose manifest had no answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Unanswered {
    /// The number of tries.
    pub tries: u32,
    /// The seconds between the first try and the last, without long pauses.
    pub spread: u64,
    /// The time of the last try, in seconds since 1970.
    pub last: u64,
}

impl Notes {
    /// Forgets the least useful of the kinds of notes that are left. After a few calls nothing is left.
    pub fn forget_some(&mut self) {
        if !self.listed.is_empty() {
            self.listed.clear();
        } else if !self.warned.is_empty() {
            self.warned.clear();
        } else if !self.fell.is_empty() {
            self.fell.clear();
        } else if !self.scheduled.is_empty() {
            self.scheduled.clear();
        } else if !self.wrong_plans.is_empty() {
            self.wrong_plans.clear();
        } else if !self.wrong_mirrors.is_empty() {
            self.wrong_mirrors.clear();
        } else {
            self.unanswered.clear();
        }
    }
}
