//! The built program from outside: on a handed-over socket, before a fake registry or an OCI
//! layout. Nothing here needs a network or other programs than `sh`, `curl` and `mkfifo`. What only root
//! may do, to mount a disk with `mount`, is left out for others.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends where something is not as it has to be"
)]
#![allow(
    missing_docs,
    unreachable_pub,
    reason = "nobody uses a test from outside"
)]

// The means.
mod activator;
mod client;
mod content;
mod cosign;
mod disk;
mod images;
mod registry;
mod request;
mod rounds;
mod service;
mod sigstore;
mod tls;
mod tokens;

// The promises.
mod a_long_time;
mod asked;
mod attached;
mod blobs;
mod blocked;
mod cache;
mod cases;
mod challenges;
mod check;
mod check_machine;
mod check_seeds;
mod command_line;
mod complete;
mod completions;
mod corpus;
mod costs;
mod deltas;
mod dialects;
mod documents;
mod download_connections;
mod downloads;
mod edges;
mod etags;
mod flatten;
mod hangups;
mod held;
mod hostile;
mod hosts;
mod idle;
mod inside;
mod journal;
mod keyless;
mod latest_json;
mod layers;
mod layouts;
mod listings;
mod logins;
mod machine_key;
mod manifests;
mod manual;
mod merged;
mod mirrors;
mod overview;
mod pages;
mod printable;
mod promises;
mod proxies;
mod rollouts;
mod secrets;
mod settings;
mod signals;
mod signed;
mod signing_costs;
mod state;
mod tags;
mod tidy;
mod transfer;
mod trust;
mod upstream;
mod versions;
mod views;
