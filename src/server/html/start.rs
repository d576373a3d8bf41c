//! The start page: the purpose of the service, the first command to type, and the state of the repositories.

use std::collections::BTreeMap;

use super::{JOURNAL, count, escape, page, time};
use crate::settings::Settings;
use crate::snapshot::Health;

/// Directories whose state is shown.
const MAX_DIRECTORIES: usize = 100;

/// `/`. `health`: the last listing of each directory that was asked for since the service was started.
pub fn start(settings: &Settings, health: &[Health]) -> String {
    let configured = settings.repositories.keys();
    let configured = configured.map(|repository| (repository.to_string(), None));
    let mut directories: BTreeMap<String, Option<&Health>> = configured.collect();
    let first = directories.keys().next().cloned();
    let first = first.or_else(|| health.first().map(|one| one.directory.clone()));
    let first = escape(first.unwrap_or_else(|| "REPOSITORY".to_owned()));
    let known = health.iter().take(MAX_DIRECTORIES);
    directories.extend(known.map(|one| (one.directory.clone(), Some(one))));

    let mut body = format!(
        "<p>This service shows repositories of OCI registries to systemd-sysupdate, importctl and curl as \
         directories. Names without a host are looked up at <code>{}</code>.</p>\n\
         <h2>First command</h2>\n\
         <pre><code>sysext-oci-proxy list {first}</code></pre>\n\
         <p>It shows the files that systemd-sysupdate sees, as the page <code>/{first}/</code> does.</p>\n\
         <h2>Repositories</h2>\n",
        escape(&settings.registry)
    );
    if directories.is_empty() {
        body += "<p>The settings name none, and none was asked for yet. Add a name to this address, as in \
                 <code>/kubernetes/</code>.</p>\n";
    } else {
        body += "<ul class=\"left-out\">\n";
        for (directory, health) in directories {
            let name = escape(directory);
            let state = health.map_or_else(
                || "<p>not asked for since the service was started</p>".to_owned(),
                state,
            );
            body += &format!("<li><a href=\"/{name}/\">{name}</a> {state}</li>\n");
        }
        body += "</ul>\n";
    }
    body += &format!(
        "<h2>If something fails</h2>\n<pre><code>{JOURNAL}</code></pre>\n\
         <p class=\"note\">sysext-oci-proxy {}</p>\n",
        env!("CARGO_PKG_VERSION")
    );
    page("sysext-oci-proxy", "", &body)
}

/// The result of the last listing.
fn state(health: &Health) -> String {
    let when = time(&health.when);
    match &health.listed {
        Ok((files, None)) => format!(
            "<span class=\"kind good\">listed</span><p>{} · {when}</p>",
            count(*files, "file")
        ),
        Ok((files, Some(incomplete))) => format!(
            "<span class=\"kind held\">incomplete</span><p>{} · {incomplete} · {when}</p>",
            count(*files, "file")
        ),
        Err(reason) => format!(
            "<span class=\"kind bad\">failed</span><p>{} · {when}</p>",
            escape(reason)
        ),
    }
}
