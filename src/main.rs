//! The program is in the library: see `lib.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sysext_oci_proxy::main()
}
