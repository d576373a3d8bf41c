//! The completions for shells are those of the command line. `make completions` writes them.

use std::fs;
use std::path::Path;

use clap::Command;
use clap_complete::{Generator, Shell, generate};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/man/completions");
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// The command line without what is hidden, which `clap_complete` would offer.
fn visible(command: &Command) -> Command {
    let name: &str = command.get_name().to_owned().leak();
    let mut visible = Command::new(name);
    if let Some(about) = command.get_about() {
        visible = visible.about(about.clone());
    }
    let arguments = command.get_arguments().filter(|one| !one.is_hide_set());
    let commands = command.get_subcommands().filter(|one| !one.is_hide_set());
    visible
        .args(arguments.cloned())
        .subcommands(commands.map(self::visible))
}

fn completions(shell: Shell) -> String {
    let mut program = visible(&sysext_oci_proxy::command_line()).version("0");
    let mut text = Vec::new();
    generate(shell, &mut program, "sysext-oci-proxy", &mut text);
    let text = String::from_utf8(text).unwrap();
    // clap_complete 4.6 spells the program in two ways if it has a dash (https://github.com/clap-rs/clap/issues/6421), and
    // bash completes no option then.
    text.replace("sysext__subcmd__oci__subcmd__proxy", "sysext__oci__proxy")
}

#[test]
fn the_completions_are_those_of_the_command_line() {
    let is_to_write = std::env::var_os("COMPLETIONS").is_some_and(|value| value == "write");
    for shell in SHELLS {
        let path = Path::new(FOLDER).join(shell.file_name("sysext-oci-proxy"));
        let expected = completions(shell);
        assert!(expected.contains("forget-signed"), "{shell}");
        for hidden in ["reload", "--root"] {
            assert!(!expected.contains(hidden), "{shell} offers {hidden}");
        }
        if is_to_write {
            fs::create_dir_all(FOLDER).unwrap();
            fs::write(&path, expected).unwrap();
        } else {
            let found = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                found == expected,
                "{} is not up to date, `make completions` writes it",
                path.display()
            );
        }
    }
}
