//! Versions that a schedule of their publisher holds back on this machine. See `rollout.rs`.

use std::collections::BTreeMap;
use std::mem;
use std::path::Path;

use jiff::Timestamp;

use super::Resolver;
use super::tags::TagOutcome;
use crate::artifact::Skipped;
use crate::listing::{Artifact, LeftOut, Listing};
use crate::machine_id::MachineId;
use crate::name::Tag;
use crate::rollout::{Rollout, RolloutSetting};

impl Resolver<'_> {
    /// Leaves out the artifacts whose turn has not come, before any of them is flattened: a rollout that is stopped early
    /// costs the other machines nothing.
    pub fn hold_back(&self, by_tag: &mut BTreeMap<&Tag, TagOutcome>, listing: &mut Listing) {
        let Some(setting) = self.rollout else { return };
        let has_schedule = |outcome: &TagOutcome| match outcome {
            TagOutcome::Offered(artifacts) => artifacts.iter().any(|one| one.schedule.is_some()),
            _ => false,
        };
        if !by_tag.values().any(has_schedule) {
            return;
        }
        let rollout = self.part_in_rollouts(setting);
        // One moment for all of them.
        let now = Timestamp::now();
        for (tag, outcome) in by_tag {
            if let TagOutcome::Offered(artifacts) = outcome {
                let why_not = |artifact: &Artifact| rollout.why_not(&artifact.schedule, tag, now);
                for left_out in hold_back(tag, artifacts, why_not) {
                    listing.leave_out(left_out);
                }
            }
        }
    }

    /// The part of this machine in the rollouts of the repository.
    pub fn part_in_rollouts(&self, setting: RolloutSetting) -> Rollout {
        Rollout {
            setting,
            source: self.source_in_rollouts(),
            machine: MachineId::read(Path::new("/")),
        }
    }

    /// Its name in the tag of the fraction: with the host, or the path of a layout.
    fn source_in_rollouts(&self) -> String {
        let name = self.source.name();
        match name.strip_prefix("oci:") {
            Some(path) => path.to_owned(),
            None => name,
        }
    }
}

/// Takes away the artifacts of a tag that are held back. Those for one reason are told once.
fn hold_back(
    tag: &Tag,
    artifacts: &mut Vec<Artifact>,
    why_not: impl Fn(&Artifact) -> Option<Skipped>,
) -> Vec<LeftOut> {
    // The first one has the reasons for parts of all of them.
    let first = artifacts.first_mut();
    let reasons = first.map(|first| mem::take(&mut first.recognised.skipped));
    let mut held: Vec<LeftOut> = Vec::new();
    artifacts.retain(|artifact| {
        let Some(skipped) = why_not(artifact) else {
            return true;
        };
        let left_out = LeftOut::new(tag, skipped).of(artifact.manifest);
        let is_told = |one: &LeftOut| one.reason == left_out.reason && one.until == left_out.until;
        if !held.iter().any(is_told) {
            held.push(left_out);
        }
        false
    });
    if let Some(first) = artifacts.first_mut() {
        first.recognised.skipped = reasons.unwrap_or_default();
    }
    held
}
