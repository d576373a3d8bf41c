//! Specifiers of sysupdate.d(5), such as `%a`: what each stands for on this machine.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::fs;
use std::path::Path;

use crate::extension_release::assignments;
use crate::platform::Architecture;

/// Specifiers and the field of os-release(5) that each stands for. A field that is missing is the empty string.
const OF_OS_RELEASE: [(char, &str); 6] = [
    ('A', "IMAGE_VERSION"),
    ('B', "BUILD_ID"),
    ('M', "IMAGE_ID"),
    ('o', "ID"),
    ('w', "VERSION_ID"),
    ('W', "VARIANT_ID"),
];
/// The paths of os-release(5); the first that exists is read.
const OS_RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];
/// Specifiers and the file whose text each stands for.
const OF_FILES: [(char, &str); 4] = [
    (BOOT_ID, "proc/sys/kernel/random/boot_id"),
    ('H', HOSTNAME),
    ('m', "etc/machine-id"),
    ('v', RELEASE),
];
const HOSTNAME: &str = "proc/sys/kernel/hostname";
const RELEASE: &str = "proc/sys/kernel/osrelease";

/// The specifier of the boot ID.
const BOOT_ID: char = 'b';

/// Whether a text has the specifier of the boot ID.
pub fn has_boot_id(text: &str) -> bool {
    text.replace("%%", "").contains(&format!("%{BOOT_ID}"))
}

/// The values of specifiers. A value that could not be determined is missing.
#[derive(Clone, Debug, Default)]
pub struct Specifiers(BTreeMap<char, String>);

impl Specifiers {
    /// The specifiers of a machine with this root directory.
    pub fn read(root: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(root.join(path)).ok();
        let os_release = OS_RELEASE.into_iter().find_map(read);
        let file = |path: &str| Some(read(path)?.trim().to_owned());
        if root != Path::new("/") {
            return Self::new(os_release.as_deref(), file);
        }
        // As systemd does (systemd: `specifier_hostname`). The sandbox of the service hides these files.
        let uname = rustix::system::uname();
        let text = |text: &CStr| text.to_str().ok().map(str::to_owned);
        Self::new(os_release.as_deref(), |path| match path {
            HOSTNAME => text(uname.nodename()),
            RELEASE => text(uname.release()),
            path => file(path),
        })
    }

    /// The specifiers that the service knows. The boot ID is in no file that it can see.
    pub fn of_service(root: &Path) -> Self {
        let mut found = Self::read(root);
        found.0.remove(&BOOT_ID);
        found
    }

    /// The specifiers, from the text of os-release(5) and a function that reads a file below the root.
    fn new(os_release: Option<&str>, file: impl Fn(&str) -> Option<String>) -> Self {
        let mut found = BTreeMap::from([('T', "/tmp".to_owned()), ('V', "/var/tmp".to_owned())]);
        if let Some(architecture) = Architecture::of_this_machine() {
            found.insert('a', architecture.as_str().to_owned());
        }
        if let Some(text) = os_release {
            let fields: BTreeMap<_, _> = assignments(text).into_iter().collect();
            let value = |name: &str| fields.get(name).cloned().unwrap_or_default();
            found.extend(OF_OS_RELEASE.map(|(letter, name)| (letter, value(name))));
        }
        for (letter, path) in OF_FILES {
            found.extend(file(path).map(|text| (letter, text)));
        }
        if let Some(name) = found.get(&'H') {
            let short = name.split('.').next().unwrap_or_default().to_owned();
            found.insert('l', short);
        }
        if let Some(id) = found.get_mut(&BOOT_ID) {
            id.retain(|c| c != '-');
        }
        Self(found)
    }

    /// The text with the values in place of specifiers (systemd: specifier_printf). The error is the reason.
    pub fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::new();
        let mut letters = text.chars();
        while let Some(c) = letters.next() {
            if c != '%' {
                expanded.push(c);
                continue;
            }
            match letters.next() {
                Some('%') | None => expanded.push('%'),
                Some(letter) if letter.is_ascii_alphanumeric() => {
                    let value = self.0.get(&letter);
                    expanded.push_str(value.ok_or_else(|| why_none(letter))?);
                }
                Some(other) => expanded.extend(['%', other]),
            }
        }
        Ok(expanded)
    }

    /// The text with the specifiers of `written` in place of their values: `-%a` for `-x86-64`.
    pub fn contract(&self, text: &str, written: &str) -> String {
        let mut contracted = text.to_owned();
        for (letter, value) in &self.0 {
            let specifier = format!("%{letter}");
            if !value.is_empty() && written.contains(&specifier) {
                contracted = contracted.replace(value.as_str(), &specifier);
            }
        }
        contracted
    }
}

fn why_none(letter: char) -> String {
    let known = OF_OS_RELEASE.iter().chain(&OF_FILES);
    let known = known.map(|(letter, _)| letter);
    match known.chain(&['a', 'l', 'q']).any(|one| *one == letter) {
        true => format!("the value of `%{letter}` on this machine could not be found out"),
        false => format!("`%{letter}` is no specifier; a `%` is written `%%`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specifiers() -> Specifiers {
        let file = |path: &str| match path {
            "proc/sys/kernel/hostname" => Some("host.lan".to_owned()),
            "proc/sys/kernel/osrelease" => Some("6.12.1-amd64".to_owned()),
            "proc/sys/kernel/random/boot_id" => Some("0a0b-0c0d".to_owned()),
            _ => None,
        };
        let mut found = Specifiers::new(Some("ID=debian\nVERSION_ID=\"13\"\n"), file);
        found.0.insert('a', "x86-64".into());
        found
    }

    #[test]
    fn specifiers_are_what_they_stand_for() {
        for (text, expected) in [
            ("", Ok("")),
            ("k_@v-%a.raw", Ok("k_@v-x86-64.raw")),
            ("%o-%w%A", Ok("debian-13")),
            ("%v %H %l %b", Ok("6.12.1-amd64 host.lan host 0a0b0c0d")),
            ("%T%V", Ok("/tmp/var/tmp")),
            ("100%%a", Ok("100%a")),
            ("%", Ok("%")),
            ("%-", Ok("%-")),
            ("%m", Err("could not be found out")),
            ("%x", Err("`%x` is no specifier")),
        ] {
            match (specifiers().expand(text), expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
                (Err(why), Err(expected)) => assert!(why.contains(expected), "{text}: {why}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
        assert!(Specifiers::new(None, |_| None).expand("%w").is_err());
    }

    /// The files of this machine have the values, too, if no sandbox hides them.
    #[test]
    fn the_names_of_this_machine_and_its_kernel_need_no_file() {
        let found = Specifiers::read(Path::new("/"));
        for (specifier, path) in [("%H", HOSTNAME), ("%v", RELEASE)] {
            let value = found.expand(specifier).unwrap();
            assert!(!value.is_empty());
            if let Ok(text) = fs::read_to_string(Path::new("/").join(path)) {
                assert_eq!(value, text.trim(), "{specifier}");
            }
        }
        let short = found.expand("%l").unwrap();
        assert!(found.expand("%H").unwrap().starts_with(&short));
        let of_service = Specifiers::of_service(Path::new("/"));
        assert!(of_service.expand("%b").is_err());
        assert_eq!(of_service.expand("%H"), found.expand("%H"));
    }

    #[test]
    fn a_text_is_shown_with_the_specifiers_that_were_written() {
        for (text, written, expected) in [
            ("-x86-64", "k-@v-%a.raw", "-%a"),
            ("-x86-64", "k-@v-x86-64.raw", "-x86-64"),
            ("-debian13", "k-@v-%o%w.raw", "-%o%w"),
            (".raw", "k-@v-%A.raw", ".raw"),
        ] {
            assert_eq!(
                specifiers().contract(text, written),
                expected,
                "{text} {written}"
            );
        }
    }
}
