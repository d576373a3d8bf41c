//! Applies the changes of layers to the tree of an image, in order. No I/O.

use super::change::Change;
use super::tree::{Refused, Tree};
use super::union_fs::{directory_of_aufs, is_of_aufs};
use super::whiteouts::Whiteouts;
use crate::tar::show;

/// Applies the next layer, `layer` counted from the lowest.
pub fn apply<'a>(tree: &mut Tree<'a>, layer: usize, changes: &'a [Change]) -> Result<(), Refused> {
    let layer = u32::try_from(layer).unwrap_or(u32::MAX);
    tree.begin_layer();
    // Whiteouts hide files of lower layers, wherever they stand in their own layer. So they come first.
    let whiteouts = Whiteouts::of(changes);
    whiteouts.apply(tree)?;
    let mut of_aufs = Vec::new();
    for change in changes {
        if is_of_aufs(&change.path) {
            // aufs's directory of hard links is in the tree while its layer is applied. Its other files are ignored.
            match directory_of_aufs(&change.path) {
                Some(directory) => of_aufs.push(directory),
                None => continue,
            }
        } else if whiteouts.has(change) {
            continue;
        }
        tree.add(layer, change)
            .map_err(|why| format!("{}: {why}", show(&change.path)))?;
    }
    for name in of_aufs {
        tree.remove_from_root(name);
    }
    Ok(())
}
