//! The manual pages: all that the program has is in the right one, and nothing else. Settings are compared in
//! `src/settings/keys.rs`, which knows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::journal;
use crate::service::Folder;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// The pages that have a text of their own. The others lead to one of them.
const PAGES: [&str; 3] = [
    "sysext-oci-proxy.1",
    "sysext-oci-proxy.toml.5",
    "sysext-oci-proxy.8",
];
/// Options of other programs that the pages name.
const OPTIONS_OF_OTHERS: [&str; 7] = [
    "--authfile",              // skopeo
    "--name",                  // systemd-creds, and ours
    "--now",                   // systemctl
    "--update-catalog",        // journalctl
    "--verify",                // importctl
    "--what",                  // systemctl
    "--with-default-services", // cosign
];
/// Variables that libraries read, and the words in the code by which they do.
const VARIABLES_OF_LIBRARIES: [(&str, &[&str]); 5] = [
    ("parse_default_env()", &["RUST_LOG"]),
    ("rustls_native_certs::", &["SSL_CERT_FILE", "SSL_CERT_DIR"]),
    ("ListenFd::from_env()", &["LISTEN_FDS", "LISTEN_PID"]),
    ("sd_notify::notify(", &["NOTIFY_SOCKET"]),
    ("connected_to_journal()", &["JOURNAL_STREAM"]),
];

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A list item of a page: its head, and the text below it.
#[derive(Debug)]
struct Item {
    section: String,
    /// How many lists it is inside of.
    depth: usize,
    head: String,
    text: String,
}

/// A page, without its fonts.
struct Page {
    text: String,
    items: Vec<Item>,
}

impl Page {
    fn read(name: &str) -> Self {
        let source = read(Path::new("man").join(name));
        let (mut section, mut depth, mut text) = (String::new(), 0, String::new());
        let mut items: Vec<Item> = Vec::new();
        let mut is_open = false;
        let mut lines = source.lines().filter(|line| !line.starts_with(".\\\""));
        while let Some(line) = lines.next() {
            let (request, rest) = line.split_once(' ').unwrap_or((line, ""));
            match request {
                ".SH" => {
                    (section, is_open) = (plain(rest), false);
                    assert_eq!(depth, 0, "{name}: .RE is missing before {section}");
                }
                ".SS" => is_open = false,
                ".RS" => depth += 1,
                ".RE" => depth -= 1,
                ".TP" => {
                    items.push(Item {
                        section: section.clone(),
                        depth,
                        head: plain(lines.next().unwrap()),
                        text: String::new(),
                    });
                    is_open = true;
                }
                ".TH" | ".nh" | ".ad" | ".IP" | ".PP" | ".br" | ".EX" | ".EE" => {}
                _ if request.starts_with('.') => panic!("{name} has the request {request}"),
                _ => {
                    let line = plain(line);
                    text = text + &line + " ";
                    if let Some(item) = items.last_mut().filter(|_| is_open) {
                        item.text += &(line + " ");
                    }
                }
            }
        }
        Self { text, items }
    }

    fn section(&self, name: &str) -> impl Iterator<Item = &Item> {
        let items = self.items.iter().filter(move |item| item.section == name);
        let mut items = items.peekable();
        assert!(items.peek().is_some(), "there is no list in {name}");
        items
    }

    /// The commands: the head of each, its text, and the items inside of it.
    fn commands(&self) -> BTreeMap<&str, (&Item, Vec<&Item>)> {
        let mut commands: Vec<(&Item, Vec<&Item>)> = Vec::new();
        for item in self.section("COMMANDS") {
            match item.depth {
                0 => commands.push((item, Vec::new())),
                _ => commands.last_mut().unwrap().1.push(item),
            }
        }
        let count = commands.len();
        let commands: BTreeMap<_, _> = commands
            .into_iter()
            .map(|(item, inner)| (item.head.split(' ').next().unwrap(), (item, inner)))
            .collect();
        assert_eq!(commands.len(), count, "a command is there twice");
        commands
    }
}

/// The text of a line, without fonts and escapes.
fn plain(line: &str) -> String {
    let mut text = line.to_owned();
    for (escape, meaning) in [
        ("\\fB", ""),
        ("\\fI", ""),
        ("\\fR", ""),
        ("\\-", "-"),
        ("\\(lq", "\""),
        ("\\(rq", "\""),
        ("\\e", "\\\\"),
    ] {
        text = text.replace(escape, meaning);
    }
    assert!(
        !text.replace("\\\\", "").contains('\\'),
        "an escape that this test does not know: {line}"
    );
    text.trim_matches('"').to_owned()
}

/// The words of a text that begin so, without what ends them.
fn words<'a>(text: &'a str, beginning: &'a str) -> impl Iterator<Item = &'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let words = text.split(move |c| !is_part(c) && !beginning.contains(c));
    words.filter(move |word| word.len() > beginning.len() && word.starts_with(beginning))
}

/// The sentences of a help text, and the default that it names.
fn sentences(help: &str) -> (Vec<String>, Option<String>) {
    let (help, default) = match help.split_once(" [default: ") {
        Some((help, default)) => (help, Some(default.trim_end_matches(']').to_owned())),
        None => (help, None),
    };
    let sentences = help.trim_end_matches('.').split(". ");
    (sentences.map(|one| format!("{one}.")).collect(), default)
}

fn built() -> clap::Command {
    let mut program = sysext_oci_proxy::command_line();
    program.build();
    program
}

#[test]
fn each_command_and_option_is_described_as_help_does() {
    let page = Page::read("sysext-oci-proxy.1");
    let described = page.commands();
    let program = built();
    let common: Vec<_> = page.section("OPTIONS").collect();
    let commands: Vec<_> = program.get_subcommands().collect();
    let names: BTreeSet<_> = commands.iter().map(|command| command.get_name()).collect();
    assert_eq!(described.keys().copied().collect::<BTreeSet<_>>(), names);
    // Without a command it serves.
    let all = commands
        .iter()
        .map(|command| (command.get_name(), *command));
    for (name, command) in all.chain([("serve", &program)]) {
        let (item, inner) = &described[name];
        let is_of_clap = command.get_name() == "help" || command.get_name() == program.get_name();
        if !is_of_clap {
            let about = format!("{}.", command.get_about().unwrap());
            assert!(item.text.starts_with(&about), "{name}: {about} {item:?}");
        }
        for argument in command.get_arguments().filter(|one| !one.is_hide_set()) {
            let item = match argument.get_long() {
                None => item,
                Some(long) => {
                    let long = format!("--{long}");
                    let mut items = inner.iter().chain(&common);
                    items
                        .find(|item| words(&item.head, "--").any(|word| word == long))
                        .unwrap_or_else(|| panic!("{name} {long} is not described"))
                }
            };
            check_argument(name, argument, item, inner);
        }
    }
}

/// An argument is described by an item, and its possible values by items of their own.
fn check_argument(command: &str, argument: &clap::Arg, item: &Item, inner: &[&Item]) {
    let head = item.head.replace(['[', ']'], "");
    let takes_value = argument.get_action().takes_values();
    for name in argument.get_value_names().unwrap_or_default() {
        let name = name.replace(['[', ']'], "");
        let is_there = !takes_value || command == "help" || head.contains(&name);
        assert!(is_there, "{command}: {name} is not in {head:?}");
    }
    if let Some(short) = argument.get_short() {
        assert!(head.contains(&format!("-{short}, ")), "{command}: {head:?}");
    }
    let help = argument
        .get_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let (sentences, default) = sentences(&help);
    if argument.get_long().is_some() && argument.get_id() != "help" {
        for sentence in sentences {
            let is_there = item.text.contains(&sentence) || sentence == "--config implies this.";
            assert!(is_there, "{command}: {sentence:?} is not in {item:?}");
        }
    }
    let defaults = argument.get_default_values().iter();
    let defaults = defaults.map(|value| value.to_string_lossy().into_owned());
    for default in default.into_iter().chain(defaults).filter(|_| takes_value) {
        assert!(
            item.text.contains(&default),
            "{command}: {default} {item:?}"
        );
    }
    if !takes_value {
        return;
    }
    for value in argument.get_possible_values() {
        let described = inner.iter().find(|item| item.head == value.get_name());
        let described =
            described.unwrap_or_else(|| panic!("{} is not described", value.get_name()));
        let help = value.get_help().unwrap().to_string();
        assert_eq!(described.text.trim(), help, "{}", value.get_name());
    }
}

#[test]
fn no_option_is_named_that_does_not_exist() {
    let program = built();
    let of = |command: &clap::Command| -> BTreeSet<String> {
        let options = command.get_arguments().filter_map(clap::Arg::get_long);
        options.map(|long| format!("--{long}")).collect()
    };
    let mut all = of(&program);
    let page = Page::read("sysext-oci-proxy.1");
    let described = page.commands();
    for command in program.get_subcommands() {
        let own = of(command);
        for item in &described[command.get_name()].1 {
            for option in words(&item.head, "--") {
                let name = command.get_name();
                assert!(own.contains(option), "{name} has no {option}");
            }
        }
        all.extend(own);
    }
    for page in PAGES {
        for option in words(&Page::read(page).text, "--") {
            let is_known = all.contains(option) || OPTIONS_OF_OTHERS.contains(&option);
            assert!(is_known, "{page} names {option}");
        }
    }
}

#[test]
fn each_exit_status_is_described() {
    let mut statuses = BTreeSet::from(["0".to_owned()]);
    let code = read("src/error.rs");
    let (_, code) = code.split_once("pub fn exit_status(").unwrap();
    let (code, _) = code.split_once("pub fn ").unwrap();
    let arms = code.lines().filter_map(|line| line.split_once("=> "));
    let found = arms.map(|(_, status)| status.trim_end_matches(','));
    statuses.extend(
        found
            .filter(|one| one.parse::<u8>().is_ok())
            .map(str::to_owned),
    );
    let code = read("src/cli/mod.rs");
    let (_, no) = code.split_once("const NO: u8 = ").unwrap();
    statuses.insert(no.split(';').next().unwrap().to_owned());
    assert!(statuses.len() > 3, "{statuses:?}");
    for page in ["sysext-oci-proxy.1", "sysext-oci-proxy.8"] {
        let page = Page::read(page);
        let described = page.section("EXIT STATUS").map(|item| item.head.clone());
        assert_eq!(described.collect::<BTreeSet<_>>(), statuses);
    }
}

/// The variables of the environment that the program reads. Names are strings in files that read a variable.
fn variables() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for code in journal::sources(&Path::new(ROOT).join("src")) {
        let (code, _) = code
            .split_once("#[cfg(test)]\nmod tests")
            .unwrap_or((&code, ""));
        for (by, names) in VARIABLES_OF_LIBRARIES {
            found.extend(
                names
                    .iter()
                    .filter(|_| code.contains(by))
                    .map(ToString::to_string),
            );
        }
        if !["var_os", "variable("]
            .iter()
            .any(|word| code.contains(word))
        {
            continue;
        }
        let is_name = |text: &&str| {
            let is_upper =
                text.len() > 3 && text.chars().all(|c| c.is_ascii_uppercase() || c == '_');
            // Variables of cargo are read when the program is compiled.
            is_upper && !text.starts_with("CARGO_") || text.ends_with("_proxy")
        };
        let strings = code
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"));
        let strings = strings.flat_map(|line| line.split('"').skip(1).step_by(2));
        found.extend(strings.filter(is_name).map(str::to_owned));
    }
    for unit in [
        "sysext-oci-proxy.service",
        "sysext-oci-proxy-update@.service",
    ] {
        for line in read(Path::new("units").join(unit)).lines() {
            let set = line.strip_prefix("Environment=");
            found.extend(set.map(|set| set.split('=').next().unwrap().to_owned()));
        }
    }
    found
}

#[test]
fn each_variable_of_the_environment_is_described() {
    let page = Page::read("sysext-oci-proxy.8");
    let named = |text: &str| -> BTreeSet<String> {
        words(text, "$").map(|name| name[1..].to_owned()).collect()
    };
    let described: BTreeSet<_> = page
        .section("ENVIRONMENT")
        .flat_map(|item| named(&item.head).into_iter().chain(named(&item.text)))
        .collect();
    assert_eq!(described, variables());
    for page in PAGES {
        let unknown: Vec<_> = named(&Page::read(page).text)
            .difference(&described)
            .cloned()
            .collect();
        assert!(unknown.is_empty(), "{page} names {unknown:?}");
    }
}

#[test]
fn each_kind_of_journal_entry_is_described() {
    let page = Page::read("sysext-oci-proxy.8");
    let fields = |text: &str| -> BTreeSet<String> {
        let names = text
            .split(", ")
            .filter_map(|field| field.trim().split_once('='));
        names.map(|(name, _)| name.to_owned()).collect()
    };
    let mut described = BTreeMap::new();
    let mut of_fields = BTreeSet::new();
    for item in page.section("JOURNAL") {
        if item.head.contains('=') {
            of_fields.extend(fields(&item.head));
            continue;
        }
        let (name, rest) = item.head.split_once(" (").unwrap();
        let (level, id) = rest.split_once("), ").unwrap();
        let (_, named) = item.text.split_once("Fields: ").unwrap_or_default();
        let kind = journal::Kind {
            id: id.to_owned(),
            level: level.to_owned(),
            fields: fields(named),
        };
        described.insert(name.to_owned(), kind);
    }
    let in_code = journal::in_code();
    assert_eq!(described, in_code);
    let logged: BTreeSet<_> = in_code.into_values().flat_map(|kind| kind.fields).collect();
    assert_eq!(of_fields, logged);

    let code = read("src/advice.rs");
    let (_, steps) = code.split_once("pub enum Step {\n").unwrap();
    let (steps, _) = steps.split_once('}').unwrap();
    let steps = steps
        .lines()
        .filter_map(|line| line.trim().strip_suffix(','));
    let mut item = page
        .section("JOURNAL")
        .filter(|item| item.head.contains("STEP="));
    let step = item.next().unwrap();
    let (_, named) = step.text.split_once("failed: ").unwrap();
    let named = named
        .split([',', ' ', '.'])
        .filter(|word| !["", "or"].contains(word));
    assert_eq!(
        named.map(str::to_owned).collect::<Vec<_>>(),
        steps.map(str::to_lowercase).collect::<Vec<_>>()
    );
}

#[test]
fn each_signal_and_unit_is_described() {
    let page = Page::read("sysext-oci-proxy.8");
    let heads = |section: &str| -> BTreeSet<String> {
        let heads = page.section(section).flat_map(|item| item.head.split(", "));
        heads.map(str::to_owned).collect()
    };
    let code = read("src/server/signals.rs");
    let (_, signals) = code.split_once("use signal_hook::consts::{").unwrap();
    let (signals, _) = signals.split_once('}').unwrap();
    let signals = signals.split(", ").map(str::to_owned);
    assert_eq!(heads("SIGNALS"), signals.collect());
    let files = fs::read_dir(Path::new(ROOT).join("units")).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let is_unit = |name: &String| {
        let types = [".service", ".socket", ".timer", ".target", ".path"];
        types.iter().any(|of_unit| name.ends_with(of_unit))
    };
    let units: BTreeSet<_> = files.filter(is_unit).collect();
    assert_eq!(heads("UNITS"), units);
    // By the name of each unit its page is found.
    let source = read("man/sysext-oci-proxy.8");
    let (_, names) = source.split_once(".SH NAME\n").unwrap();
    let (names, _) = names.split_once(" \\- ").unwrap();
    let names: BTreeSet<_> = plain(&names.replace('\n', " "))
        .split(", ")
        .map(str::to_owned)
        .collect();
    let mut expected = units;
    for unit in &expected {
        let link = read(format!("man/{unit}.8"));
        assert_eq!(link, ".so man8/sysext-oci-proxy.8\n", "{unit}");
    }
    expected.insert("sysext-oci-proxy".to_owned());
    assert_eq!(names, expected);
}

#[test]
fn settings_and_pages_that_are_named_exist() {
    let code = read("src/settings/keys.rs");
    let keys = code.split("    (\"").skip(1);
    let mut keys: BTreeSet<_> = keys.map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(keys.contains("immutable-tags"), "{keys:?}");
    // The one key with a hyphen of the tables in `verify`.
    keys.insert("subject-regex");
    for page in PAGES {
        let source = read(Path::new("man").join(page));
        let italics = source.split("\\fI").skip(1);
        for word in italics.map(|rest| plain(rest.split("\\fR").next().unwrap())) {
            let is_key =
                word.contains('-') && word.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            assert!(
                !is_key || keys.contains(word.as_str()),
                "{page} names {word}"
            );
        }
        for reference in source.lines().filter(|line| line.starts_with("\\fBsysext")) {
            let reference = plain(reference);
            let (name, section) = match reference.split_once('(') {
                Some(found) if !found.0.contains(' ') => found,
                _ => continue,
            };
            let file = format!("man/{name}.{}", section.split(')').next().unwrap());
            assert!(Path::new(ROOT).join(&file).exists(), "{page} names {file}");
        }
    }
}

/// The files that `make install` installs for a package.
fn installed() -> Option<BTreeSet<String>> {
    let folder = Folder::new();
    let make = Command::new("make")
        .current_dir(ROOT)
        .args([
            "--silent",
            "install",
            "PREFIX=/usr",
            "UNITDIR=/usr/lib/systemd/system",
        ])
        .arg(format!("DESTDIR={}", folder.path().display()))
        .arg("BINARY=Cargo.toml") // any file
        .env_remove("MAKEFLAGS")
        .status()
        .ok()?;
    assert!(make.success());
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.path().to_owned()];
    while let Some(one) = folders.pop() {
        for entry in fs::read_dir(one).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let path = path.strip_prefix(folder.path()).unwrap();
                    found.insert(format!("/{}", path.display()));
                }
            }
        }
    }
    Some(found)
}

#[test]
fn each_installed_file_is_described() {
    // Without make nothing can be installed by it.
    let Some(installed) = installed() else { return };
    let page = Page::read("sysext-oci-proxy.8");
    let files: Vec<_> = page.section("FILES").collect();
    for path in &installed {
        let (folder, name) = path.rsplit_once('/').unwrap();
        if let Some(page) = path.strip_prefix("/usr/share/man/man") {
            let (_, page) = page.split_once('/').unwrap();
            assert!(Path::new(ROOT).join("man").join(page).exists(), "{path}");
            continue;
        }
        let is_described = files.iter().any(|item| {
            let heads: Vec<_> = item.head.split(", ").collect();
            let is_in_folder = heads.contains(&format!("{folder}/").as_str());
            heads.contains(&path.as_str())
                || is_in_folder
                    && item
                        .text
                        .split([' ', ','])
                        .any(|word| word.trim_end_matches('.') == name)
        });
        assert!(is_described, "{path} is not described");
    }
    let pages = fs::read_dir(Path::new(ROOT).join("man")).unwrap();
    let pages = pages
        .map(|page| page.unwrap())
        .filter(|page| page.path().is_file());
    for page in pages.map(|page| page.file_name().into_string().unwrap()) {
        let section = page.rsplit('.').next().unwrap();
        let path = format!("/usr/share/man/man{section}/{page}");
        assert!(installed.contains(&path), "{path} is not installed");
    }
    let ours = [
        "/usr/bin/sysext",
        "/usr/lib/systemd/",
        "/usr/share/bash",
        "/usr/share/zsh",
        "/usr/share/fish",
    ];
    for head in files.iter().flat_map(|item| item.head.split(", ")) {
        let is_ours = ours.iter().any(|beginning| head.starts_with(beginning));
        let is_installed = installed.iter().any(|path| path.starts_with(head));
        assert!(!is_ours || is_installed, "{head} is not installed");
    }
}
