# shellcheck shell=bash
# What stands before registries: storage elsewhere, limits, fronts that take headers away or compress.

starts_fronts() {
    registry storage 127.0.0.1:5020 <<CONF
http: { addr: "127.0.0.1:5020" }
auth: { htpasswd: { realm: e2e, path: $FLEET/htpasswd } }
middleware:
  storage: [ { name: redirect, options: { baseurl: "http://127.0.0.1:5021/" } } ]
CONF
    front fronts 127.0.0.1:5021 127.0.0.1:503{1..4} <<CONF
    # where the blobs of 5020 are
    server {
        listen 127.0.0.1:5021;
        root $FLEET/storage;
        if (\$http_authorization) { return 400 "Only one auth mechanism allowed"; }
    }
    # five requests a second, and never two at once
    limit_req_zone \$server_port zone=few:32k rate=5r/s;
    server {
        listen 127.0.0.1:5031;
        limit_req zone=few;
        limit_req_status 429;
        error_page 429 @later;
        location @later { add_header Retry-After 1 always; return 429; }
        location / { proxy_pass http://127.0.0.1:5000; }
    }
    # no header of the registry's own
    server {
        listen 127.0.0.1:5032;
        proxy_hide_header Docker-Content-Digest;
        proxy_hide_header Docker-Distribution-Api-Version;
        proxy_hide_header ETag;
        location / { proxy_pass http://127.0.0.1:5000; }
    }
    # no lengths, and gzip for who accepts it
    server {
        listen 127.0.0.1:5033;
        gzip on;
        gzip_types *;
        gzip_min_length 0;
        gzip_proxied any;
        sub_filter "this is nowhere" "";
        sub_filter_types *;
        location / { proxy_pass http://127.0.0.1:5000; }
    }
    # gzip for everybody
    server {
        listen 127.0.0.1:5034;
        location / { proxy_set_header Accept-Encoding gzip; proxy_http_version 1.1; proxy_pass http://127.0.0.1:5033; }
    }
CONF
    login localhost:5020 fleet "$FLEET_PASSWORD" >"$AUTH"
    stop_service
}
check start-fronts starts_fronts

redirected() {
    publish localhost:5020/acme/fleet:v1 "$(fleet_image 1)" --plain-http
    publish_container localhost:5020/acme/layer:v1 "$FLEET_LAYER" --dest-tls-verify=false
    : >"$FLEET/fronts.log"
    serves localhost:5020/acme/fleet fleet-v1.raw "$(fleet_image 1)"
    serves localhost:5020/acme/layer layer-v1.tar.gz "$FLEET_LAYER"
    # The file, the config of the container image, its layer.
    same "what reached the storage" "200 GET auth=-
200 GET auth=-
200 GET auth=-" "$(sed 's, /[^ ]* HTTP/1.1,,; s/ by=.*//' "$FLEET/fronts.log")"
}
check blobs-at-another-server redirected

limited() {
    local manifest=/tmp/manifest n
    push limited:1 "$(fleet_image 1)"
    oras manifest fetch --plain-http "$REGISTRY/limited:1" >$manifest
    # Far more than are asked for side by side: each of them has to come to its turn.
    oras manifest push --plain-http "$REGISTRY/limited:$(seq --separator=, 2 60)" $manifest
    : >"$FLEET/fronts.log"
    for n in {1..60}; do line "$(fleet_image 1)" "limited-$n.raw"; done | LC_ALL=C sort --key=2 >/tmp/expected
    listing localhost:5031/limited | diff /tmp/expected -
    grep --quiet '^429 ' "$FLEET/fronts.log" || fail "it was never told to wait"
    delivers localhost:5031/limited/limited-2.raw "$(fleet_image 1)"
}
check asked-to-wait limited

without_digests() { serves localhost:5032/first first-v1.raw "$SCRATCH/first.raw"; }
check no-digest-header without_digests

without_lengths() { serves localhost:5033/first first-v1.raw "$SCRATCH/first.raw"; }
check no-lengths without_lengths

compressed() { complains 502 localhost:5034/first 'Content-Encoding gzip'; }
check compressed-on-the-way compressed
