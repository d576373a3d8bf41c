//! A file of a snapshot → how it is put together of older versions that are on this machine.

use log::debug;

use super::{Snapshot, Snapshots};
use crate::address::Located;
use crate::blob::{Planned, REQUESTS};
use crate::delta::seeds::{LEAST_SIZE, Seed, Wanted};
use crate::listing::File;
use crate::name::FileName;
use crate::settings::Blobs;
use crate::version;

impl Snapshots {
    /// The plan for a file that is to be sent; `None`: it is fetched whole. Where no older version is on this machine,
    /// nothing is asked of the registry.
    pub fn plan(
        &self,
        located: &Located,
        snapshot: &Snapshot,
        name: &FileName,
        file: &File,
    ) -> Option<Planned> {
        let source = snapshot.source_of(file);
        // A layout is on this machine, too.
        if source.is_local() || snapshot.blobs == Blobs::Redirect {
            return None;
        }
        let seeds = self.seeds(located, name, file);
        if seeds.is_empty() {
            return None;
        }
        let base = located.base_of(name);
        let older = |seed: &Seed| older(snapshot, base, name, seed);
        let download_connections = located.settings.download_connections;
        let connections = download_connections
            .max(REQUESTS)
            .min(self.settings.parallel.get());
        let resolver = self.resolver(located, file.source, source);
        match resolver.plan(file, seeds, older, connections) {
            Ok(planned) => Some(planned),
            Err(why) => {
                debug!("{located}/{name} is fetched whole: {why}");
                None
            }
        }
    }

    /// The older versions of a large file that are on this machine, opened. The newest comes first.
    fn seeds(&self, located: &Located, name: &FileName, file: &File) -> Vec<Seed> {
        if file.size.is_none_or(|size| size < LEAST_SIZE) {
            return Vec::new();
        }
        let found = self.seeds.look(&Wanted {
            repository: &located.directory.repository,
            name,
            base: located.base_of(name),
            directories: located.settings.seeds.as_deref(),
        });
        for one in &found.unread {
            debug!("{}: {}, so it is no seed", one.path.display(), one.why);
        }
        found.seeds
    }
}

/// The file of this snapshot whose name differs from `name` by the version of the seed alone.
fn older(snapshot: &Snapshot, base: &str, name: &FileName, seed: &Seed) -> Option<File> {
    let (before, _, after) = version::around(name, base)?;
    let is_older = |other: &FileName, file: &File| {
        let parts = version::around(other, base);
        // One of another size is another file, or was changed.
        let is_same = file.size.is_none_or(|size| size == seed.size);
        is_same
            && parts.is_some_and(|(its_before, version, its_after)| {
                its_before == before
                    && its_after == after
                    && version::compare(version, &seed.version).is_eq()
            })
    };
    let mut files = snapshot.files();
    let found = files.find(|(other, file)| is_older(other, file));
    found.map(|(_, file)| file.into_owned())
}
