//! Promises: facts about a source that must stay true, even if the cache is deleted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::name::{RepositoryAddress, Tag};

/// The promises of one source. A field that a file lacks is empty. An unknown field is an error, because it comes from a
/// newer version: a promise that is not understood must not be dropped.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Promises {
    /// The digest that each tag had when it was first seen under `immutable-tags`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: BTreeMap<Tag, Digest>,
    /// The publisher's list, if the source ever had one in one of the usual tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedList>,
    /// Lists in tags that the setting `signed-list` names, by the directory that it is set for. Another directory of the
    /// same source may have another list, or none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub signed_as: BTreeMap<RepositoryAddress, SignedList>,
    /// The newest version ever offered, by directory: another directory of the same source may have other settings.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub newest: BTreeMap<RepositoryAddress, Tag>,
    /// When the source itself answered first on the last day on which it did, in seconds since 1970, under
    /// `best-before-days`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answered: Option<i64>,
}

/// A list that a publisher wrote.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignedList {
    /// The tag of the artifact that it is in.
    pub tag: Tag,
    /// Whether there was a signature beside it.
    pub has_signature: bool,
}
