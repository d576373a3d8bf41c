//! The keys of a settings file, and the mistakes that can be made with them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use toml::de::{DeTable, DeValue};

use super::signer;
use super::value::{Absolute, Mistake, Value, suggested, values};
use super::{RepositorySettings, Settings};
use crate::name::RepositoryAddress;

/// Reads a value into its place.
type Read<T> = fn(&mut T, &Value<'_>) -> Result<(), Mistake>;

/// Shortest time to wait for a client, in seconds. The kernel counts in milliseconds, and takes none for ever.
const LEAST_IDLE: f64 = 0.01;
/// Most connections to a registry at once that `parallel` may ask for.
const MAX_PARALLEL: u16 = 64;
/// Most connections over which one file is fetched. They take all the memory that there is for such windows.
const MAX_DOWNLOAD_CONNECTIONS: u16 = 8;
/// Most directories with older versions.
const MAX_SEEDS: usize = 16;
/// Most days for which a listing is fresh: ten years.
const MAX_BEST_BEFORE_DAYS: u16 = 3650;
/// Most keys that must have signed a manifest.
const MAX_THRESHOLD: u16 = 64;

const REGISTRY: &str = r#""ghcr.io/acme""#;
const HOST: &str = r#""updates.example.com""#;
const VERSIONS: &str = r#""1.31.*""#;

/// The keys that stand above all tables, and the table of repositories.
const KEYS: [(&str, Read<Settings>); 13] = [
    ("registry", |all, value| {
        put(&mut all.registry, value.text(REGISTRY))
    }),
    ("allow", |all, value| {
        put(&mut all.allow, value.list(REGISTRY))
    }),
    ("idle-timeout-sec", |all, value| {
        put(&mut all.idle_timeout, value.seconds(LEAST_IDLE))
    }),
    ("listing-ttl-sec", |all, value| {
        put(&mut all.listing_ttl, value.seconds(0.0))
    }),
    ("parallel", |all, value| {
        let parallel = value.number(1..=MAX_PARALLEL)?;
        all.parallel = NonZeroUsize::new(parallel.into()).unwrap_or(NonZeroUsize::MIN);
        Ok(())
    }),
    ("cache-size", |all, value| {
        put(&mut all.cache_size, value.size())
    }),
    ("trusted-hosts", |all, value| {
        put(&mut all.trusted_hosts, value.list(HOST))
    }),
    ("mirrors-with-ns", |all, value| {
        put(&mut all.mirrors_with_ns, value.list(HOST))
    }),
    ("mirrors-without-ns", |all, value| {
        put(&mut all.mirrors_without_ns, value.list(HOST))
    }),
    ("compatible-only", |all, value| {
        put(&mut all.compatible_only, value.flag())
    }),
    ("sign", |all, value| put(&mut all.sign, value.flag())),
    ("hosts", |all, value| put(&mut all.hosts, value.list(HOST))),
    ("repository", |all, value| {
        repositories(&mut all.repositories, value)
    }),
];

/// The keys of a `[repository.NAME]`.
const REPOSITORY_KEYS: [(&str, Read<RepositorySettings>); 22] = [
    ("source", |one, value| {
        put(&mut one.source, value.sources().map(Some))
    }),
    ("suffix", |one, value| {
        put(&mut one.suffix, value.text(r#"".raw""#).map(Some))
    }),
    ("names", |one, value| {
        let expected = r#""{name}-{version}.{arch}""#;
        put(&mut one.names, value.text(expected).map(Some))
    }),
    ("architectures", |one, value| {
        let list: Vec<_> = value.list(r#""x86-64""#)?;
        if list.is_empty() {
            let why = "the list is empty; name one, or leave the key out for this machine's";
            return Err(value.mistake(why));
        }
        one.architectures = Some(list);
        Ok(())
    }),
    ("immutable-tags", |one, value| {
        put(&mut one.immutable_tags, value.flag())
    }),
    ("versions", |one, value| {
        let list: Vec<_> = value.list(VERSIONS)?;
        if list.is_empty() {
            return Err(
                value.mistake("the list is empty; name a version, or leave the key out for all")
            );
        }
        one.versions.versions = Some(list);
        Ok(())
    }),
    ("exclude", |one, value| {
        put(&mut one.versions.exclude, value.list(VERSIONS))
    }),
    ("hold", |one, value| {
        put(&mut one.versions.hold, value.text(r#""1.31.3""#).map(Some))
    }),
    ("rollout", |one, value| {
        let expected = r#""follow", "first", "last" or "ignore""#;
        put(&mut one.rollout, value.text(expected))
    }),
    ("best-before-days", |one, value| {
        put(
            &mut one.best_before_days,
            value.number(0..=MAX_BEST_BEFORE_DAYS),
        )
    }),
    ("signed-list", |one, value| {
        let expected = r#""SHA256SUMS", or "" for no list"#;
        put(&mut one.signed_list, value.text(expected))
    }),
    ("compatible-only", |one, value| {
        put(&mut one.compatible_only, value.flag().map(Some))
    }),
    ("sign", |one, value| {
        put(&mut one.sign, value.flag().map(Some))
    }),
    ("flatten", |one, value| {
        put(
            &mut one.flatten,
            value.number(0..=u16::MAX).map(usize::from),
        )
    }),
    ("blobs", |one, value| {
        put(&mut one.blobs, value.text(r#""stream" or "redirect""#))
    }),
    ("download-connections", |one, value| {
        put(
            &mut one.download_connections,
            value.number(1..=MAX_DOWNLOAD_CONNECTIONS).map(usize::from),
        )
    }),
    ("seeds", |one, value| {
        let list: Vec<_> = value.list(r#""/srv/images""#)?;
        if list.len() > MAX_SEEDS {
            let why = format!(
                "expected at most {MAX_SEEDS} directories, found {}",
                list.len()
            );
            return Err(value.mistake(why));
        }
        one.seeds = Some(list);
        Ok(())
    }),
    ("verify", |one, value| {
        put(&mut one.verify, signer::read(value))
    }),
    ("threshold", |one, value| {
        put(
            &mut one.threshold,
            value.number(1..=MAX_THRESHOLD).map(usize::from),
        )
    }),
    ("require-version", |one, value| {
        put(&mut one.require_version, value.flag())
    }),
    ("trusted-root", |one, value| {
        let path = value.text::<Absolute>(r#""/etc/sysext-oci-proxy/trusted_root.json""#);
        put(&mut one.trusted_root, path.map(|path| path.0))
    }),
    ("policy", |one, value| {
        put(&mut one.policy, value.text(r#""containers" or "none""#))
    }),
];

fn put<T>(place: &mut T, value: Result<T, Mistake>) -> Result<(), Mistake> {
    *place = value?;
    Ok(())
}

/// Reads the text of a file into the settings. Keys that are not in it stay as they are.
pub fn read(text: &str, settings: &mut Settings) -> Result<(), Mistake> {
    let table = DeTable::parse(text).map_err(|error| syntax(text, &error))?;
    for value in values(table.get_ref()) {
        match find(&KEYS, value.key) {
            Some(read) => read(settings, &value)?,
            None => return Err(unknown(&value)),
        }
    }
    Ok(())
}

fn find<T>(keys: &[(&str, Read<T>)], key: &str) -> Option<Read<T>> {
    let (_, read) = keys.iter().find(|(name, _)| *name == key)?;
    Some(*read)
}

fn repositories(
    repositories: &mut BTreeMap<RepositoryAddress, RepositorySettings>,
    value: &Value<'_>,
) -> Result<(), Mistake> {
    for table in value.table("tables such as [repository.kubernetes]")? {
        if !table.value.is_table() && find(&REPOSITORY_KEYS, table.key).is_some() {
            return Err(unknown(&table));
        }
        let keys = table.table("a table such as [repository.kubernetes]")?;
        let name = table.key.parse().map_err(|why: String| {
            let right = suggested::<RepositoryAddress>(table.key);
            let right = right.map(|name| format!("; write [repository.{name:?}]"));
            Mistake {
                at: table.at,
                why: why + &right.unwrap_or_default(),
            }
        })?;
        let settings = repositories.entry(name).or_default();
        for value in keys {
            match find(&REPOSITORY_KEYS, value.key) {
                Some(read) => read(settings, &value)?,
                None => return Err(unknown_of_repository(table.key, &value)),
            }
        }
    }
    Ok(())
}

/// The mistake of a key that stands above all tables.
fn unknown(value: &Value<'_>) -> Mistake {
    let why = if find(&REPOSITORY_KEYS, value.key).is_some() {
        "this belongs to a repository; put it below a line [repository.NAME]".to_owned()
    } else if let Some(meant) = closest(value.key, KEYS.iter().map(|(key, _)| *key)) {
        format!("there is no such key; did you mean {meant}?")
    } else if value.value.is_table() {
        let name = quoted_if_needed(value.key);
        format!("there is no such table; one for a repository is [repository.{name}]")
    } else {
        no_such_key(&KEYS)
    };
    value.mistake(why)
}

/// The mistake of a key in the table of a repository.
fn unknown_of_repository(name: &str, value: &Value<'_>) -> Mistake {
    let why = if let DeValue::Table(_) = value.value {
        // [repository.ghcr.io] is a table in a table.
        let mut name = format!("{name}.{}", value.key);
        let mut inner = value.value;
        while let DeValue::Table(table) = inner
            && let Some((key, only)) = table.iter().next().filter(|_| table.len() == 1)
            && only.get_ref().is_table()
        {
            name = format!("{name}.{}", key.get_ref());
            inner = only.get_ref();
        }
        let why = format!("a name with a dot needs quotes; write [repository.{name:?}]");
        return Mistake { at: value.at, why };
    } else if find(&KEYS, value.key).is_some() {
        "this is for all repositories; put it above the first line in brackets".to_owned()
    } else if let Some(meant) = closest(value.key, REPOSITORY_KEYS.iter().map(|(key, _)| *key)) {
        format!("a repository has no such key; did you mean {meant}?")
    } else {
        no_such_key(&REPOSITORY_KEYS)
    };
    value.mistake(why)
}

fn no_such_key<T>(keys: &[(&str, T)]) -> String {
    let keys: Vec<_> = keys.iter().map(|(key, _)| *key).collect();
    format!("there is no such key; those here are {}", keys.join(", "))
}

/// The key that was perhaps meant: one that is spelled like it, or that contains it.
fn closest<'a>(key: &str, keys: impl DoubleEndedIterator<Item = &'a str>) -> Option<&'a str> {
    let key = key.to_ascii_lowercase().replace('_', "-");
    let likeness = |known: &str| {
        let of_part = if key.len() > 2 && known.contains(&key) {
            1.0
        } else {
            0.0
        };
        of_part + strsim::jaro(&key, known)
    };
    let likely = keys.map(|known| (likeness(known), known));
    let likely = likely.filter(|(likeness, _)| *likeness > 0.8);
    // Of equals the first.
    let best = likely
        .rev()
        .max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    Some(best.1)
}

fn quoted_if_needed(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    match name.chars().all(is_bare) {
        true => name.to_owned(),
        false => format!("{name:?}"),
    }
}

/// The mistake of a text that is not TOML. Most often quotes are missing.
fn syntax(text: &str, error: &toml::de::Error) -> Mistake {
    let at = error.span().map_or(0, |span| span.start);
    let at = text.floor_char_boundary(at);
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    let line = text[start..].lines().next().unwrap_or_default();
    let line = line.split(" #").next().unwrap_or_default().trim();
    let why = if error.message().starts_with("duplicate") {
        format!("{}, {line:?}: this is in the file twice", error.message())
    } else if let Some(why) = unquoted_name(line).or_else(|| unquoted_value(line)) {
        why
    } else if line.starts_with([';', '/']) {
        "a comment begins with #".to_owned()
    } else {
        format!("{}, in the line {line:?}", error.message())
    };
    Mistake { at, why }
}

/// The mistake of a name without quotes: `[repository.acme/k8s]`.
fn unquoted_name(line: &str) -> Option<String> {
    let name = line.strip_prefix('[')?.trim_matches(['[', ']']);
    let name = name.strip_prefix("repository.")?.trim_matches(is_quote);
    let name = quoted_if_needed(&suggested::<RepositoryAddress>(name)?);
    Some(format!(
        "this is not the name of a table; write [repository.{name}]"
    ))
}

/// The mistake of a value without quotes, or with a colon before it: `registry = ghcr.io`, `parallel: 16`.
fn unquoted_value(line: &str) -> Option<String> {
    let sign = line.find(['=', ':'])?;
    let (key, text) = (line[..sign].trim(), line[sign + 1..].trim());
    let is_quoted = text.len() > 1 && text.starts_with('"') && text.ends_with('"');
    let has_equals_sign = line[sign..].starts_with('=');
    if is_quoted && has_equals_sign {
        return None;
    }
    let text = text.trim_matches(is_quote);
    let value = DeValue::String(Cow::Borrowed(text));
    let value = Value::new(key, &value, 0);
    let read = if let Some(read) = find(&KEYS, key) {
        read(&mut Settings::default(), &value)
    } else {
        find(&REPOSITORY_KEYS, key)?(&mut RepositorySettings::default(), &value)
    };
    Some(match read {
        _ if text.is_empty() => format!("{key}: there is no value behind ="),
        Ok(()) if has_equals_sign => {
            format!("{key}: a string needs quotes; write {key} = {text:?}")
        }
        Ok(()) => format!("{key}: expected = behind the key; write {key} = {text:?}"),
        Err(mistake) => mistake.why,
    })
}

fn is_quote(c: char) -> bool {
    matches!(
        c,
        '"' | '\'' | '`' | '“' | '”' | '„' | '‘' | '’' | '«' | '»'
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::rollout::RolloutSetting;
    use crate::settings::{
        Blobs, PolicyUse, SignedBy, SignedListTag, SignerSetting, SourceSetting, Sources, Suffix,
    };
    use crate::wanted::Wanted;

    fn settings(text: &str) -> Settings {
        let mut settings = Settings::default();
        read(text, &mut settings).unwrap_or_else(|mistake| panic!("{text:?}: {mistake:?}"));
        settings
    }

    #[test]
    fn every_key_is_read() {
        let read = settings(
            r#"
            registry = "ghcr.io/acme/sysexts"
            allow = ["ghcr.io/flatcar"]
            idle-timeout-sec = 0.05
            listing-ttl-sec = 1
            parallel = 4
            cache-size = "500M"
            trusted-hosts = ["auth.example.com"]
            mirrors-with-ns = ["spegel.example:5000"]
            mirrors-without-ns = ["localhost:5001"]
            compatible-only = true
            sign = true
            hosts = ["updates.lan"]
            [repository.kubernetes]
            source = "ghcr.io/acme/k8s"
            suffix = ".raw"
            names = "{name}-{version}-{arch}"
            architectures = ["x86-64"]
            immutable-tags = true
            versions = ["1.31.*"]
            exclude = ["1.31.4"]
            hold = "1.31.5"
            rollout = "last"
            best-before-days = 7
            signed-list = "list"
            compatible-only = false
            sign = false
            flatten = 5
            blobs = "redirect"
            download-connections = 4
            seeds = ["/srv/images"]
            verify = [{ key = "/etc/pki/one.pub" }, { key = "/b.pub", identity = "docker.io/k8s" }]
            threshold = 2
            require-version = true
            trusted-root = "/etc/root.json"
            policy = "none"
            [repository."acme/local"]
            source = "oci:/srv/updates"
            signed-list = ""
            "#,
        );
        assert_eq!(
            read,
            Settings {
                registry: "ghcr.io/acme/sysexts".parse().unwrap(),
                allow: vec!["ghcr.io/flatcar".parse().unwrap()],
                idle_timeout: Duration::from_millis(50),
                listing_ttl: Duration::from_secs(1),
                parallel: NonZeroUsize::new(4).unwrap(),
                cache_size: 500 << 20,
                trusted_hosts: vec!["auth.example.com".parse().unwrap()],
                mirrors_with_ns: vec!["spegel.example:5000".parse().unwrap()],
                mirrors_without_ns: vec!["localhost:5001".parse().unwrap()],
                compatible_only: true,
                sign: true,
                hosts: vec!["updates.lan".parse().unwrap()],
                policy: None,
                repositories: [
                    (
                        "kubernetes".parse().unwrap(),
                        RepositorySettings {
                            source: Some(Sources::One("ghcr.io/acme/k8s".parse().unwrap())),
                            suffix: Some(Suffix::try_from(".raw".to_owned()).unwrap()),
                            names: Some("{name}-{version}-{arch}".parse().unwrap()),
                            architectures: Some(vec!["x86-64".parse().unwrap()]),
                            immutable_tags: true,
                            versions: Wanted {
                                versions: Some(vec!["1.31.*".parse().unwrap()]),
                                exclude: vec!["1.31.4".parse().unwrap()],
                                hold: Some("1.31.5".parse().unwrap()),
                            },
                            rollout: RolloutSetting::Last,
                            best_before_days: 7,
                            signed_list: SignedListTag::Tag("list".parse().unwrap()),
                            compatible_only: Some(false),
                            sign: Some(false),
                            flatten: 5,
                            blobs: Blobs::Redirect,
                            download_connections: 4,
                            seeds: Some(vec!["/srv/images".parse().unwrap()]),
                            verify: vec![
                                SignerSetting {
                                    by: SignedBy::Key("/etc/pki/one.pub".into()),
                                    identity: None,
                                },
                                SignerSetting {
                                    by: SignedBy::Key("/b.pub".into()),
                                    identity: "docker.io/library/k8s".parse().ok(),
                                },
                            ],
                            threshold: 2,
                            require_version: true,
                            trusted_root: "/etc/root.json".into(),
                            policy: PolicyUse::None,
                            signed_by: None,
                        }
                    ),
                    (
                        "acme/local".parse().unwrap(),
                        RepositorySettings {
                            source: Some(Sources::One(SourceSetting::Layout(
                                "/srv/updates".into()
                            ))),
                            signed_list: SignedListTag::Nowhere,
                            ..RepositorySettings::default()
                        }
                    ),
                ]
                .into(),
            }
        );
    }

    #[test]
    fn a_file_may_have_a_byte_order_mark_tabs_and_line_ends_of_windows() {
        let plain = settings("parallel = 4\n[repository.a]\nsource = \"oci:/a\"\n");
        for text in [
            "\u{feff}parallel = 4\n[repository.a]\nsource = \"oci:/a\"\n",
            "parallel = 4\r\n[repository.a]\r\nsource = \"oci:/a\"\r\n",
            "\tparallel\t=\t4\n\t[repository.a]\n\tsource = \"oci:/a\"",
            "parallel = 4 # four\nrepository.a.source = \"oci:/a\"",
            "parallel = 4\nrepository = { a = { source = \"oci:/a\" } }",
        ] {
            assert_eq!(settings(text), plain, "{text:?}");
        }
    }

    /// The paragraphs of `mistakes.txt`: a settings file, and behind `#>` the line of its mistake and the message.
    #[test]
    fn a_mistake_is_told_with_its_line_and_what_would_be_right() {
        let mut wrong = Vec::new();
        for case in include_str!("mistakes.txt").trim_end().split("\n\n") {
            let (text, expected) = case.split_once("\n#> ").unwrap();
            let found = match read(text, &mut Settings::default()) {
                Ok(()) => "accepted".to_owned(),
                Err(Mistake { at, why }) => {
                    format!("{}: {why}", 1 + text[..at].matches('\n').count())
                }
            };
            if found != expected {
                wrong.push(format!("{text}\n#> {found}\n"));
            }
        }
        assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    }

    /// A setting in the manual page: whether it is one of a repository, its key, and the lines `Default:` and `Example:`.
    struct Described {
        is_of_repository: bool,
        key: String,
        default: Option<String>,
        examples: Vec<String>,
    }

    const PAGE: &str = include_str!("../../man/sysext-oci-proxy.toml.5");

    fn described() -> Vec<Described> {
        let mut found: Vec<Described> = Vec::new();
        let (_, page) = PAGE.split_once("\n.SH GENERAL SETTINGS\n").unwrap();
        let (page, _) = page.split_once("\n.SH FILES\n").unwrap();
        let (mut is_of_repository, mut is_head) = (false, false);
        for line in page.lines() {
            let line = line.replace("\\-", "-");
            let bold = || {
                Some(
                    line.split_once(": \\fB")?
                        .1
                        .trim_end_matches("\\fR")
                        .to_owned(),
                )
            };
            if line.starts_with(".SH ") {
                is_of_repository = true;
            } else if is_head {
                let key = line.trim_start_matches("\\fI").trim_end_matches("\\fR");
                found.push(Described {
                    is_of_repository,
                    key: key.to_owned(),
                    default: None,
                    examples: Vec::new(),
                });
            } else if let Some(setting) = found.last_mut() {
                if line.starts_with("Default: ") {
                    assert!(
                        setting.default.is_none(),
                        "{} has two defaults",
                        setting.key
                    );
                    setting.default = Some(bold().unwrap_or_default());
                } else if line.starts_with("Example: ") {
                    setting.examples.extend(bold());
                }
            }
            is_head = line == ".TP";
        }
        found
    }

    #[test]
    fn the_manual_page_has_each_setting_with_its_default_and_an_example() {
        let keys = KEYS
            .iter()
            .map(|(key, _)| *key)
            .filter(|key| *key != "repository");
        let of_repository = REPOSITORY_KEYS.iter().map(|(key, _)| (true, *key));
        let known: Vec<_> = keys.map(|key| (false, key)).chain(of_repository).collect();
        let described = described();
        let found: Vec<_> = described
            .iter()
            .map(|one| (one.is_of_repository, one.key.as_str()))
            .collect();
        assert_eq!(found, known);
        for one in &described {
            let text = |line: &str| match one.is_of_repository {
                true => format!("[repository.k8s]\n{line}"),
                false => line.to_owned(),
            };
            let is_its_key = |line: &str| line.starts_with(&format!("{} = ", one.key));
            let without = settings(&text(""));
            let default = one
                .default
                .as_ref()
                .unwrap_or_else(|| panic!("{} has no default", one.key));
            // Others are a text: they are no value that could be written.
            if is_its_key(default) {
                assert_eq!(settings(&text(default)), without, "{default}");
            }
            assert!(!one.examples.is_empty(), "{} has no example", one.key);
            for example in &one.examples {
                assert!(is_its_key(example), "{example}");
                assert_ne!(settings(&text(example)), without, "{example}");
            }
        }
        let (_, examples) = PAGE.split_once("\n.SH EXAMPLES\n").unwrap();
        let examples: Vec<_> = examples.split("\n.EX\n").skip(1).collect();
        assert!(!examples.is_empty());
        for example in examples {
            let (example, _) = example.split_once("\n.EE").unwrap();
            assert_ne!(settings(&example.replace("\\-", "-")), Settings::default());
        }
    }

    #[test]
    fn the_page_about_settings_has_each_of_them() {
        let page = include_str!("../../docs/settings.md");
        let (_, table) = page.split_once("```toml\n").unwrap();
        let (table, _) = table.split_once("```").unwrap();
        settings(table);
        let (all, of_repository) = table.split_once("\n[repository.").unwrap();
        let has = |text: &str, key: &str| {
            text.lines()
                .any(|line| line.starts_with(&format!("{key} = ")))
        };
        for (key, _) in KEYS.iter().filter(|(key, _)| *key != "repository") {
            assert!(has(all, key), "{key}");
        }
        for (key, _) in &REPOSITORY_KEYS {
            assert!(has(of_repository, key), "{key}");
        }
    }
}
