//! The files of a snapshot: what they say of themselves, whether their sources still hold them, and flattened images.

use super::{Snapshot, Snapshots, TIME_LIMIT};
use crate::address::Located;
use crate::artifact::Recipe;
use crate::cache::Flattened;
use crate::error::Result;
use crate::extension_release::Metadata;
use crate::flatten::FlattenedFile;
use crate::listing::File;
use crate::name::FileName;
use crate::resolve::Resolver;
use crate::task;

impl Snapshots {
    /// The metadata of a file.
    pub fn metadata(
        &self,
        located: &Located,
        snapshot: &Snapshot,
        name: &FileName,
        file: &File,
    ) -> Result<Metadata> {
        self.with_resolver_of(located, snapshot, file, |resolver| {
            resolver.metadata(name, file, true)
        })
    }

    /// Has the source of a file show that it still holds it, for an answer that needs no bytes of it.
    pub fn show(&self, located: &Located, snapshot: &Snapshot, file: &File) -> Result<()> {
        self.with_resolver_of(located, snapshot, file, |resolver| resolver.show(file))
    }

    /// Does something with the source of a file, which has to show first that it holds a file of an older listing.
    fn with_resolver_of<T>(
        &self,
        located: &Located,
        snapshot: &Snapshot,
        file: &File,
        work: impl FnOnce(&Resolver<'_>) -> Result<T>,
    ) -> Result<T> {
        let _limit = task::within(TIME_LIMIT);
        let source = snapshot.source_of(file);
        let resolver = self.resolver(located, file.source, source);
        if snapshot.is_older {
            resolver.show(file)?;
        }
        work(&resolver)
    }

    /// A file that was made or scanned, if the cache has it.
    pub fn kept(
        &self,
        snapshot: &Snapshot,
        file: &File,
        recipe: &Recipe,
        size: u64,
    ) -> Result<Option<FlattenedFile>> {
        let digest = file.digest;
        let made = Flattened { digest, size };
        self.flattener.kept(snapshot.source_of(file), recipe, made)
    }

    /// Whether the one layer of an image is known to be the file as it is.
    pub fn is_clean(&self, snapshot: &Snapshot, file: &File, recipe: &Recipe) -> bool {
        let known = self.flattener.known(snapshot.source_of(file), recipe);
        matches!(known, Some(Ok(made)) if recipe.is_layer(made.digest))
    }

    /// A function that has an image flattened, which was offered as its one layer.
    pub fn to_flatten(
        &self,
        snapshot: &Snapshot,
        file: &File,
        recipe: &Recipe,
    ) -> impl FnOnce() + Send + use<> {
        let (flattener, recipe) = (self.flattener.clone(), recipe.clone());
        let source = snapshot.source_of(file).clone();
        let what = format!("{}:{}", source.name(), file.tag);
        move || drop(flattener.begin(&what, &source, &recipe))
    }

    /// A file that was made from an image, made again if the cache lacks it.
    pub fn flattened(
        &self,
        snapshot: &Snapshot,
        file: &File,
        recipe: &Recipe,
        size: u64,
    ) -> Result<FlattenedFile> {
        let digest = file.digest;
        let made = Flattened { digest, size };
        let source = snapshot.source_of(file);
        let _limit = task::within(TIME_LIMIT);
        let what = format!("{}:{}", source.name(), file.tag);
        self.flattener.open(&what, source, recipe, made)
    }

    /// Most connections over which one file of a directory is fetched.
    pub fn download_connections(&self, located: &Located) -> usize {
        let parallel = self.settings.parallel.get();
        located.settings.download_connections.min(parallel)
    }
}
