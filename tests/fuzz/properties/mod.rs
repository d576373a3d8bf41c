//! Properties that hold for every input. Each function is a fuzz target; the unit test
//! below has each of them look at its corpus, where the inputs stay that were once wrong.
//!
//! Properties of what is private to a module are declared there, as `fuzz`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a property that does not hold is a panic"
)]

mod caibx;
mod grammar;
mod hash_trees;
mod images;
mod keyrings;
mod manifests;
mod policies;
mod signatures;
mod signed_lists;
mod url_paths;

pub use caibx::caibx;
pub use hash_trees::hash_trees;
pub use images::images;
pub use keyrings::keyrings;
pub use manifests::manifests;
pub use policies::policies;
pub use signatures::{bundles, payloads};
pub use signed_lists::signed_lists;
pub use url_paths::url_paths;

pub use crate::flatten::fuzz::tar_layers;
pub use crate::server::http::fuzz::request_heads;
pub use crate::settings::fuzz::settings;
pub use crate::source::fuzz::{challenges, links};
pub use crate::trust::fuzz::envelopes;
#[cfg(feature = "keyless")]
pub use crate::trust::keyless_fuzz::{certificates, keyless_bundles, proofs, trusted_roots};

/// The separator of the parts of an input that has several.
const SEPARATOR: &[u8] = b"\n--next--\n";

/// The parts of an input; there is one at least.
pub fn parts(data: &[u8]) -> Vec<&[u8]> {
    let (mut parts, mut rest) = (Vec::new(), data);
    while let Some(at) = (rest.windows(SEPARATOR.len())).position(|bytes| bytes == SEPARATOR) {
        parts.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    parts.push(rest);
    parts
}

#[cfg(all(test, feature = "keyless"))]
mod tests {
    use std::fs;
    use std::path::Path;

    type Property = fn(&[u8]);

    #[test]
    fn every_property_holds_for_its_corpus() {
        let targets: [(&str, Property); 20] = [
            ("bundles", super::bundles),
            ("caibx", super::caibx),
            ("certificates", super::certificates),
            ("challenges", super::challenges),
            ("envelopes", super::envelopes),
            ("hash_trees", super::hash_trees),
            ("images", super::images),
            ("keyless_bundles", super::keyless_bundles),
            ("keyrings", super::keyrings),
            ("links", super::links),
            ("manifests", super::manifests),
            ("payloads", super::payloads),
            ("policies", super::policies),
            ("proofs", super::proofs),
            ("request_heads", super::request_heads),
            ("settings", super::settings),
            ("signed_lists", super::signed_lists),
            ("tar_layers", super::tar_layers),
            ("trusted_roots", super::trusted_roots),
            ("url_paths", super::url_paths),
        ];
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
        let names = |folder: &str| -> Vec<String> {
            let entries = fs::read_dir(fuzz.join(folder)).unwrap();
            let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
            let mut names: Vec<_> = entries.map(|entry| name(entry.unwrap())).collect();
            names.sort();
            names
        };
        assert_eq!(names("corpus"), targets.map(|(name, _)| name));
        assert_eq!(
            names("targets"),
            targets.map(|(name, _)| format!("{name}.rs"))
        );
        for (target, holds) in targets {
            let folder = format!("corpus/{target}");
            for name in names(&folder) {
                let input = fs::read(fuzz.join(&folder).join(&name)).unwrap();
                let result = std::panic::catch_unwind(|| holds(&input));
                assert!(result.is_ok(), "tests/fuzz/{folder}/{name}");
            }
        }
        fs::remove_dir_all(crate::flatten::fuzz::scratch()).unwrap();
    }
}
