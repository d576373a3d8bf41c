//! Text of registries and clients is shown so that everybody sees what it is: nothing in it is invisible or turns
//! the text around it.

use serde_json::{Value, json};

use crate::content::{OCI_TAR, Repository, line};
use crate::registry::{Fault, Registry};
use crate::service::{Folder, Setup, X86, command, output};

/// A browser and a terminal show the end of it as `gpj.raw`.
const TITLE: &str = "k8s-\u{202e}war.jpg\u{200b}\u{2028}\u{ad}.raw";
const SHOWN: &str = "k8s-\\u{202e}war.jpg\\u{200b}\\u{2028}\\u{ad}.raw";
const IN_URL: &str = "k8s-%E2%80%AEwar.jpg%E2%80%8B%E2%80%A8%C2%AD.raw";
/// It is no C0 control, and begins a command of a terminal all the same.
const TYPE: &str = "evil\u{9b}2J\u{feff}";

fn assert_seen(text: &str, what: &str) {
    let is_hidden = |c: &char| matches!(c, '\u{9b}' | '\u{ad}' | '\u{feff}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}');
    let found = text.chars().find(is_hidden);
    assert_eq!(found, None, "{what}: {text:?}");
}

#[test]
fn a_title_that_looks_like_another_is_shown_as_it_is() {
    let mut hello = Repository::default();
    let layers = [hello.file(OCI_TAR, TITLE, b"image"), hello.blob(TYPE, b"x")];
    let config = hello.blob("application/vnd.oci.image.config.v1+json", b"{}");
    let artifact = hello.artifact(&layers, json!({"config": config}));
    hello.point("v1", &artifact);
    let registry = Registry::with_hello(hello);
    let service = Setup::of(&registry).own_cache().start();

    // To programs it is data.
    assert_eq!(service.listing_of("hello:v1"), line(b"image", TITLE));
    assert_eq!(service.whole(&format!("/hello:v1/{IN_URL}")), b"image");

    let page = service.get("/hello:v1/");
    let page = page.text();
    assert!(page.contains(&format!(">{SHOWN}<")), "{page}");
    assert!(page.contains(&format!("href=\"./{IN_URL}\"")), "{page}");
    assert_seen(page, "page");

    let missing = service.get(&format!("/hello:v1/no-{IN_URL}"));
    let reason = missing.header("x-reason").unwrap();
    assert!(reason.contains(&format!("no-{SHOWN}")), "{reason}");
    let accept = "Accept: text/html";
    let page = service.request("GET", &format!("/hello:v1/no-{IN_URL}"), &[accept]);
    assert!(page.text().contains(&format!("no-{SHOWN}")), "{page:?}");
    assert_seen(page.text(), "page of an error");
    let named = service.log.with(&[&format!("no-{SHOWN}")]);
    assert!(!named.is_empty(), "{:?}", service.log.lines());
    assert_seen(&service.log.lines().join(" "), "log");

    let folder = Folder::new();
    let config = folder.file("config.toml", &(registry.settings() + X86));
    let run = |arguments: &[&str]| {
        let mut command = command(arguments);
        command.arg("--config").arg(&config);
        let output = output(command);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let table = run(&["list", "--all", "hello:v1"]);
    assert!(table.contains(SHOWN), "{table}");
    assert_seen(&table, "table");
    let json = run(&["list", "--json", "--all", "hello:v1"]);
    assert_seen(&json, "JSON");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["files"][0]["name"], TITLE, "in JSON it is data");
    let json = run(&["inspect", "hello:v1"]);
    assert_seen(&json, "manifest");
    let json: Value = serde_json::from_str(&json).unwrap();
    let title = "/manifest/layers/0/annotations/org.opencontainers.image.title";
    assert_eq!(json.pointer(title).unwrap(), TITLE);
}

#[test]
fn what_a_registry_answers_is_shown_as_it_is() {
    let registry = Registry::with_hello(Repository::default());
    registry.fault("/tags/list", Fault::Status(403));
    let body = json!({"errors": [{"code": "DENIED", "message": format!("no {TITLE}")}]});
    registry.fault("/tags/list", Fault::Body(body.to_string().into()));
    let service = Setup::of(&registry).own_cache().start();
    let reason = service.no_listing(403);
    let reason = reason.header("x-reason").unwrap();
    assert!(reason.contains(&format!("no {SHOWN}")), "{reason}");
    let line = service.log.one_trouble();
    assert!(line.contains(&format!("no {SHOWN}")), "{line}");
}
