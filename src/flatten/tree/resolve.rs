//! Where a path of a layer leads in the tree, by the symlinks on the way.

use super::{Action, Ino, NodeKind, ROOT, Tree};
use crate::tar::{MAX_PATH, show, split_once};

/// Most symlinks on the way to one path, as in Linux (MAXSYMLINKS of namei.h).
const MAX_SYMLINKS: usize = 40;
/// Most components looked at for all paths of an image: some dozens for each of as many paths as it may have.
pub const MAX_STEPS: u64 = 20_000_000;

/// Where a path leads: its components, each with the file that is there.
#[derive(Debug, Default)]
pub struct Resolved<'a> {
    pub components: Vec<(&'a [u8], Option<Ino>)>,
    /// The length of the path, with a slash after each component.
    length: usize,
}

impl<'a> Resolved<'a> {
    /// The file at its end.
    pub fn end(&self) -> Option<Ino> {
        let last = self.components.last();
        last.map_or(Some(ROOT), |(_, number)| *number)
    }

    fn push(&mut self, component: &'a [u8], number: Option<Ino>) {
        self.length += component.len() + 1;
        self.components.push((component, number));
    }

    /// Goes up. `None`: it was at the root.
    fn pop(&mut self) -> Option<()> {
        let (component, _) = self.components.pop()?;
        self.length -= component.len() + 1;
        Some(())
    }

    /// The path, with one component more.
    fn join(&self, name: &'a [u8]) -> Vec<u8> {
        let components = self.components.iter().map(|(component, _)| *component);
        components.chain([name]).collect::<Vec<_>>().join(&b'/')
    }
}

impl<'a> Tree<'a> {
    /// Follows a path by the symlinks on it, also at its end. A component that is not there is taken to be a directory.
    /// `None`: `stops` is true for a symlink on the way.
    pub fn resolve(
        &mut self,
        path: &'a [u8],
        stops: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<Resolved<'a>>, String> {
        let mut resolved = Resolved::default();
        // Paths that are still to go, the next one last.
        let mut ahead = vec![path];
        let mut symlinks = 0;
        while let Some(path) = ahead.pop() {
            let (component, rest) = split_once(path, b'/').unwrap_or((path, b""));
            if !rest.is_empty() {
                ahead.push(rest);
            }
            self.steps += 1;
            if self.steps > MAX_STEPS {
                return Err("the paths in the image take too long to follow".into());
            }
            if matches!(component, b"" | b".") {
                continue;
            }
            if component == b".." {
                resolved
                    .pop()
                    .ok_or("a symlink on the way leads out of the image")?;
                continue;
            }
            let number = resolved
                .end()
                .and_then(|at| self.names.get(&(at, component)).copied());
            if let Some(target) = number.and_then(|number| self.target(number)) {
                if stops(&resolved.join(component)) {
                    return Ok(None);
                }
                symlinks += 1;
                if symlinks > MAX_SYMLINKS {
                    return Err("too many symlinks on the way".into());
                }
                // From the root of the image, as in a container.
                if target.starts_with(b"/") {
                    resolved = Resolved::default();
                }
                ahead.push(target);
            } else if resolved.length + component.len() > MAX_PATH {
                return Err(too_long(&resolved.join(component)));
            } else {
                resolved.push(component, number);
            }
        }
        Ok(Some(resolved))
    }

    /// The target of a symlink.
    fn target(&self, number: Ino) -> Option<&'a [u8]> {
        match &self.inodes[number as usize].put?.action {
            Action::Put(NodeKind::Symlink(target)) => Some(target),
            _ => None,
        }
    }
}

pub fn too_long(place: &[u8]) -> String {
    let length = place.len();
    format!(
        "symlinks on the way lead to a path of {length} bytes, at most {MAX_PATH} can be: {}",
        show(place)
    )
}
