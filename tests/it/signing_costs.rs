//! Requests for signatures: one lookup for each version, and none once a verdict is kept.

use serde_json::json;

use crate::content::versions;
use crate::cosign::{Form, Key};
use crate::registry::Registry;
use crate::service::{ANEW, Folder, Setup, later};

const VERSIONS: usize = 5;

/// A registry whose versions are all signed in this form, and their listing.
fn signed(key: &Key, form: Form, has_referrers_api: bool) -> (Registry, String) {
    let registry = Registry::start();
    let (mut hello, listing) = versions(VERSIONS);
    hello.has_referrers_api = has_referrers_api;
    let manifests: Vec<_> = hello.tags.values().cloned().collect();
    for digest in manifests {
        let manifest = json!({"mediaType": "", "size": 1, "digest": digest});
        let name = format!("{}/hello", registry.address);
        key.sign(&mut hello, form, &name, &manifest);
    }
    registry.put("hello", hello);
    (registry, listing)
}

/// The requests of a listing when nothing is known; of the next one; and of one by the next process.
fn requests(registry: &Registry, listing: &str, settings: &str) -> [Vec<String>; 3] {
    let cache = Folder::new();
    let setup = || {
        let setup = Setup::of(registry).settings(ANEW).cache(&cache);
        setup.settings(settings)
    };
    let service = setup().start();
    assert_eq!(service.listing(), listing, "{settings}");
    let cold = registry.take_requests();
    later();
    assert_eq!(service.listing(), listing, "{settings}");
    let settled = registry.take_requests();
    drop(service);
    assert_eq!(setup().start().listing(), listing, "{settings}");
    [cold, settled, registry.take_requests()]
}

#[test]
fn a_settled_listing_of_signed_versions_costs_what_an_unsigned_one_costs() {
    let key = Key::new();
    let keys = Folder::new();
    let file = keys.file("acme.pub", &key.pem());
    let verify = format!("[repository.hello]\nverify = [{{ key = {file:?} }}]\n");
    // How many requests more each version takes once. The list of tags shows which have a .sig tag; without the
    // referrers API the fallback tag is asked, too.
    for (form, has_referrers_api, once) in [
        (Form::SigTag, false, 2),
        (Form::SigTag, true, 2),
        (Form::Attached, true, 3),
        (Form::Bundle, true, 3),
        (Form::Attached, false, 4),
        (Form::Bundle, false, 4),
    ] {
        let why = format!("{form:?}, API {has_referrers_api}");
        let (registry, listing) = signed(&key, form, has_referrers_api);
        let [cold, settled, warm] = requests(&registry, &listing, "");
        let [signed_cold, signed_settled, signed_warm] = requests(&registry, &listing, &verify);
        assert_eq!(settled, signed_settled, "{why}");
        assert_eq!(warm, signed_warm, "{why}");
        assert_eq!(
            signed_cold.len() - cold.len(),
            once * VERSIONS,
            "{why}: {signed_cold:?}"
        );
    }
}
