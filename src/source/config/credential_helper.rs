//! Credential helpers: programs that keep logins for docker and podman.
//!
//! Protocol: <https://github.com/docker/docker-credential-helpers>.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use log::{debug, warn};
use serde_json::Value;

use super::login::Login;
use crate::name::Host;

/// Largest answer that is read, in bytes.
const MAX_SIZE: u64 = 1 << 20;
/// How long a credential helper may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The directories of helpers. PATH is not used: anybody may have set it.
const DIRECTORIES: [&str; 4] = ["/usr/local/bin", "/usr/bin", "/usr/local/sbin", "/usr/sbin"];
/// The output of a helper that has no login; its exit status is 1.
const NOT_FOUND: &str = "credentials not found in native keychain";

/// Asks the helper of this name for the login to a host; `None` if it knows none.
pub fn ask(name: &str, host: &Host) -> Result<Option<Login>, String> {
    run(&find(name)?, host, TIMEOUT)
}

/// The program of a credential helper.
fn find(name: &str) -> Result<PathBuf, String> {
    let may_have = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(may_have) {
        return Err("this is not the name of a credential helper".into());
    }
    let program = format!("docker-credential-{name}");
    let mut paths = DIRECTORIES.iter().map(|dir| Path::new(dir).join(&program));
    paths
        .find(|path| path.is_file())
        .ok_or_else(|| format!("{program} is in none of {}", DIRECTORIES.join(", ")))
}

/// Asks a credential helper; `None` if it knows no login.
fn run(path: &Path, host: &Host, limit: Duration) -> Result<Option<Login>, String> {
    let deadline = Instant::now() + limit;
    let too_slow = || format!("it did not answer within {} s", limit.as_secs_f32());
    let mut child = Command::new(path)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    // A thread reads: a child of the helper may keep its output open for ever.
    let (sender, answer) = mpsc::channel();
    let name = match host.as_str() {
        "docker.io" => "https://index.docker.io/v1/".to_owned(),
        name => name.to_owned(),
    };
    let reader = thread::Builder::new().spawn(move || {
        let mut text = String::new();
        let asked = input.map(|mut input| input.write_all(name.as_bytes())); // closes it, too
        let read = output.map(|output| output.take(MAX_SIZE).read_to_string(&mut text));
        debug!("credential helper: asked {asked:?}, read {read:?} bytes");
        let _ = sender.send(text); // a late answer has no receiver
    });
    if let Err(error) = reader {
        let _ = child.kill().and_then(|()| child.wait().map(drop)); // it has read nothing yet
        return Err(format!(
            "no thread can be started to read its answer: {error}"
        ));
    }
    let status = wait(&mut child, deadline)?.ok_or_else(too_slow)?;
    let left = deadline.saturating_duration_since(Instant::now());
    let text = answer.recv_timeout(left).map_err(|_| too_slow())?;
    if !status.success() {
        if text.trim().starts_with(NOT_FOUND) {
            return Ok(None);
        }
        return Err("it failed; run it by hand to see why".into());
    }
    let answer: Value =
        serde_json::from_str(&text).map_err(|_| "its answer is not JSON".to_owned())?;
    let field = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
    match (field("Username"), field("Secret")) {
        // Some helpers answer so if they have no login.
        (_, "") => Ok(None),
        ("<token>", token) => Ok(Some(Login::IdentityToken(token.to_owned()))),
        (user, password) => Login::password(user, password).map(Some),
    }
}

/// Waits for a helper to end; one that does not is killed.
fn wait(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>, String> {
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => thread::sleep(Duration::from_millis(10)),
            ended => return ended.map_err(|error| error.to_string()),
        }
    }
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        warn!("a credential helper does not end: {error}");
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Runs a shell script as a helper.
    fn helper(script: &str) -> Result<Option<Login>, String> {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!(
            "sysext-oci-proxy-helper-{}-{:?}",
            std::process::id(),
            thread::current().id()
        ));
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let answer = run(&path, &"h.example".parse().unwrap(), Duration::from_secs(1));
        fs::remove_file(&path).unwrap();
        answer
    }

    #[test]
    fn row_c6_helpers_answer_or_know_nothing_or_fail() {
        let password = |user, password| Login::password(user, password).unwrap();
        let echo = |user: &str| {
            format!(r#"read host; echo '{{"Username":"{user}","Secret":"'$host$1'"}}'"#)
        };
        assert_eq!(
            helper(&echo("alice")),
            Ok(Some(password("alice", "h.exampleget")))
        );
        assert_eq!(
            helper(&echo("<token>")),
            Ok(Some(Login::IdentityToken("h.exampleget".into())))
        );
        assert_eq!(
            helper("echo credentials not found in native keychain; exit 1"),
            Ok(None)
        );
        assert_eq!(helper(r#"echo '{"Username":"","Secret":""}'"#), Ok(None));
        assert_eq!(
            helper("echo s3cret; exit 1"),
            Err("it failed; run it by hand to see why".into())
        );
        assert_eq!(helper("echo s3cret"), Err("its answer is not JSON".into()));
        assert_eq!(
            helper("sleep 5"),
            Err("it did not answer within 1 s".into())
        );
        assert_eq!(
            helper("sleep 5 & exit 0"),
            Err("it did not answer within 1 s".into())
        );
    }
}
