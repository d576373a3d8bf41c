# shellcheck shell=bash
# Mirrors: a pull-through cache, as docs/mirrors.md has it, and what happens when it or the registry is away.

REGISTRIES=/etc/containers/registries.conf

# mirrored [LINE…] - by that document's example, with these lines more in [[registry.mirror]]; both are up
mirrored() {
    primary_up
    cache_up
    { block 'mirrors: pull-through cache' && printf '%s\n' "$@"; } >$REGISTRIES
    stop_service
}
primary_down() { down nginx@ghcr; }
primary_up() { up nginx@ghcr 127.0.0.3:443; }
cache_down() { down docker-registry@cache; }
cache_up() { up docker-registry@cache 127.0.0.4:5000; }

# calm COMMAND… - it succeeds, and nobody is warned
calm() {
    news >/dev/null
    "$@"
    same "warnings" "" "$(news --priority=warning)"
}

# warns TEXT COMMAND… - it succeeds, and this one line warns
warns() {
    local text=$1 found
    news >/dev/null
    "${@:2}"
    found=$(news --priority=warning)
    one_line "$found" "$text"
}

offers_version() { offers fleet "$(line "$(fleet_image "$1")" "fleet-v$1.raw")"; }
delivers_version() { delivers "fleet/fleet-v$1.raw" "$(fleet_image "$1")"; }

# blobs_from_registry - how many we got from the registry itself since the last time
blobs_from_registry() {
    grep --count '^200 GET /v2/[^ ]*/blobs/.* by=sysext-oci-proxy' "$FLEET/ghcr.log" || true
    : >"$FLEET/ghcr.log"
}

from_cache() {
    publish ghcr.io/acme/fleet:v3 "$(fleet_image 3)"
    mirrored
    blobs_from_registry
    calm offers_version 3
    calm delivers_version 3
    grep --quiet '^200 GET /v2/acme/fleet/tags/list.* by=sysext-oci-proxy' "$FLEET/ghcr.log" ||
        fail "the registry was not asked for tags"
    same "blobs from the registry" 0 "$(blobs_from_registry)"
}
check blobs-from-a-pull-through-cache from_cache

mirror_down() {
    mirrored
    cache_down
    calm offers_version 3
    warns 'ghcr.io/acme/fleet: mirror cache.example.com:5000 fails, going on without it: cannot connect' delivers_version 3
    # it is left alone for a while
    calm delivers_version 3
}
check mirror-down mirror_down

down_after_listing() {
    mirrored 'pull-from-mirror = "digest-only"'
    calm offers_version 3
    primary_down
    calm delivers_version 3
    # this mirror may not say what tags there are
    sleep 0.5 # no listing is that old
    complains 502 fleet 'cannot connect to https://ghcr.io/v2/acme/fleet/tags/list'
}
check registry-down-after-the-listing down_after_listing

# A pull-through cache knows the tags that were pulled through it, as podman does.
pull_by_tag() {
    oras manifest fetch --ca-file "$FLEET/private.crt" "cache.example.com:5000/acme/fleet:v$1"
}

tags_only() {
    mirrored 'pull-from-mirror = "tag-only"'
    pull_by_tag 3
    blobs_from_registry
    calm delivers_version 3
    same "blobs from the registry" 1 "$(blobs_from_registry)"
    primary_down
    stop_service
    warns 'tags from mirror cache.example.com:5000' offers_version 3
}
check mirror-for-tags-only tags_only

# A whole update by the cache.
primary_away() {
    mirrored
    primary_down
    warns 'ghcr.io/acme/fleet: tags from mirror cache.example.com:5000 instead: cannot connect' offers_version 3
    newest fleet v3
    sysupdate fleet update
    merged fleet 3
}
check sysupdate-from-the-mirror-alone primary_away

everything_down() {
    mirrored
    primary_down
    cache_down
    complains 502 fleet 'cannot connect to https://ghcr.io/v2/acme/fleet/tags/list' 'cache.example.com:5000'
}
check everything-down-is-explained everything_down

everything_back() {
    mirrored
    calm offers_version 3
}
check everything-back everything_back

# The cache dies in the middle of a file; the client does not notice.
killed_in_a_file() {
    local client
    mirrored
    dd if=/dev/urandom of="$FLEET/large.raw" bs=1M count=64 status=none
    publish ghcr.io/acme/large:v1 "$FLEET/large.raw"
    serves ghcr.io/acme/large large-v1.raw "$FLEET/large.raw"
    blobs_from_registry
    fetch --limit-rate 24M --output "$FLEET/part" "$URL/ghcr.io/acme/large/large-v1.raw" &
    client=$!
    sleep 1
    news >/dev/null
    systemctl kill --signal=KILL docker-registry@cache
    wait "$client"
    one_line "$(news | grep --fixed-strings 'going on from there')" large-v1.raw
    cmp "$FLEET/part" "$FLEET/large.raw"
    grep --quiet '^206 GET /v2/acme/large/blobs/.* by=sysext-oci-proxy' "$FLEET/ghcr.log" ||
        fail "the registry was not asked for the rest"
}
check mirror-killed-in-a-file killed_in_a_file
primary_up
cache_up

blocked() {
    printf '[[registry]]\nlocation = "ghcr.io/acme"\nblocked = true\n' >$REGISTRIES
    stop_service
    complains 403 fleet 'ghcr.io/acme/fleet is blocked by registries.conf' 'for ghcr.io/acme'
    serves ghcr.io/public/fleet fleet-v1.raw "$(fleet_image 1)"
}
check blocked-registry-is-explained blocked

not_understood() {
    printf '[[registry]]\nlocation = "ghcr.io"\nblocked = "yes"\n' >$REGISTRIES
    stop_service
    same "the answer" 500 "$(status "$URL/fleet/SHA256SUMS")"
    eventually 20 is "$SERVICE" failed
    news | grep --quiet "$REGISTRIES:3: .*blocked\|$REGISTRIES:3: .*boolean" || fail "the journal does not name file and line"
}
check mistake-in-registries-conf not_understood

rm $REGISTRIES
stop_service
