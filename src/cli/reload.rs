//! `reload`: asks a running service to read its settings again. `ExecReload=` of the unit runs it, for minimal machines
//! have no `/bin/kill`.

use rustix::process::{Pid, Signal, kill_process};

use crate::error::{Error, Result};

/// Sends SIGHUP to the service with this process ID.
pub fn reload(process: i32) -> Result<()> {
    let cannot = |why: String| Error::CannotDo {
        command: "reload",
        why,
    };
    let pid = Pid::from_raw(process).filter(|_| process > 0);
    let pid = pid.ok_or_else(|| cannot(format!("{process} is no process ID")))?;
    kill_process(pid, Signal::HUP).map_err(|why| cannot(format!("process {process}: {why}")))
}
