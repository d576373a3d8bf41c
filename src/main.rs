//! Arguments → exit code. The program itself is the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sysext_oci_proxy::run(std::env::args_os())
}
