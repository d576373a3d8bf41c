//! Whether a tag agrees with the version that a signed manifest notes.
//!
//! A signature binds a digest, and no tag: whoever may move tags could call an old version new.

use crate::manifest::Image;
use crate::name::Tag;
use crate::version::comparable;

/// Checks that a tag is that of this version.
pub fn check(tag: &Tag, version: &str, image: &Image) -> Result<(), String> {
    let artifact_type = image.artifact_type.as_deref().unwrap_or_default();
    let is_frostyard = artifact_type.starts_with("application/vnd.frostyard.");
    let spelled = |text| spell(text, is_frostyard);
    if spelled(tag.as_str()) == spelled(version) {
        return Ok(());
    }
    Err(format!(
        "its signed version is {version:?}, which is not that of its tag: whoever moves tags could call an old \
         version new"
    ))
}

/// The one spelling of a version. frostyard's tags have `_P` for `+` and `_T` for `~`.
fn spell(version: &str, is_frostyard: bool) -> String {
    match is_frostyard {
        true => comparable(&version.replace("_P", "+").replace("_T", "~")),
        false => comparable(version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_agrees_with_a_version_however_it_is_spelled() {
        let frostyard = "application/vnd.frostyard.sysext.v1";
        for (tag, version, artifact_type, agrees) in [
            ("1.27.8", "1.27.8", "", true),
            ("v1.27.8", "1.27.8", "", true),
            ("1.27.8", "v1.27.8", "", true),
            ("v1.27.8-x86-64", "1.27.8", "", true),
            ("v1.27.8-amd64", "v1.27.8-x86-64", "", true),
            ("1.2_3", "1.2+3", "", true),
            ("1.2_3", "1.2_3", "", true),
            ("1.2_Prc1", "1.2+rc1", frostyard, true),
            ("1.2_Trc1", "1.2~rc1", frostyard, true),
            ("1.2_Trc1", "1.2~rc1", "", false),
            ("1.2_3", "1.2+3", frostyard, true),
            ("v99", "1.27.8", "", false),
            ("1.27.80", "1.27.8", "", false),
            ("1.27", "1.27.8", "", false),
            ("latest", "1.27.8", "", false),
            ("vv1", "v1", "", false),
            ("1.27.8", "", "", false),
        ] {
            let image = Image {
                artifact_type: Some(artifact_type.to_owned()),
                config: None,
                layers: Vec::new(),
                annotations: Default::default(),
                subject: None,
            };
            let found = check(&tag.parse().unwrap(), version, &image).is_ok();
            assert_eq!(found, agrees, "tag {tag} of version {version}");
        }
    }
}
