//! The arguments of the command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueHint};

use super::asked::Whom;
use super::fetch::Target;
use super::key;
use super::reference::{FileReference, Reference};
use super::transfer::{self, Component};

/// Serve OCI registries to systemd-sysupdate
///
/// Without a command, it runs serve. systemd starts the service when a client connects to sysext-oci-proxy.socket.
/// sysext-oci-proxy(1) describes the commands, sysext-oci-proxy(8) the service.
#[derive(Debug, Parser)]
#[command(version)]
pub struct CommandLine {
    /// Read only this settings file, instead of /etc/sysext-oci-proxy/config.toml and the drop-ins
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, global = true)]
    pub config: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    serve: Serve,
}

/// One variant for each command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve clients on the socket that systemd passes (the default)
    Serve(Serve),
    /// Show the files of a repository, as systemd-sysupdate would see them
    ///
    /// The newest version comes first. The exit status is 0 if a file is offered, 1 if none is, 69 if that cannot be found out.
    List {
        /// REPOSITORY, REPOSITORY:TAG, HOST/REPOSITORY, docker://HOST/REPOSITORY, an address of the service, or oci:DIRECTORY
        #[arg(value_name = "REPOSITORY")]
        reference: Reference,
        /// Also show what is not offered, and why
        #[arg(long)]
        all: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        whom: Whom,
    },
    /// Fetch a file of a repository, and verify it
    ///
    /// Without FILE or --version, the newest file for this machine is fetched. The file is verified against the list, and gets
    /// its name only when it is complete. An existing file of that name is replaced. The path is printed.
    Fetch {
        /// A repository as for list, or one of its files
        #[arg(value_name = "REPOSITORY[/FILE]")]
        reference: FileReference,
        /// Fetch the file of this version
        #[arg(long, value_name = "VERSION", value_hint = ValueHint::Other)]
        version: Option<String>,
        /// Write to this file, into this directory, or to standard output if it is -. Standard output may have received bytes
        /// before an error is found: check the exit status
        #[arg(long, short, value_name = "FILE|DIRECTORY|-", value_hint = ValueHint::AnyPath, default_value = ".")]
        output: Target,
        #[command(flatten)]
        whom: Whom,
    },
    /// Print or install transfer files of systemd-sysupdate for what a repository offers
    ///
    /// Without --write the files are printed. The exit status is 0 if there are files to transfer, 1 if there are none or if
    /// their shape is not clear, 69 if that cannot be found out.
    Transfer {
        /// A repository as for list, or one of its files, to select only files that are named like it
        #[arg(value_name = "REPOSITORY[/FILE]")]
        reference: FileReference,
        #[command(flatten)]
        options: transfer::Options,
        #[command(flatten)]
        whom: Whom,
    },
    /// Check each step of an update, and show what is wrong
    ///
    /// The exit status is 0 if an update would happen, 1 if not, 69 if that cannot be found out.
    Check {
        /// A repository as for list [default: all that the settings and the transfer files of this machine name]
        #[arg(value_name = "REPOSITORY")]
        reference: Option<Reference>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        whom: Whom,
        /// Check the machine whose files are below this directory
        #[arg(long, value_name = "DIRECTORY", default_value = "/", hide = true)]
        root: PathBuf,
    },
    /// Show the manifest and the config of one artifact as JSON
    Inspect {
        /// REPOSITORY:TAG or REPOSITORY@sha256:HEX
        #[arg(value_name = "REFERENCE")]
        reference: Reference,
    },
    /// Show the URL of a manifest or of a layer, and the headers needed to fetch it, as JSON
    Url {
        /// REPOSITORY:TAG or REPOSITORY@sha256:HEX
        #[arg(value_name = "REFERENCE")]
        reference: Reference,
        /// Show the URL of a layer instead of the manifest: kernel, initramfs, rootfs, squashfs, uki, iso, disk, cmdline (in the
        /// config), or the suffix or title of a file
        #[arg(long, value_name = "LAYER", value_hint = ValueHint::Other)]
        layer: Option<String>,
    },
    /// Make a running service read its settings again, and exit when no client is connected
    ///
    /// ExecReload= of sysext-oci-proxy.service runs this command.
    #[command(hide = true)]
    Reload {
        /// The process ID of the service: $MAINPID
        #[arg(value_name = "PID")]
        process: i32,
    },
    /// Update a component with systemd-sysupdate, and merge extensions that have changed
    ///
    /// sysext-oci-proxy-update@.service runs this command.
    #[command(hide = true)]
    Update {
        /// NAME of /etc/sysupdate.NAME.d/
        #[arg(value_name = "NAME")]
        component: Component,
    },
    /// Show the public key of this machine, or have systemd accept what it signs (as root)
    ///
    /// Without an option, the key by which the service signs lists (setting 'sign') is printed. The exit status is 0 if it is
    /// done, 69 if it cannot be, for example before the service has made its key.
    Key(key::Options),
    /// Show the version
    Version,
}

/// Arguments of `serve`.
#[derive(Args, Clone, Debug)]
pub struct Serve {
    /// Listen on this address, if systemd passes no socket
    #[arg(long, value_name = "ADDRESS:PORT", value_hint = ValueHint::Other)]
    pub listen: Option<SocketAddr>,
}

impl CommandLine {
    /// Parses the arguments, of which the first is the program's name.
    pub fn parse(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let line = Self::try_parse_from(arguments)?;
        // clap takes the options of `serve` before other commands, too, where they mean nothing.
        if line.serve.listen.is_some() && !line.is_to_serve() {
            return Err(<Self as CommandFactory>::command().error(
                ErrorKind::ArgumentConflict,
                "--listen is for the service; the other commands do not listen, leave it out",
            ));
        }
        Ok(line)
    }

    /// Whether the command is `serve`.
    pub fn is_to_serve(&self) -> bool {
        matches!(self.command, None | Some(Command::Serve(_)))
    }

    /// The command; `serve` if none was given. The options of `serve` may stand before it.
    pub fn command(self) -> Command {
        let before = self.serve;
        match self.command {
            None => Command::Serve(before),
            Some(Command::Serve(serve)) => Command::Serve(Serve {
                listen: serve.listen.or(before.listen),
            }),
            Some(other) => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<CommandLine, clap::Error> {
        CommandLine::parse(words.split(' '))
    }

    #[test]
    fn serve_is_the_default_and_options_stand_anywhere() {
        for words in [
            "sysext-oci-proxy --config /c --listen 127.0.0.1:1",
            "sysext-oci-proxy --config /c serve --listen 127.0.0.1:1",
            "sysext-oci-proxy --listen 127.0.0.1:1 serve --config /c",
            "sysext-oci-proxy serve --listen 127.0.0.1:1 --config /c",
        ] {
            let line = parse(words).unwrap();
            assert_eq!(line.config.as_deref(), Some("/c".as_ref()), "{words}");
            let Command::Serve(Serve { listen }) = line.command() else {
                panic!("{words} does not serve")
            };
            assert_eq!(listen, Some("127.0.0.1:1".parse().unwrap()), "{words}");
        }
        for (words, why) in [
            ("sysext-oci-proxy serve --listen 5001", "no address"),
            (
                "sysext-oci-proxy --listen 127.0.0.1:1 list k8s",
                "it listens to nobody",
            ),
            ("sysext-oci-proxy list k8s --listen 127.0.0.1:1", "the same"),
        ] {
            assert!(parse(words).is_err(), "{words}: {why}");
        }
    }
}
