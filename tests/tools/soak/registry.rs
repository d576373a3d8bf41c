//! docker-registry, started, stopped, and filled.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Http, Method};
use crate::content::Repository;
use crate::systemd::append;

pub struct Registry {
    pub address: String,
    config: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl Registry {
    /// Starts it, with its files in this directory.
    pub fn start(directory: &Path) -> Self {
        // Below the ports that the kernel gives out by itself: it must still be free after a restart.
        let address = (12_000 + std::process::id() as u16 % 10_000..32_000)
            .map(|port| format!("127.0.0.1:{port}"))
            .find(|address| TcpListener::bind(address).is_ok())
            .unwrap();
        let config = directory.join("registry.yml");
        let storage = directory.join("registry");
        let text = format!(
            "version: 0.1\n\
             log: {{ level: error, accesslog: {{ disabled: true }} }}\n\
             storage: {{ filesystem: {{ rootdirectory: {} }}, cache: {{ blobdescriptor: inmemory }} }}\n\
             http: {{ addr: {address} }}\n",
            storage.display()
        );
        fs::write(&config, text).unwrap();
        let mut registry = Registry {
            address,
            config,
            log: directory.join("registry.log"),
            process: None,
        };
        registry.resume();
        registry
    }

    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again and waits until it listens.
    pub fn resume(&mut self) {
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(append(&self.log))
            .stderr(append(&self.log))
            .spawn()
            .unwrap();
        self.process = Some(process);
        let begun = Instant::now();
        while TcpStream::connect(&self.address).is_err() {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "docker-registry does not listen on {}",
                self.address
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Pushes a repository as any client would.
    pub fn push(&self, name: &str, content: &Repository) {
        let http = Http::new(self.address.parse().unwrap());
        for (digest, bytes) in &content.blobs {
            let upload = http.send(Method::Post, &format!("/v2/{name}/blobs/uploads/"), "", b"");
            assert_eq!(upload.status, 202, "{name}: no upload of {digest}");
            let location = upload.header("location").unwrap();
            let path = &location[location.find("/v2/").unwrap()..];
            let path = format!("{path}&digest={digest}");
            let put = http.send(Method::Put, &path, "application/octet-stream", bytes);
            assert_eq!(put.status, 201, "{name}: {digest} is not taken");
        }
        for (tag, digest) in &content.tags {
            let manifest = &content.manifests[digest];
            let path = format!("/v2/{name}/manifests/{tag}");
            let put = http.send(Method::Put, &path, &manifest.media_type, &manifest.bytes);
            assert_eq!(put.status, 201, "{name}:{tag} is not taken");
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}
