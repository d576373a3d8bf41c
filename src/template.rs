//! The form of file names that settings may give: `{name}-{version}.{arch}`.

use std::str::FromStr;

use serde::Deserialize;

/// The form of file names: `{name}-{version}.{arch}`, without the suffix.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Template(String);

impl Template {
    /// The name by this template; `None` when it asks for an architecture and there is none.
    pub fn fill(&self, name: &str, version: &str, arch: Option<&str>) -> Option<String> {
        let arch = match arch {
            Some(arch) => arch,
            None if self.wants_arch() => return None,
            None => "",
        };
        // One pass, so that a value with braces in it stays as it is.
        let mut filled = String::new();
        let mut rest = self.0.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            let (field, after) = after.split_once('}').unwrap_or((after, ""));
            filled.push_str(before);
            filled.push_str(match field {
                "name" => name,
                "version" => version,
                _ => arch,
            });
            rest = after;
        }
        filled.push_str(rest);
        Some(filled)
    }

    /// Does it ask for the architecture?
    pub fn wants_arch(&self) -> bool {
        self.0.contains("{arch}")
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once('{') {
            match after.split_once('}') {
                Some(("name" | "version" | "arch", after)) => rest = after,
                _ => {
                    return Err(format!(
                        "names {text:?} may have only {{name}}, {{version}} and {{arch}} in braces"
                    ));
                }
            }
        }
        if !text.contains("{version}") {
            return Err(format!(
                "names {text:?} needs {{version}}, or all versions would share one name"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_fill_what_they_name() {
        let template: Template = "{name}-{version}.{arch}".parse().unwrap();
        assert_eq!(
            template.fill("a", "{arch}", Some("arm64")).unwrap(),
            "a-{arch}.arm64"
        );
        assert_eq!(template.fill("a", "1", None), None);
        let without: Template = "{name}_{version}".parse().unwrap();
        assert_eq!(without.fill("a", "1", None).unwrap(), "a_1");
    }
}
