//! The built program as a child of the test: started on a handed-over socket, watched, ended.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::client::{self, Connection, Response};
use crate::content::Repository;
use crate::registry::Registry;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_sysext-oci-proxy");

/// Does what systemd does between fork and exec: the listener is descriptor 3, its number and
/// the process it is meant for are in the environment. `$0` says how many sockets there are.
const HAND_OVER: &str = r#"
    exec 3<&0
    [ "$0" = 1 ] || exec 4<&0
    exec </dev/null
    LISTEN_PID=$$ LISTEN_FDS=$0 exec "$@"
"#;

/// A folder that is gone after the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("it-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    /// One that is the OCI layout of a repository.
    pub fn with_layout(repository: &Repository) -> Self {
        let folder = Folder::new();
        repository.write_layout(folder.path());
        folder
    }

    /// One that is an empty cache, for a test that lays something into it.
    pub fn of_cache() -> Self {
        let folder = Folder::new();
        let folders = "documents releases listings tags sums made layers tmp";
        folder.file("format", &format!("sysext-oci-proxy cache 2\n{folders}\n"));
        folder
    }

    /// The settings with which its layout is `hello`.
    pub fn settings(&self) -> String {
        format!(
            "[repository.hello]\nsource = \"oci:{}\"\n",
            self.0.display()
        )
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program with arguments, and nothing of our environment but the `PATH`. Files of container
/// tools that this machine may have below `/etc` count for nothing either.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null());
    clear(&mut command);
    command
}

/// The program with arguments on `sockets` handed-over sockets (all the same one).
pub fn command_on(listener: TcpListener, sockets: usize, arguments: &[&str]) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", HAND_OVER, &sockets.to_string(), PROGRAM])
        .args(arguments);
    command.stdin(Stdio::from(OwnedFd::from(listener)));
    clear(&mut command);
    command
}

/// `serve` with a settings file, on one handed-over socket.
pub fn serve_on(listener: TcpListener, config: &Path) -> Command {
    let config = config.to_str().unwrap();
    command_on(listener, 1, &["serve", "--config", config])
}

/// The log of a service as usual, and the tags that are left out by design.
const WITH_SKIPPED: &str = "info,sysext_oci_proxy::snapshot::changes=debug";
/// A policy that accepts anything.
const NO_POLICY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/policy.json");

/// Where logins are looked for by a service that is not told otherwise.
pub const NO_LOGINS: &str = "/nonexistent/auth.json";

fn clear(command: &mut Command) {
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("MALLOC_ARENA_MAX", "2") // as in the unit
        .env("CONTAINERS_REGISTRIES_CONF", "/dev/null")
        .env("CONTAINERS_POLICY_JSON", NO_POLICY)
        .env("REGISTRY_AUTH_FILE", NO_LOGINS);
}

/// Waits for the end of a program that is expected to end at once.
pub fn output(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let status = wait(&mut child, Duration::from_secs(10));
    let mut output = Output {
        status: status.unwrap_or_else(|| {
            let _ = child.kill();
            child.wait().unwrap()
        }),
        stdout: Vec::new(),
        stderr: Vec::new(),
    };
    child
        .stdout
        .take()
        .unwrap()
        .read_to_end(&mut output.stdout)
        .unwrap();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_end(&mut output.stderr)
        .unwrap();
    output
}

/// The exit status, if the program ends within the time.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > end {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

const AUTH: &str = "auth.json";

fn auth_json(logins: &[(&str, &str)]) -> String {
    let entries: serde_json::Map<_, _> = logins
        .iter()
        .map(|(key, login)| {
            let auth = BASE64_STANDARD.encode(login);
            ((*key).to_owned(), json!({"auth": auth}))
        })
        .collect();
    json!({ "auths": entries }).to_string()
}

/// Settings with which a listing is made anew whenever the client comes [`later`].
pub const ANEW: &str = "listing-ttl-sec = 0.01\n";

pub fn later() {
    thread::sleep(Duration::from_millis(30));
}

/// Settings with which `hello` is for one kind of machine, whatever this one is.
pub const X86: &str = "[repository.hello]\narchitectures = [\"x86-64\"]\n";

/// A `[[registry]]` with these mirrors; each is a location and perhaps more keys, a line each.
pub fn table(host: impl ToString, mirrors: &[(String, &str)]) -> String {
    let mut text = format!("[[registry]]\nlocation = \"{}\"\n", host.to_string());
    for (location, more) in mirrors {
        text += &format!("[[registry.mirror]]\nlocation = \"{location}\"\n{more}\n");
    }
    text
}

/// The first line of a service without a cache directory.
pub const NO_CACHE: &str = "warning: there is no cache directory, ";

/// How a service is to be started.
pub struct Setup {
    settings: String,
    environment: Vec<(String, String)>,
    folder: Folder,
}

impl Setup {
    /// With no settings but which registry it asks.
    pub fn of(registry: &Registry) -> Self {
        Setup::new(registry.settings())
    }

    /// The same, with these mirrors of it.
    pub fn with_mirrors(registry: &Registry, mirrors: &[&Registry]) -> Self {
        let places: Vec<_> = mirrors
            .iter()
            .map(|mirror| (mirror.address.to_string(), ""))
            .collect();
        Setup::of(registry).registries(&table(registry.address, &places))
    }

    pub fn new(settings: impl Into<String>) -> Self {
        Setup {
            settings: settings.into(),
            environment: Vec::new(),
            folder: Folder::new(),
        }
    }

    /// With these settings too.
    pub fn settings(mut self, more: &str) -> Self {
        self.settings += more;
        self
    }

    /// With these settings too, which stand above all tables.
    pub fn general(mut self, more: &str) -> Self {
        self.settings.insert_str(0, more);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<Path>) -> Self {
        self.environment
            .push((name.to_owned(), value.as_ref().to_str().unwrap().to_owned()));
        self
    }

    pub fn cache(self, folder: &Folder) -> Self {
        self.cache_in(folder.path())
    }

    pub fn cache_in(self, path: &Path) -> Self {
        self.env("CACHE_DIRECTORY", path)
    }

    /// With a cache directory of its own.
    pub fn own_cache(self) -> Self {
        let folder = self.folder.path().join("cache");
        fs::create_dir(&folder).unwrap();
        self.env("CACHE_DIRECTORY", folder)
    }

    /// With a state directory that outlives it. Without that it has one of its own.
    pub fn state(self, folder: &Folder) -> Self {
        self.env("STATE_DIRECTORY", folder.path())
    }

    /// With an auth.json that has one login, `user:password`, for one place.
    pub fn login(self, place: impl ToString, login: &str) -> Self {
        self.logins(&[(&place.to_string(), login)])
    }

    /// With an auth.json that has these logins: a key and `user:password` each.
    pub fn logins(self, logins: &[(&str, &str)]) -> Self {
        self.auth(&auth_json(logins))
    }

    /// With this auth.json, which [`Service::write_logins`] can change.
    pub fn auth(self, json: &str) -> Self {
        let file = self.folder.file(AUTH, json);
        self.env("REGISTRY_AUTH_FILE", file)
    }

    /// With this registries.conf.
    pub fn registries(self, text: &str) -> Self {
        let file = self.folder.file("registries.conf", text);
        self.env("CONTAINERS_REGISTRIES_CONF", file)
    }

    /// With this file in the user's certs.d directory for a host.
    pub fn certificate(self, host: impl ToString, name: &str, text: &str) -> Self {
        let place = format!("containers/certs.d/{}", host.to_string());
        fs::create_dir_all(self.folder.path().join(&place)).unwrap();
        self.folder.file(&format!("{place}/{name}"), text);
        let home = self.folder.path().to_owned();
        self.env("XDG_CONFIG_HOME", home)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its settings.
    pub fn text(&self) -> &str {
        &self.settings
    }

    pub fn start(self) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut child = self.command(listener).spawn().unwrap();
        let log = Log::follow(child.stderr.take().unwrap());
        Service {
            address,
            child,
            log,
            folder: self.folder,
        }
    }

    /// How it ends, where it cannot start.
    pub fn output(self) -> Output {
        output(self.command(TcpListener::bind("127.0.0.1:0").unwrap()))
    }

    fn command(&self, listener: TcpListener) -> Command {
        let config = self.folder.file("config.toml", &self.settings);
        let mut command = serve_on(listener, &config);
        command
            .env("STATE_DIRECTORY", self.folder.path().join("state"))
            .env("RUST_LOG", WITH_SKIPPED)
            .envs(self.environment.clone())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command
    }
}

/// The lines of the program on stderr.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn follow(stderr: impl Read + Send + 'static) -> Self {
        let log = Log::default();
        let lines = log.0.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).split(b'\n').map_while(Result::ok) {
                lines
                    .lock()
                    .unwrap()
                    .push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        log
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// The lines that contain all of these texts. Lines are written before the answer that they
    /// are about, but read by another thread: so wait a moment for the first.
    pub fn with(&self, texts: &[&str]) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            let mut found = self.lines();
            found.retain(|line| texts.iter().all(|text| line.contains(text)));
            if !found.is_empty() || Instant::now() > end {
                return found;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// All warnings and errors so far, but the one that most tests start with, having no cache directory.
    pub fn trouble_so_far(&self) -> Vec<String> {
        let mut lines = self.lines();
        lines.retain(|line| line.starts_with("warning: ") || line.starts_with("error: "));
        lines.retain(|line| !line.starts_with(NO_CACHE));
        lines
    }

    /// The same, where there has to be one at least.
    pub fn trouble(&self) -> Vec<String> {
        eventually("there is a warning or an error", || {
            !self.trouble_so_far().is_empty()
        });
        // Lines that are logged together arrive together.
        thread::sleep(Duration::from_millis(50));
        self.trouble_so_far()
    }

    /// The one warning or error that there has to be.
    #[track_caller]
    pub fn one_trouble(&self) -> String {
        let [line] = <[String; 1]>::try_from(self.trouble()).expect("one line");
        line
    }
}

pub struct Service {
    pub address: SocketAddr,
    pub log: Log,
    child: Child,
    folder: Folder,
}

impl Service {
    /// With no settings but which registry it asks, without a cache directory.
    pub fn of(registry: &Registry) -> Self {
        Setup::of(registry).start()
    }

    /// With these settings, without a cache directory.
    pub fn start(settings: impl Into<String>) -> Self {
        Setup::new(settings).start()
    }

    /// The same, with a login for all of this registry.
    pub fn with_login(registry: &Registry, login: &str) -> Self {
        Setup::of(registry).login(registry.address, login).start()
    }

    pub fn get(&self, target: &str) -> Response {
        client::get(self.address, target)
    }

    pub fn request(&self, method: &str, target: &str, headers: &[&str]) -> Response {
        client::request(self.address, method, target, headers)
    }

    /// Asks for a file, and reads the rest of it after something else was done with its first bytes on their way.
    pub fn get_while(&self, target: &str, meanwhile: impl FnOnce()) -> Response {
        let mut client = Connection::open(self.address);
        client.ask(target);
        let mut response = client.receive_head().unwrap();
        let mut piece = vec![0; 1000];
        let n = client.read(&mut piece).unwrap();
        response.body.extend_from_slice(&piece[..n]);
        meanwhile();
        let length: usize = response.header("content-length").unwrap().parse().unwrap();
        piece.resize(64 << 10, 0);
        while response.body.len() < length {
            match client.read(&mut piece) {
                Ok(0) | Err(_) => break,
                Ok(n) => response.body.extend_from_slice(&piece[..n]),
            }
        }
        response.whole = response.body.len() == length;
        response
    }

    /// The body of an existing file, which must be complete.
    #[track_caller]
    pub fn whole(&self, target: &str) -> Vec<u8> {
        let response = self.get(target);
        assert_eq!(
            (response.status, response.whole),
            (200, true),
            "{target}: {:?}",
            response.headers
        );
        response.body
    }

    /// The listing of `hello`, which has to be there.
    #[track_caller]
    pub fn listing(&self) -> String {
        self.listing_of("hello")
    }

    /// The listing of one directory, which has to be there.
    #[track_caller]
    pub fn listing_of(&self, directory: &str) -> String {
        String::from_utf8(self.whole(&format!("/{directory}/SHA256SUMS"))).unwrap()
    }

    /// Asks for the listing of `hello`, which has to be refused with this status and nothing in it.
    #[track_caller]
    pub fn no_listing(&self, status: u16) -> Response {
        let response = self.get("/hello/SHA256SUMS");
        let found = (response.status, response.text());
        assert_eq!(found, (status, ""), "{:?}", response.headers);
        response
    }

    /// The same, and the reason from the one line that there has to be in the log.
    #[track_caller]
    pub fn why_no_listing(&self, status: u16) -> String {
        self.no_listing(status);
        let line = self.log.one_trouble();
        let start = format!("error: GET /hello/SHA256SUMS: {status}: ");
        let reason = line.strip_prefix(&start);
        reason.expect(&line).to_owned()
    }

    /// Changes the logins that it was started with.
    /// Changes its settings, which it reads when it starts or is told to.
    pub fn write_settings(&self, settings: &str) {
        self.folder.file("config.toml", settings);
    }

    pub fn write_logins(&self, logins: &[(&str, &str)]) {
        self.folder.file(AUTH, &auth_json(logins));
    }

    /// Where the file with its logins is.
    pub fn auth_file(&self) -> String {
        self.folder.path().join(AUTH).display().to_string()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for it to leave by itself.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait(&mut self.child, limit)
    }

    /// The most memory of its own that it ever had, in MiB. The pages of the program are not counted:
    /// of an unoptimized build the kernel maps more or fewer, by what else the machine does.
    pub fn peak_memory(&self) -> usize {
        self.status_field("VmHWM:")
            .saturating_sub(self.status_field("RssFile:"))
            .div_ceil(1024)
    }

    /// The most memory it ever had with the pages of the program, as `MemoryMax=` counts it, in MiB.
    pub fn peak_memory_with_program(&self) -> usize {
        self.status_field("VmHWM:").div_ceil(1024)
    }

    /// The memory of its own that it has now, without the program itself, in KiB.
    pub fn own_memory(&self) -> usize {
        self.status_field("RssAnon:")
    }

    pub fn threads(&self) -> usize {
        self.status_field("Threads:")
    }

    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .unwrap()
            .count()
    }

    fn status_field(&self, name: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// As `kill -9`, so long after somebody asked for the listing of `hello`.
    pub fn kill_while_listing(mut self, after: Duration) {
        let address = self.address;
        // It may get no answer, or not even a connection, which is no matter here.
        let client =
            thread::spawn(move || client::try_request(address, "GET", "/hello/SHA256SUMS", &[]));
        thread::sleep(after);
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        drop(client.join());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the service said:\n{}", self.log.lines().join("\n"));
        }
    }
}

/// Waits until it is so.
pub fn eventually(what: &str, is_so: impl FnMut() -> bool) {
    within(5, what, is_so);
}

/// The same, within so many seconds.
pub fn within(seconds: u64, what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !is_so() {
        assert!(Instant::now() < end, "after {seconds} s still not: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
