//! The form of file names that settings may give: `{name}-{version}.{arch}`.

use crate::name::{Checked, Grammar};

/// The form of file names: `{name}-{version}.{arch}`, without the suffix.
pub type Template = Checked<TemplateGrammar>;

/// A text with fields in braces.
#[derive(Clone, PartialEq)]
pub struct TemplateGrammar;

/// The next field in braces: the text before it, its name, and the text after it.
fn next_field(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once('{')?;
    let (field, after) = rest.split_once('}').unwrap_or(("", rest));
    Some((before, field, after))
}

impl Template {
    /// The name by this template; `None` when it asks for an architecture and there is none.
    pub fn fill(&self, name: &str, version: &str, arch: Option<&str>) -> Option<String> {
        let mut filled = String::new();
        let mut rest = self.as_str();
        while let Some((before, field, after)) = next_field(rest) {
            filled.push_str(before);
            // A value with braces in it stays as it is.
            filled.push_str(match field {
                "name" => name,
                "version" => version,
                _ => arch?,
            });
            rest = after;
        }
        Some(filled + rest)
    }

    /// Whether it asks for the architecture.
    pub fn wants_arch(&self) -> bool {
        self.as_str().contains("{arch}")
    }
}

impl Grammar for TemplateGrammar {
    fn spell(text: &str) -> Result<String, String> {
        let mut rest = text;
        while let Some((_, field, after)) = next_field(rest) {
            if !matches!(field, "name" | "version" | "arch") {
                return Err(format!(
                    "{text:?} may have only {{name}}, {{version}} and {{arch}} in braces"
                ));
            }
            rest = after;
        }
        if !text.contains("{version}") {
            return Err(format!(
                "{text:?} needs {{version}}, or all versions would share one name"
            ));
        }
        Ok(text.to_owned())
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
