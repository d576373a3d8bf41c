//! Files on offer → transfer files, as whole texts, and as what systemd reads in them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::named::tests::{file, machine};
use super::patterns::tests::{NEW, OLD};
use super::*;
use crate::server::json::SignedBy;
use crate::sysupdate::{self, Specifiers, Transfer};

const USR: &str = "os-v1.usr-x86-64.4f68bce3-e8cd-4db1-96e7-fbcaf984b709.raw v1 x86-64";
const VERITY: &str = "os-v1.usr-x86-64-verity.8484680c-9521-48c6-9c11-b0720656f69e.raw v1 x86-64";

/// Why it is there, the files, an option, and the parts or the reason why there are none.
type Case = (
    &'static str,
    &'static [&'static str],
    Option<&'static str>,
    Result<&'static [&'static str], &'static str>,
);

/// The plan for files `name version architecture`. `options`: words of `sysext`, … or the name of a file.
fn planned(
    texts: &[&str],
    base: &str,
    shape: Option<&str>,
    says: Option<Result<Extension, String>>,
    systemd: SystemdVersion,
) -> Result<Plan, String> {
    let files: Vec<_> = texts.iter().map(|text| file(text)).collect();
    let is_for_machine = |file: &&File| file.architecture.is_none_or(|one| one == machine());
    let ours = || files.iter().filter(is_for_machine);
    let is_v_literal = named::is_v_literal(ours().filter_map(|file| file.version.as_deref()));
    let offers: Vec<_> = ours()
        .filter_map(|file| Named::new(file, base, machine(), |_| is_v_literal))
        .collect();
    let all: Vec<_> = files.iter().map(|file| &file.name).collect();
    let (like, shape) = match shape {
        Some(like) if like.contains('.') => (Some(like), None),
        shape => (None, shape),
    };
    let shape = shape.map(|name| clap::ValueEnum::from_str(name, false).unwrap());
    let rules = Rules {
        systemd,
        machine: machine(),
    };
    let mut wish = Wish {
        rules,
        shape,
        like,
        says: None,
    };
    if shapes::undecided(&offers, &wish).is_some() {
        wish.says = Some(says.unwrap_or(Ok(Extension::Sysext)));
    }
    shapes::plan(&offers, &all, &wish)
}

/// The patterns of each part.
fn patterns_of(plan: &Plan) -> Vec<String> {
    let text = |part: &shapes::Part| {
        let patterns: Vec<_> = part.patterns.iter().map(|one| one.text.as_str()).collect();
        format!("{:?} {}", part.becomes, patterns.join(" "))
    };
    plan.parts.iter().map(text).collect()
}

fn frame<'a>(component: &'a Component, systemd: SystemdVersion) -> Frame<'a> {
    Frame {
        component,
        url: "http://localhost:5001/k8s",
        signed: None,
        systemd,
        running: "0.9",
        name: component,
        sysupdate: "/usr/lib/systemd/systemd-sysupdate",
        command: "sysext-oci-proxy transfer k8s",
    }
}

#[test]
fn what_is_on_offer_has_a_shape_or_a_reason_why_it_has_none() {
    let cases: &[Case] = &[
        (
            "an image of an extension",
            &["k-v1-x86-64.raw v1 x86-64", "k-v2-x86-64.raw v2 x86-64"],
            None,
            Ok(&["Image(Sysext) k-v@v-%a.raw"]),
        ),
        (
            "the same with what verifies it",
            &["k-1.raw 1 -", "k-1.roothash 1 -", "k-1.verity 1 -"],
            None,
            Ok(&[
                "Companion(Sysext, \".roothash\") k-@v.roothash",
                "Companion(Sysext, \".verity\") k-@v.verity",
                "Image(Sysext) k-@v.raw",
            ]),
        ),
        (
            "a container image",
            &["k-v1.tar.gz v1 -", "k-v0.raw v0 -"],
            None,
            Ok(&["Tree(Sysext) k-v@v.tar.gz"]),
        ),
        (
            "both kinds of extensions",
            &[
                "k-v2.confext.raw v2 -",
                "k-v2.sysext.raw v2 -",
                "k-v1.raw v1 -",
            ],
            None,
            Ok(&[
                "Image(Confext) k-v@v.confext.raw",
                "Image(Sysext) k-v@v.sysext.raw",
            ]),
        ),
        (
            "one of them",
            &["k-v2.confext.raw v2 -", "k-v2.sysext.raw v2 -"],
            Some("sysext"),
            Ok(&["Image(Sysext) k-v@v.sysext.raw"]),
        ),
        (
            "a kernel, packed otherwise than before",
            &[
                "k-v2.vmlinuz v2 -",
                "k-v2.initramfs.gz v2 -",
                "k-v2.cmdline v2 -",
                "k-v1.vmlinuz v1 -",
                "k-v1.initramfs v1 -",
            ],
            None,
            Ok(&[
                "Initrd k-v@v.initramfs.gz k-v@v.initramfs",
                "Kernel k-v@v.vmlinuz",
            ]),
        ),
        (
            "a kernel alone",
            &["k-v2.vmlinuz v2 -"],
            None,
            Err("no shape has such files"),
        ),
        ("a UKI", &["k-v1.efi v1 -"], None, Ok(&["Uki k-v@v.efi"])),
        (
            "two of them",
            &["k-v1.efi v1 -", "k-v1-shim.efi v1 -"],
            None,
            Err("version 1 has both k-v1.efi and k-v1-shim.efi; select one of them"),
        ),
        (
            "one of those",
            &["k-v1.efi v1 -", "k-v1-shim.efi v1 -"],
            Some("k-v1-shim.efi"),
            Ok(&["Uki k-v@v-shim.efi"]),
        ),
        (
            "a whole OS",
            &[USR, VERITY, "os-v1.efi v1 -"],
            None,
            Ok(&[
                "Partition(\"usr-verity\") os-v@v.usr-%a-verity.@u.raw",
                "Partition(\"usr\") os-v@v.usr-%a.@u.raw",
                "Uki os-v@v.efi",
            ]),
        ),
        (
            "its UKI alone",
            &[USR, VERITY, "os-v1.efi v1 -"],
            Some("uki"),
            Ok(&["Uki os-v@v.efi"]),
        ),
        (
            "all that a Garden Linux has",
            &[
                "k-v1.efi v1 -",
                "k-v1.raw v1 -",
                "k-v1.vmlinuz v1 -",
                "k-v1.initramfs v1 -",
                "k-v1.qcow2 v1 -",
            ],
            None,
            Err("--shape selects what to install: sysext, confext, portable, kernel, uki"),
        ),
        (
            "the kernel of those",
            &[
                "k-v1.efi v1 -",
                "k-v1.raw v1 -",
                "k-v1.vmlinuz v1 -",
                "k-v1.initramfs v1 -",
            ],
            Some("kernel"),
            Ok(&["Initrd k-v@v.initramfs", "Kernel k-v@v.vmlinuz"]),
        ),
        (
            "another shape than there is",
            &["k-v1.efi v1 -"],
            Some("kernel"),
            Err("no file is of the shape kernel"),
        ),
        (
            "a disk for a hypervisor",
            &["k-v1.qcow2 v1 -"],
            None,
            Err("no file that systemd-sysupdate could install"),
        ),
    ];
    for (why, files, shape, expected) in cases {
        let base = files[0].split('-').next().unwrap();
        let found = planned(files, base, *shape, None, NEW);
        match (&found, expected) {
            (Ok(plan), Ok(expected)) => assert_eq!(patterns_of(plan), *expected, "{why}"),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{why}: {found}"),
            _ => panic!("{why}: {found:?} instead of {expected:?}"),
        }
    }
}

#[test]
fn an_image_that_does_not_say_what_it_is_is_asked_for() {
    let files = ["k-v1.raw v1 -"];
    let why = "it is ext4".to_owned();
    let said = planned(&files, "k", None, Some(Err(why)), NEW).unwrap_err();
    assert_eq!(
        said,
        "the newest version has k-v1.raw: it is ext4; --shape selects what to install: sysext, confext, portable"
    );
    let plan = planned(&files, "k", None, Some(Ok(Extension::Confext)), NEW).unwrap();
    assert_eq!(patterns_of(&plan), ["Image(Confext) k-v@v.raw"]);
}

#[test]
fn what_no_pattern_matches_is_named_with_the_reason() {
    let files = [
        "k-v2-x86-64.raw v2 x86-64",
        "k-latest-x86-64.raw latest x86-64",
        "k-v1-amd64.raw.zst v1 x86-64",
        "k-v2-x86-64.efi v2 x86-64",
    ];
    let plan = planned(&files, "k", Some("sysext"), None, OLD).unwrap();
    let left_out: Vec<_> = plan
        .left_out
        .iter()
        .map(|(name, why)| (name.as_str(), why.as_str()))
        .collect();
    assert_eq!(
        left_out,
        [
            (
                "k-latest-x86-64.raw",
                "latest is a name, and cannot be compared with versions"
            ),
            ("k-v1-amd64.raw.zst", "systemd 257 does not unpack zstd"),
            ("k-v2-x86-64.efi", "it is not part of sysext"),
        ]
    );
}

#[test]
fn an_extension_is_in_a_directory_of_versions() {
    let plan = planned(&["k8s-v1-x86-64.raw v1 x86-64"], "k8s", None, None, NEW).unwrap();
    let component = "k8s".parse().unwrap();
    let mut frame = frame(&component, OLD);
    let files = text::files(&plan.parts, &frame).unwrap();
    assert_eq!(files[0].name, "k8s.transfer");
    assert_eq!(
        files[0].text,
        "# /etc/sysupdate.k8s.d/k8s.transfer\n\
         # Written by `sysext-oci-proxy transfer k8s`.\n\
         # Next: /usr/lib/systemd/systemd-sysupdate -C k8s list\n\
         \n\
         [Transfer]\n\
         # The list has no signature. Each file is checked against the list.\n\
         Verify=no\n\
         \n\
         [Source]\n\
         Type=url-file\n\
         Path=http://localhost:5001/k8s\n\
         MatchPattern=k8s-v@v-%a.raw\n\
         \n\
         [Target]\n\
         Type=regular-file\n\
         Path=/var/lib/extensions/k8s.raw.v\n\
         MatchPattern=k8s_@v.raw\n\
         Mode=0444\n\
         InstancesMax=3\n"
    );
    assert_eq!(
        text::next(&plan.parts, &frame)[1..],
        [
            "/usr/lib/systemd/systemd-sysupdate -C k8s update",
            "systemd-sysext refresh"
        ]
    );
    frame.systemd = SystemdVersion(256);
    assert_eq!(
        text::files(&plan.parts, &frame).unwrap()[0].name,
        "k8s.conf"
    );
    for (systemd, keyring) in [(OLD, "import-pubring.gpg"), (NEW, "import-pubring.pgp")] {
        (frame.systemd, frame.signed) = (systemd, Some(SignedBy::Publisher));
        let text = &text::files(&plan.parts, &frame).unwrap()[0].text;
        assert!(
            text.contains("Verify=yes") && text.contains(keyring),
            "{text}"
        );
    }
    frame.signed = Some(SignedBy::Machine);
    let text = &text::files(&plan.parts, &frame).unwrap()[0].text;
    assert!(
        text.contains("Verify=yes") && text.contains("key --install"),
        "{text}"
    );
}

#[test]
fn versions_that_systemd_would_misread_have_a_link() {
    let component = "k8s".parse().unwrap();
    for (files, expected) in [
        (&["k8s-1.0.raw 1.0 -"][..], false),
        (&["k8s-1.0.raw 1.0 -", "k8s-1.1_2.raw 1.1_2 -"], true),
        (&["k8s-1.0+2.raw 1.0+2 -"], true),
        (&["k8s-1.1_2.tar.gz 1.1_2 -"], true),
    ] {
        let plan = planned(files, "k8s", None, None, NEW).unwrap();
        let frame = frame(&component, NEW);
        let text = &text::files(&plan.parts, &frame).unwrap()[0].text;
        let suffix = if files[0].contains("tar") { "" } else { ".raw" };
        let link = format!("Path=/var/lib/extensions.d/k8s\nMatchPattern=k8s_@v{suffix}\n");
        assert_eq!(text.contains(&link), expected, "{text}");
        let link = format!("CurrentSymlink=/var/lib/extensions/k8s{suffix}\n");
        assert_eq!(text.contains(&link), expected, "{text}");
        assert_eq!(
            text.contains("# A link names the current version"),
            expected,
            "{text}"
        );
        let directories = text::link_directories(&plan.parts);
        let expected = expected.then(|| "var/lib/extensions".to_owned());
        assert_eq!(directories, expected.into_iter().collect());
    }
}

#[test]
fn both_kinds_of_extensions_have_their_links() {
    let files = ["k-1_2.confext.raw 1_2 -", "k-1_2.sysext.raw 1_2 -"];
    let plan = planned(&files, "k", None, None, NEW).unwrap();
    let component = "k".parse().unwrap();
    let directories: Vec<_> = text::link_directories(&plan.parts).into_iter().collect();
    assert_eq!(directories, ["var/lib/confexts", "var/lib/extensions"]);
    let text = &text::files(&plan.parts, &frame(&component, NEW)).unwrap()[1].text;
    let next = "# Next: mkdir -p /var/lib/confexts /var/lib/extensions\n";
    assert!(text.contains(next), "{text}");
}

#[test]
fn a_label_of_a_partition_has_room_in_the_table() {
    let long = "a-name-that-is-much-too-long-for-it".parse().unwrap();
    let plan = planned(&[USR, VERITY], "os", None, None, NEW).unwrap();
    let why = text::files(&plan.parts, &frame(&long, NEW)).unwrap_err();
    assert!(why.contains("at most 36"), "{why}");
}

#[test]
fn an_os_is_not_updated_over_the_version_that_runs() {
    let component = "os".parse().unwrap();
    let uki = |version: &str| format!("os-{version}.efi {version} -");
    for (running, versions, expected) in [
        ("1", &["v1"][..], Ok(())),
        ("0.9", &["v1"], Ok(())),
        ("", &["v1"], Err("has no IMAGE_VERSION=")),
        ("v1", &["v1"], Err("as the versions on offer are: 1")),
        ("trixie", &["1"], Err("IMAGE_VERSION=trixie")),
        ("1 0", &["1"], Err("IMAGE_VERSION=1 0")),
        ("1", &["latest"], Err("are: latest")),
        ("1.0", &["1.0+2"], Err("version 1.0+2 of an OS has a '+'")),
        ("1.0+2", &["1.0"], Err("version 1.0+2 of an OS has a '+'")),
    ] {
        let files: Vec<_> = versions.iter().map(|version| uki(version)).collect();
        let files: Vec<_> = files.iter().map(String::as_str).collect();
        let plan = planned(&files, "os", None, None, NEW).unwrap();
        let mut frame = frame(&component, NEW);
        frame.running = running;
        match (text::files(&plan.parts, &frame), expected) {
            (Ok(files), Ok(())) => assert!(files[0].text.contains("\nProtectVersion=%A\n")),
            (Err(why), Err(expected)) => assert!(why.contains(expected), "{running}: {why}"),
            (found, _) => panic!("{running} {versions:?}: {found:?}"),
        }
    }
    // An extension is no version of the OS.
    let plan = planned(&["k-1.0+2.raw 1.0+2 -"], "k", None, None, NEW).unwrap();
    let mut frame = frame(&component, NEW);
    frame.running = "";
    text::files(&plan.parts, &frame).unwrap();
}

#[test]
fn the_version_of_an_os_keeps_a_v_that_the_running_one_has() {
    let is_v_literal = |kind: &Kind| !kind.is_of_os();
    for (name, pattern) in [
        ("os-v1.efi v1 -", "os-@v.efi"),
        (USR, "os-@v.usr-%a.@u.raw"),
        ("os-v1.raw v1 -", "os-v@v.raw"),
    ] {
        let named = Named::new(&file(name), "os", machine(), is_v_literal).unwrap();
        assert_eq!(named.pattern, pattern);
    }
}

#[test]
fn other_transfer_files_of_the_component_are_in_the_way() {
    let root = Root::new("in-the-way");
    let component = "k8s".parse().unwrap();
    let folder = root.0.join(text::directory(&component));
    let at = |name: &str| folder.join(name);
    let files = |offered: &[&str]| {
        let plan = planned(offered, "k8s", None, None, NEW).unwrap();
        text::files(&plan.parts, &frame(&component, NEW)).unwrap()
    };
    let one = files(&["k8s-v1.raw v1 -"]);
    let two = files(&["k8s-v2.vmlinuz v2 -", "k8s-v2.initrd v2 -"]);
    install::install(&folder, &[root.0.join("var/lib/k8s")], &one, &[]).unwrap();
    let obstacles = install::in_the_way(&folder, &two).unwrap();
    assert_eq!(obstacles, [Obstacle::Stale(at("k8s.transfer"))]);
    assert!(obstacles[0].yields());
    let done = install::install(&folder, &[], &two, &obstacles).unwrap();
    assert_eq!(done[2], Installed::Removed(at("k8s.transfer")));
    assert!(!at("k8s.transfer").exists());

    // Those of others stay, those that are not read are in nobody's way.
    fs::write(at("a.conf"), "[Transfer]\n").unwrap();
    fs::write(at("empty.transfer"), "").unwrap();
    fs::write(at("a.feature"), "[Feature]\n").unwrap();
    fs::create_dir(at("10-initrd.transfer.d")).unwrap();
    symlink("/dev/null", at("mask.transfer")).unwrap();
    symlink("a.conf", at("link.transfer")).unwrap();
    fs::remove_file(at("20-kernel.transfer")).unwrap();
    symlink("/dev/null", at("20-kernel.transfer")).unwrap();
    let obstacles = install::in_the_way(&folder, &two).unwrap();
    let foreign = ["a.conf", "link.transfer"].map(|name| Obstacle::Foreign(at(name)));
    let link = Obstacle::Irregular(at("20-kernel.transfer"));
    assert_eq!(obstacles.len(), 3);
    for expected in foreign.iter().chain([&link]) {
        assert!(
            obstacles.contains(expected) && !expected.yields(),
            "{obstacles:?}"
        );
    }
    fs::remove_file(at("20-kernel.transfer")).unwrap();

    // Directories that were created for a removed file are removed with the new ones.
    let said = automatic::remove_files(&root.0, &folder).unwrap();
    assert!(
        said.contains("var/lib/k8s\n") && !root.0.join("var/lib/k8s").exists(),
        "{said}"
    );
}

#[test]
fn a_component_of_the_distribution_is_not_joined() {
    let root = Root::new("joined");
    let component = "k8s".parse().unwrap();
    let write = |folder: &str, name: &str| {
        fs::create_dir_all(root.0.join(folder)).unwrap();
        fs::write(root.0.join(folder).join(name), "[Transfer]\n").unwrap();
    };
    write("etc/sysupdate.k8s.d", "k8s.transfer");
    write("usr/lib/sysupdate.k9s.d", "a.transfer");
    write("usr/lib/sysupdate.d", "a.transfer");
    let none: [String; 0] = [];
    assert_eq!(others::of_component(&root.0, &component).unwrap(), none);
    write("usr/lib/sysupdate.k8s.d", "10-k8s.conf");
    assert_eq!(
        others::of_component(&root.0, &component).unwrap(),
        [
            "/usr/lib/sysupdate.k8s.d/10-k8s.conf is of the component k8s, too; --component gives another name"
        ]
    );
}

#[test]
fn what_others_have_where_files_are_installed_is_in_the_way() {
    let root = Root::new("targets");
    let component = "k8s".parse().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let found = |offered: &[&str]| {
        let plan = planned(offered, "k8s", None, None, OLD).unwrap();
        let files = text::files(&plan.parts, &frame(&component, OLD)).unwrap();
        others::in_the_way(&root.0, &component, &files, OLD).unwrap()
    };
    let (plain, odd, uki) = (["k8s-1.raw 1 -"], ["k8s-1_2.raw 1_2 -"], ["k8s-1.efi 1 -"]);
    let source = "[Source]\nType=url-file\nPath=http://a/b\nMatchPattern=a_@v\n[Target]\nType=regular-file\n";
    let none: [String; 0] = [];

    write("var/lib/extensions/k8s.raw", "an image");
    assert_eq!(
        found(&odd),
        ["/var/lib/extensions/k8s.raw is no link and would be replaced by one"]
    );
    assert_eq!(found(&plain), none);
    fs::remove_file(root.0.join("var/lib/extensions/k8s.raw")).unwrap();
    symlink("nowhere", root.0.join("var/lib/extensions/k8s.raw")).unwrap();
    assert_eq!(found(&odd), none);

    for (target, is_there) in [
        (
            "Path=/var/lib/extensions/k8s.raw.v\nMatchPattern=k8s_@v.raw\n",
            true,
        ),
        (
            "Path=/var/lib/extensions/k8s.raw.v\nMatchPattern=k9s_@v.raw\n",
            false,
        ),
        (
            "Path=/var/lib/extensions/k9s.raw.v\nMatchPattern=k8s_@v.raw\n",
            false,
        ),
    ] {
        write(
            "usr/lib/sysupdate.other.d/a.transfer",
            &format!("{source}{target}"),
        );
        assert_eq!(found(&plain).len(), usize::from(is_there), "{target}");
    }
    // As of 257 `k8s_@v` matches a name with `k8s_dev_1`, too.
    let dev = "Path=/EFI/Linux\nPathRelativeTo=boot\nMatchPattern=k8s_dev_@v.efi\n";
    write(
        "usr/lib/sysupdate.other.d/a.transfer",
        &format!("{source}{dev}"),
    );
    let file =
        "/usr/lib/sysupdate.other.d/a.transfer has the target of /etc/sysupdate.k8s.d/k8s.transfer";
    assert!(found(&uki)[0].starts_with(file), "{:?}", found(&uki));
    write("usr/lib/sysupdate.other.d/a.transfer", "");
    write(
        "etc/sysupdate.k8s.d/k8s.transfer",
        &format!("{source}{dev}"),
    );
    assert_eq!(found(&uki), none);
}

/// systemd reads the installed files as they were meant: no key is ignored, and the patterns are the same.
#[test]
fn systemd_reads_what_is_installed_and_nothing_is_replaced_unasked() {
    let root = Root::new("read");
    let component = "k8s".parse().unwrap();
    let folder = root.0.join(text::directory(&component));
    let linked = [root.0.join("var/lib/extensions")];
    let os = [USR, VERITY, "os-v1.efi v1 -"];
    for (files, base) in [
        (
            &["k8s-v1-x86-64.raw v1 x86-64", "k8s-1.0_1.raw 1.0_1 -"][..],
            "k8s",
        ),
        (&["k8s-v1.tar.gz v1 -"], "k8s"),
        (&["k8s-v1.vmlinuz v1 -", "k8s-v1.initramfs v1 -"], "k8s"),
        (&os, "os"),
    ] {
        for systemd in [OLD, NEW] {
            let plan = planned(files, base, None, None, systemd).unwrap();
            let files = text::files(&plan.parts, &frame(&component, systemd)).unwrap();
            assert!(install::in_the_way(&folder, &files).unwrap().is_empty());
            let written = |one: &Installed| matches!(one, Installed::Written(_));
            assert!(
                install::install(&folder, &linked, &files, &[])
                    .unwrap()
                    .iter()
                    .all(written)
            );
            assert!(
                !install::install(&folder, &linked, &files, &[])
                    .unwrap()
                    .iter()
                    .any(written)
            );
            let definitions = sysupdate::find(&root.0).unwrap();
            assert_eq!(definitions.len(), plan.parts.len());
            for (definition, part) in definitions.iter().zip(&plan.parts) {
                let specifiers = Specifiers::read(&root.0);
                let transfer = Transfer::parse(definition, &specifiers, systemd).unwrap();
                let source = &transfer.source;
                assert!(sysupdate::name(&root.0, &[], &"k8s".parse().unwrap()));
                let meant: Vec<_> = part
                    .patterns
                    .iter()
                    .map(|one| one.pattern.clone())
                    .collect();
                assert_eq!(source.patterns, meant, "{}", source.written);
                assert!(transfer.ignored.is_empty(), "{:?}", transfer.ignored);
            }
            let first = folder.join(&files[0].name);
            let written = fs::read_to_string(&first).unwrap();
            for other in ["mine", &(written + "# mine\n")] {
                fs::write(&first, other).unwrap();
                let in_the_way = install::in_the_way(&folder, &files).unwrap();
                assert_eq!(in_the_way, [Obstacle::Other(first.clone())]);
            }
            fs::remove_file(&first).unwrap();
            install::install(&folder, &linked, &files, &[]).unwrap();
            // Directories that were there for the last file are not in its record.
            automatic::remove_files(&root.0, &folder).unwrap();
            assert_eq!(folder.exists(), files.len() == 1, "{files:?}");
            let _ = fs::remove_dir(&folder);
            let _ = fs::remove_dir_all(root.0.join("var"));
        }
    }
}

/// A root directory that goes when the test ends.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let name = format!("sysext-oci-proxy-transfer-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(path.join("etc")).unwrap();
        // The version that runs, for `ProtectVersion=`.
        fs::write(path.join("etc/os-release"), "ID=os\nIMAGE_VERSION=1\n").unwrap();
        Self(path)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
