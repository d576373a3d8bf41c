# shellcheck shell=bash
# Errors: the right status, a header for whoever asks why, and no body but for people. A body of a few bytes is enough for
# systemd-sysupdate to take it for the beginning of a download.

not_there() {
    refuses 404 no-such-repository/SHA256SUMS
    refuses 404 "tool/tool-v9.9-$ARCH.raw"
    refuses 404 "tool/tool-v1.9-$ARCH.tar.gz"
    refuses 404 tool/other-v1.raw
    refuses 404 "index/index-v3-$ARCH.raw"
}
check not-offered-404 not_there

curl_tells() {
    same "the status" 404 "$(status --dump-header /tmp/header --output /tmp/body "$URL/tool/other-v1.raw")"
    same "the body" "$(tr -d '\r' </tmp/header | sed -n 's/^X-Reason: //p')" "$(cat /tmp/body)"
    status --header 'Accept: application/json' --output /tmp/body "$URL/registry.example.org/tool/SHA256SUMS"
    jq --exit-status '.status == 403 and .step == "settings" and (.remedy | contains("allow"))' /tmp/body
}
check curl-shows-the-reason curl_tells

# importctl asks for these before it looks for SHA256SUMS, and anything but 404 is the end of it.
side_files() {
    local suffix
    for suffix in .verity .roothash .roothash.p7s; do refuses 404 "tool/tool-v1.9-$ARCH$suffix"; done
    refuses 404 "tool/tool-v9.9-$ARCH.raw.sha256"
}
check side-files-404 side_files

signatures() {
    local suffix
    for suffix in gpg asc sha256.gpg sha256.asc; do refuses 404 "tool/SHA256SUMS.$suffix"; done
}
check signatures-404 signatures

unsigned() { ! sysupdate tool --verify=yes list || fail "a list without a signature was accepted"; }
check sysupdate-refuses-unsigned unsigned

strangers() { refuses 403 registry.example.org/tool/SHA256SUMS; }
check registry-not-allowed-403 strangers

nonsense() {
    refuses 400 TOOL/SHA256SUMS
    refuses 400 tool/%00
    refuses '400|404' ../../etc/passwd
}
check bad-address-400 nonsense

methods() {
    local found
    found=$(status --request POST --dump-header /tmp/header "$URL/tool/SHA256SUMS")
    same "the status" 405 "$found"
    grep --quiet --ignore-case '^allow:.*GET' /tmp/header
}
check post-405 methods
