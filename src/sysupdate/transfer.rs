//! A transfer file as systemd-sysupdate takes it: its settings, checked. No I/O.
//!
//! The rules are those of `transfer_read_definition` and `transfer_finalize` (systemd:
//! src/sysupdate/sysupdate-transfer.c). systemd ignores a value that it cannot read, with a warning, and refuses a file
//! that lacks what it needs. One refused file ends the update of its whole component.

use std::path::{Component, Path, PathBuf};

use super::SystemdVersion;
use super::files::Definition;
use super::pattern::{Pattern, boolean};
use super::specifiers::Specifiers;
use super::syntax::{Assignment, Fault, Place};

/// The settings of each section.
const KEYS: [(&str, &[&str]); 3] = [
    (
        "Transfer",
        &[
            "MinVersion",
            "MaxVersion",
            "ProtectVersion",
            "Verify",
            "ChangeLog",
            "AppStream",
            "Features",
            "RequisiteFeatures",
        ],
    ),
    (
        "Source",
        &["Type", "Path", "PathRelativeTo", "MatchPattern"],
    ),
    (
        "Target",
        &[
            "Type",
            "Path",
            "PathRelativeTo",
            "MatchPattern",
            "MatchPartitionType",
            "PartitionUUID",
            "PartitionFlags",
            "PartitionNoAuto",
            "PartitionGrowFileSystem",
            "ReadOnly",
            "Mode",
            "TriesLeft",
            "TriesDone",
            "InstancesMax",
            "RemoveTemporary",
            "CurrentSymlink",
        ],
    ),
];
/// The default of `InstancesMax=`, and its smallest value.
const INSTANCES: u64 = 3;
const FEWEST_INSTANCES: u64 = 2;
/// Before the name of a setting or section that is for other programs.
const OF_OTHERS: &str = "X-";

/// A transfer file.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Its path on the machine.
    pub file: PathBuf,
    /// `None` for the OS itself.
    pub component: Option<String>,
    /// Whether the list has to be signed: `Verify=`, which is yes where it is not set.
    pub verify: bool,
    /// Older versions are not installed.
    pub min_version: Option<String>,
    /// The features that must be enabled for systemd to use it: `Features=` and `RequisiteFeatures=`.
    pub features: Vec<String>,
    pub source: Source,
    pub target: Target,
    /// Settings in it that systemd ignores.
    pub ignored: Vec<Fault>,
}

/// The source of the versions.
#[derive(Clone, Debug)]
pub struct Source {
    pub kind: SourceKind,
    /// The line that has the URL or path.
    pub path_at: Place,
    pub patterns: Vec<Pattern>,
    /// The last line that has one.
    pub patterns_at: Place,
    /// The patterns as they are written, with specifiers.
    pub written: String,
}

/// The target of the versions.
#[derive(Clone, Debug)]
pub struct Target {
    pub kind: TargetKind,
    /// `None` for `auto`: the disk of the root file system.
    pub path: Option<PathBuf>,
    /// The line that has it.
    pub path_at: Place,
    /// Whether the path is below a directory of the boot partitions: `PathRelativeTo=`.
    pub is_in_boot: bool,
    /// Its patterns; those of the source if it has none.
    pub patterns: Vec<Pattern>,
    /// The link to the newest version, from the root or from the directory.
    pub current_symlink: Option<PathBuf>,
    /// Most versions in a directory, the new one among them: `InstancesMax=`.
    pub instances_max: u64,
}

/// `Type=` of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    UrlFile,
    UrlTar,
    /// `regular-file`, on this machine.
    File,
    /// `directory`, `tar` or `subvolume`, on this machine.
    Directory,
}

/// `Type=` of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetKind {
    Partition,
    RegularFile,
    Directory,
    Subvolume,
}

impl Transfer {
    /// From a transfer file and its drop-ins. The error is what makes systemd refuse the file.
    pub fn parse(
        definition: &Definition,
        specifiers: &Specifiers,
        systemd: SystemdVersion,
    ) -> Result<Self, Fault> {
        let assignments = definition.assignments.clone()?;
        let mut reader = Reader {
            file: &definition.path,
            specifiers,
            systemd,
            ignored: definition.ignored.clone(),
        };
        let assignments: Vec<_> = assignments
            .into_iter()
            .filter(|one| reader.is_known(one))
            .collect();
        let found = Fields::read(&assignments, &mut reader)?;
        found.finish(definition, reader)
    }
}

impl Target {
    /// The directory that is installed to, if it has a path of its own: partitions have none, and boot partitions are
    /// mounted at different places.
    pub fn directory(&self) -> Option<&Path> {
        let is_in_directory = self.kind != TargetKind::Partition && !self.is_in_boot;
        self.path.as_deref().filter(|_| is_in_directory)
    }
}

/// The context in which all values are parsed.
struct Reader<'a> {
    /// The transfer file, for what is missing in it.
    file: &'a Path,
    specifiers: &'a Specifiers,
    systemd: SystemdVersion,
    ignored: Vec<Fault>,
}

/// The values so far. The last assignment counts, but patterns are added.
#[derive(Default)]
struct Fields {
    verify: Option<bool>,
    min_version: Option<String>,
    features: Vec<String>,
    requisite_features: Vec<String>,
    source_kind: Option<SourceKind>,
    source_path: Option<(String, Place)>,
    source_patterns: Patterns,
    target_kind: Option<TargetKind>,
    target_path: Option<(String, Place)>,
    is_in_boot: bool,
    target_patterns: Patterns,
    current_symlink: Option<PathBuf>,
    instances_max: Option<u64>,
}

#[derive(Default)]
struct Patterns {
    all: Vec<Pattern>,
    at: Option<Place>,
    written: String,
}

impl Reader<'_> {
    fn ignore(&mut self, place: &Place, why: impl Into<String>) {
        self.ignored.push(place.fault(why));
    }

    fn is_known(&mut self, one: &Assignment) -> bool {
        let (section, key) = (one.section.as_str(), one.key.as_str());
        if section.starts_with(OF_OTHERS) || key.starts_with(OF_OTHERS) {
            return false;
        }
        let keys = KEYS.iter().find(|(name, _)| *name == section);
        let Some((_, keys)) = keys else {
            let near = nearest(section, KEYS.iter().map(|(name, _)| *name));
            let why =
                format!("[{section}] is no section of a transfer file, so it is ignored{near}");
            self.ignore(&one.place, why);
            return false;
        };
        if !keys.contains(&key) {
            let near = nearest(key, keys.iter().copied());
            let why = format!("{key}= is no setting of [{section}], so it is ignored{near}");
            self.ignore(&one.place, why);
            return false;
        }
        true
    }

    /// The value with specifiers expanded; `None` if systemd ignores it.
    fn expanded(&mut self, one: &Assignment) -> Option<String> {
        let expanded = self.specifiers.expand(&one.value);
        expanded
            .map_err(|why| self.ignore(&one.place, format!("{}= is ignored: {why}", one.key)))
            .ok()
    }

    fn missing(&self, why: &str) -> Fault {
        Fault {
            file: self.file.to_owned(),
            line: None,
            why: why.to_owned(),
        }
    }
}

impl Fields {
    fn read(assignments: &[Assignment], reader: &mut Reader) -> Result<Self, Fault> {
        let mut found = Self::default();
        for one in assignments {
            match (one.section.as_str(), one.key.as_str()) {
                ("Transfer", "Verify") => found.read_verify(one, reader),
                ("Transfer", "MinVersion") => found.min_version = reader.expanded(one),
                ("Transfer", "Features") => add_words(&mut found.features, &one.value),
                ("Transfer", "RequisiteFeatures") => {
                    add_words(&mut found.requisite_features, &one.value);
                }
                ("Source", "Type") => found.read_source_kind(one, reader),
                ("Source", "Path") => read_path(&mut found.source_path, one, reader),
                ("Source", "MatchPattern") => found.source_patterns.add(one, reader)?,
                ("Target", "Type") => found.read_target_kind(one, reader),
                ("Target", "Path") => read_path(&mut found.target_path, one, reader),
                ("Target", "PathRelativeTo") => {
                    let places = ["boot", "esp", "xbootldr"];
                    found.is_in_boot = places.contains(&one.value.as_str());
                }
                ("Target", "MatchPattern") => found.target_patterns.add(one, reader)?,
                ("Target", "CurrentSymlink") => {
                    let path = reader.expanded(one).filter(|path| !path.is_empty());
                    found.current_symlink = path.map(PathBuf::from);
                }
                ("Target", "InstancesMax") => found.read_instances_max(one, reader),
                _ => {}
            }
        }
        Ok(found)
    }

    fn read_verify(&mut self, one: &Assignment, reader: &mut Reader) {
        match boolean(&one.value) {
            _ if one.value.is_empty() => self.verify = None,
            None => {
                let why = format!(
                    "Verify={} is neither yes nor no, so it is ignored",
                    one.value
                );
                reader.ignore(&one.place, why);
            }
            read => self.verify = read,
        }
    }

    /// 0 stands for the default.
    fn read_instances_max(&mut self, one: &Assignment, reader: &mut Reader) {
        match one.value.parse::<u64>() {
            _ if one.value.is_empty() => self.instances_max = None,
            Err(_) => {
                let why = format!("InstancesMax={} is no number, so it is ignored", one.value);
                reader.ignore(&one.place, why);
            }
            Ok(0) => self.instances_max = None,
            Ok(most) => self.instances_max = Some(most.max(FEWEST_INSTANCES)),
        }
    }

    fn read_source_kind(&mut self, one: &Assignment, reader: &mut Reader) {
        match one.value.as_str() {
            "url-file" => self.source_kind = Some(SourceKind::UrlFile),
            "url-tar" => self.source_kind = Some(SourceKind::UrlTar),
            "regular-file" => self.source_kind = Some(SourceKind::File),
            "tar" | "directory" | "subvolume" => self.source_kind = Some(SourceKind::Directory),
            other => reader.ignore(
                &one.place,
                format!("Type={other} is no source, so it is ignored"),
            ),
        }
    }

    fn read_target_kind(&mut self, one: &Assignment, reader: &mut Reader) {
        match one.value.as_str() {
            "partition" => self.target_kind = Some(TargetKind::Partition),
            "regular-file" => self.target_kind = Some(TargetKind::RegularFile),
            "directory" => self.target_kind = Some(TargetKind::Directory),
            "subvolume" => self.target_kind = Some(TargetKind::Subvolume),
            other => reader.ignore(
                &one.place,
                format!("Type={other} is no target, so it is ignored"),
            ),
        }
    }

    fn finish(self, definition: &Definition, reader: Reader) -> Result<Transfer, Fault> {
        let missing = |why| reader.missing(why);
        let kind = self.source_kind.ok_or_else(|| {
            missing("[Source] has no Type=; one that this service answers is url-file or url-tar")
        })?;
        let (_, path_at) = self.source_path.ok_or_else(|| {
            missing("[Source] has no Path=, such as http://localhost:5001/REPOSITORY")
        })?;
        let Some(patterns_at) = self.source_patterns.at else {
            return Err(missing("[Source] has no MatchPattern="));
        };
        let source = Source {
            kind,
            path_at,
            patterns: self.source_patterns.all,
            patterns_at,
            written: self.source_patterns.written,
        };
        let (path, path_at) = self
            .target_path
            .ok_or_else(|| missing("[Target] has no Path=, the directory to install to"))?;
        let kind = target_kind(self.target_kind, kind, &path);
        check_kinds(source.kind, kind).map_err(missing)?;
        let path = (path != "auto").then(|| PathBuf::from(path));
        if path.as_deref().is_some_and(|path| !is_normal(path)) {
            return Err(path_at.fault("Path= of [Target] is no absolute path without `..`"));
        }
        let patterns = match self.target_patterns.all {
            none if none.is_empty() => source.patterns.clone(),
            own => own,
        };
        let target = Target {
            kind,
            path,
            path_at,
            is_in_boot: self.is_in_boot,
            patterns,
            current_symlink: self.current_symlink,
            instances_max: self.instances_max.unwrap_or(INSTANCES),
        };
        Ok(Transfer {
            file: definition.path.clone(),
            component: definition.component.clone(),
            verify: self.verify.unwrap_or(true),
            min_version: self.min_version.filter(|version| !version.is_empty()),
            features: [self.features, self.requisite_features].concat(),
            source,
            target,
            ignored: reader.ignored,
        })
    }
}

impl Patterns {
    /// Adds those of a line; an empty one removes all before it.
    fn add(&mut self, one: &Assignment, reader: &mut Reader) -> Result<(), Fault> {
        if one.value.is_empty() {
            *self = Self::default();
            return Ok(());
        }
        for written in one.value.split_whitespace() {
            let text = match reader.specifiers.expand(written) {
                Ok(text) => text,
                // systemd ignores the rest of the line, too.
                Err(why) => {
                    reader.ignore(&one.place, format!("MatchPattern= is ignored: {why}"));
                    return Ok(());
                }
            };
            let pattern = Pattern::parse(&text, reader.systemd)
                .map_err(|why| one.place.fault(format!("MatchPattern={written}: {why}")))?;
            self.written = format!("{} {written}", self.written)
                .trim_start()
                .to_owned();
            self.all.push(pattern);
            self.at = Some(one.place.clone());
        }
        Ok(())
    }
}

fn read_path(path: &mut Option<(String, Place)>, one: &Assignment, reader: &mut Reader) {
    if let Some(read) = reader.expanded(one) {
        *path = Some((read, one.place.clone())).filter(|(path, _)| !path.is_empty());
    }
}

/// Adds the words of a line; an empty one removes all before it.
fn add_words(words: &mut Vec<String>, value: &str) {
    match value.is_empty() {
        true => words.clear(),
        false => words.extend(value.split_whitespace().map(str::to_owned)),
    }
}

/// The type of a target, also where it is not said.
fn target_kind(said: Option<TargetKind>, source: SourceKind, path: &str) -> TargetKind {
    said.unwrap_or(match source {
        SourceKind::UrlFile | SourceKind::File if Path::new(path).starts_with("/dev") => {
            TargetKind::Partition
        }
        SourceKind::UrlFile | SourceKind::File => TargetKind::RegularFile,
        SourceKind::UrlTar | SourceKind::Directory => TargetKind::Directory,
    })
}

fn check_kinds(source: SourceKind, target: TargetKind) -> Result<(), &'static str> {
    let is_of_files = matches!(source, SourceKind::UrlFile | SourceKind::File);
    let is_for_files = matches!(target, TargetKind::Partition | TargetKind::RegularFile);
    match (is_of_files, is_for_files) {
        (true, false) => Err(
            "Type= of [Source] is of files, and that of [Target] of directories; url-file goes with regular-file \
             or partition",
        ),
        (false, true) => Err(
            "Type= of [Source] is of directories, and that of [Target] of files; url-tar goes with directory or \
             subvolume",
        ),
        _ => Ok(()),
    }
}

/// Whether a path is absolute, and has no `.` or `..` in it.
fn is_normal(path: &Path) -> bool {
    let is_plain = |part: Component| matches!(part, Component::RootDir | Component::Normal(_));
    path.is_absolute() && path.components().all(is_plain)
}

/// `; did you mean NAME?`, if one is near.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    /// How alike two names are, from 0 to 1, so that one is meant by the other.
    const ALIKE: f64 = 0.8;
    let likeness = |known: &str| strsim::jaro(&name.to_lowercase(), &known.to_lowercase());
    let best = known.max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    match best.filter(|best| likeness(best) > ALIKE) {
        Some(best) => format!("; did you mean {best}?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::syntax;
    use super::*;

    const FILE: &str = "/etc/sysupdate.d/k.transfer";
    const SOURCE: &str =
        "[Source]\nType=url-file\nPath=http://localhost:5001/k\nMatchPattern=k-@v.raw\n";
    const TARGET: &str = "[Target]\nType=regular-file\nPath=/var/lib/extensions.d\n";

    fn parse(text: &str) -> Result<Transfer, String> {
        let mut ignored = Vec::new();
        let definition = Definition {
            path: FILE.into(),
            component: Some("k".into()),
            is_read: true,
            assignments: syntax::parse(Path::new(FILE), text, &mut ignored),
            ignored,
        };
        let parsed = Transfer::parse(&definition, &Specifiers::default(), SystemdVersion(262));
        parsed.map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_transfer_file_is_read_with_its_defaults() {
        let found = parse(&format!("{SOURCE}{TARGET}")).unwrap();
        assert_eq!(found.ignored, []);
        assert!(found.verify, "Verify= is yes by default");
        assert_eq!(found.min_version, None);
        assert_eq!(found.source.kind, SourceKind::UrlFile);
        assert_eq!(found.source.path_at.to_string(), format!("{FILE}:3"));
        assert_eq!(found.source.patterns_at.line, 4);
        assert_eq!(found.target.patterns, found.source.patterns);
        assert_eq!(found.target.path, Some("/var/lib/extensions.d".into()));
        assert_eq!(
            (found.target.is_in_boot, found.target.current_symlink),
            (false, None)
        );
    }

    #[test]
    fn what_is_said_counts_and_the_last_of_each() {
        let text = format!(
            "[Transfer]\nVerify=no\nMinVersion=1.2\nX-Of=others\n{SOURCE}MatchPattern=a_@v.raw  b_@v\n\
             MatchPattern=\nMatchPattern=c_@v.raw d_@v.raw\nMatchPattern=e_@v.raw\n\
             [Target]\nPath=auto\nType=partition\nMatchPattern=p_@v\nPathRelativeTo=boot\nCurrentSymlink=k.raw\n\
             [X-Section]\na=b\n"
        );
        let found = parse(&text).unwrap();
        assert_eq!(found.ignored, []);
        assert!(!found.verify);
        assert_eq!(found.min_version.as_deref(), Some("1.2"));
        let patterns: Vec<_> = found
            .source
            .patterns
            .iter()
            .map(Pattern::to_string)
            .collect();
        assert_eq!(patterns, ["c_@v.raw", "d_@v.raw", "e_@v.raw"]);
        assert_eq!(found.source.written, "c_@v.raw d_@v.raw e_@v.raw");
        assert_eq!(found.source.patterns_at.line, 12);
        assert_eq!(
            (found.target.kind, found.target.path),
            (TargetKind::Partition, None)
        );
        assert_eq!(found.target.patterns.len(), 1);
        assert!(found.target.is_in_boot);
        assert_eq!(found.target.current_symlink, Some("k.raw".into()));
    }

    #[test]
    fn features_are_added_up_to_an_empty_line() {
        for (lines, expected) in [
            ("", &[] as &[&str]),
            (
                "Features=a b\nRequisiteFeatures=c\nFeatures=d\n",
                &["a", "b", "d", "c"],
            ),
            ("Features=a\nFeatures=\nRequisiteFeatures=c\n", &["c"]),
        ] {
            let found = parse(&format!("[Transfer]\n{lines}{SOURCE}{TARGET}")).unwrap();
            assert_eq!(found.features, expected, "{lines}");
        }
    }

    #[test]
    fn at_least_two_versions_are_kept() {
        for (value, expected, ignored) in [
            ("", 3, 0),
            ("InstancesMax=5\n", 5, 0),
            ("InstancesMax=1\n", 2, 0),
            ("InstancesMax=0\n", 3, 0),
            ("InstancesMax=5\nInstancesMax=\n", 3, 0),
            ("InstancesMax=5\nInstancesMax=many\n", 5, 1),
        ] {
            let found = parse(&format!("{SOURCE}{TARGET}{value}")).unwrap();
            assert_eq!(found.target.instances_max, expected, "{value}");
            assert_eq!(found.ignored.len(), ignored, "{value}");
        }
    }

    #[test]
    fn the_type_of_a_target_follows_from_its_source() {
        for (source, path, expected) in [
            ("url-file", "/var/lib/extensions", TargetKind::RegularFile),
            ("regular-file", "/dev/vda", TargetKind::Partition),
            ("url-tar", "/var/lib/extensions", TargetKind::Directory),
            ("tar", "/var/lib/machines", TargetKind::Directory),
        ] {
            let text = format!("{SOURCE}Type={source}\n[Target]\nPath={path}\n");
            assert_eq!(
                parse(&text).unwrap().target.kind,
                expected,
                "{source} {path}"
            );
        }
    }

    #[test]
    fn a_file_that_systemd_refuses_is_refused_with_its_line() {
        for (text, expected) in [
            (String::new(), ": [Source] has no Type="),
            (
                format!("{SOURCE}Path=\n{TARGET}"),
                ": [Source] has no Path=",
            ),
            (
                format!("{SOURCE}MatchPattern=\n{TARGET}"),
                ": [Source] has no MatchPattern=",
            ),
            (
                format!("{SOURCE}MatchPattern=k.raw\n{TARGET}"),
                ":5: MatchPattern=k.raw: it has no `@v`",
            ),
            (SOURCE.to_owned(), ": [Target] has no Path="),
            (
                format!("{SOURCE}{TARGET}Type=directory"),
                ": Type= of [Source] is of files",
            ),
            (
                format!("{SOURCE}Type=url-tar\n{TARGET}"),
                ": Type= of [Source] is of directories",
            ),
            (
                format!("{SOURCE}{TARGET}Path=var/lib"),
                ":8: Path= of [Target] is no absolute path",
            ),
            (
                format!("{SOURCE}{TARGET}Path=/var/../lib"),
                ":8: Path= of [Target] is no absolute path",
            ),
            (
                format!("{SOURCE}{TARGET}[Target"),
                ":8: `[Target` has no `]`",
            ),
        ] {
            let why = parse(&text).unwrap_err();
            assert!(
                why.starts_with(&format!("{FILE}{expected}")),
                "{text}: {why}"
            );
        }
    }

    #[test]
    fn what_systemd_ignores_is_told_with_its_line() {
        for (line, expected) in [
            ("Mode=0644", None),
            (
                "Insatnces=3",
                Some("Insatnces= is no setting of [Target], so it is ignored"),
            ),
            ("InstanceMax=3", Some("did you mean InstancesMax?")),
            ("Verify=no", Some("Verify= is no setting of [Target]")),
            ("CurrentSymlink=%y", Some("`%y` is no specifier")),
            ("Type=file", Some("Type=file is no target")),
            ("MatchPattern=%y_@v", Some("MatchPattern= is ignored")),
            (
                "[Sources]\nPath=/a",
                Some(
                    "[Sources] is no section of a transfer file, so it is ignored; did you mean Source?",
                ),
            ),
            (
                "[Transfer]\nVerify=maybe",
                Some("Verify=maybe is neither yes nor no"),
            ),
            ("[Source]\nType=url", Some("Type=url is no source")),
        ] {
            let found = parse(&format!("{SOURCE}{TARGET}{line}\n")).unwrap();
            let ignored: Vec<_> = found.ignored.iter().map(Fault::to_string).collect();
            match expected {
                None => assert_eq!(ignored, [""; 0], "{line}"),
                Some(expected) => {
                    assert_eq!(ignored.len(), 1, "{line}: {ignored:?}");
                    assert!(ignored[0].contains(expected), "{line}: {ignored:?}");
                    let line = 7 + line.lines().count();
                    assert!(
                        ignored[0].starts_with(&format!("{FILE}:{line}: ")),
                        "{ignored:?}"
                    );
                }
            }
        }
    }
}
