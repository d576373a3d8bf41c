# shellcheck shell=bash disable=SC2164 # a check ends with the first command that fails
# importctl as people call it: with its default, --verify=signature, and with --verify=checksum beside verity files.

IMPORTS=$SCRATCH/imports

# A key of its own, which both systemds find: /etc/systemd/import-pubring.gpg, from 258 on import-pubring.pgp.
trust_key() {
    local keyring=/etc/systemd/import-pubring.gpg
    [ "$(systemctl --version | awk 'NR == 1 { print int($2) }')" -lt 258 ] || keyring=/etc/systemd/import-pubring.pgp
    mkdir -p "$IMPORTS"
    export GNUPGHOME=$IMPORTS/gnupg
    mkdir -m 700 "$GNUPGHOME"
    gpg --batch --passphrase '' --quick-gen-key importer@example.org default default never
    gpg --export importer@example.org >>$keyring
}

# signed_import REPOSITORY FILE… - pushes the files as one version and signs a list of them
signed_import() {
    local repository=$1
    shift
    sha256sum "$@" >SHA256SUMS
    gpg --batch --yes --detach-sign --output SHA256SUMS.gpg SHA256SUMS
    oras push --plain-http --no-tty "$REGISTRY/$repository:v1" "$@"
    oras push --plain-http --no-tty "$REGISTRY/$repository:SHA256SUMS" SHA256SUMS SHA256SUMS.gpg
    eventually 15 is_given_out "$repository"
}
# is_given_out REPOSITORY - the list in this directory is, with its signature: the list of the tags may have the same lines
is_given_out() { cmp SHA256SUMS <(listing "$1") && cmp SHA256SUMS.gpg <(fetch "$URL/$1/SHA256SUMS.gpg"); }

# The checksum's side file is asked for first: where it is there, its signature is SHA256SUMS.gpg to systemd-pull.
default_verification() {
    trust_key
    mkdir "$IMPORTS/plain"
    cd "$IMPORTS/plain"
    image imported-v1.raw squashfs imported 1
    signed_import imported imported-v1.raw
    same "the side file beside a signature" 404 "$(status "$URL/imported/imported-v1.raw.sha256")"
    importctl --class=sysext pull-raw "$URL/imported/imported-v1.raw" imported
    cmp imported-v1.raw /var/lib/extensions/imported.raw
    rm --force /var/lib/extensions/imported.raw
}
check importctl-verifies-the-signature default_verification

with_verity_files() {
    local suffix
    mkdir "$IMPORTS/verity"
    cd "$IMPORTS/verity"
    image verity-v1.raw squashfs verity 1
    for suffix in verity roothash roothash.p7s; do echo "the $suffix" >verity-v1.$suffix; done
    # Before the list is signed, it is made from the tags.
    oras push --plain-http --no-tty "$REGISTRY/verity:v1" verity-v1.*
    eventually 15 offers verity "$(line verity-v1.raw verity-v1.raw)"
    for suffix in raw verity roothash roothash.p7s; do
        fetch "$URL/verity/verity-v1.raw.sha256" | grep --line-regexp --fixed-strings "$(line verity-v1.$suffix verity-v1.$suffix)"
    done
    imports_with_verity --verify=checksum
    export GNUPGHOME=$IMPORTS/gnupg
    signed_import verity verity-v1.*
    imports_with_verity
}
# imports_with_verity [OPTION…]
imports_with_verity() {
    local suffix
    importctl --class=sysext "$@" pull-raw "$URL/verity/verity-v1.raw" verity
    for suffix in raw verity roothash roothash.p7s; do cmp verity-v1.$suffix /var/lib/extensions/verity.$suffix; done
    rm --force /var/lib/extensions/verity.*
}
check importctl-takes-verity-files with_verity_files

tampered() {
    cd "$IMPORTS/plain"
    sha256sum /etc/hostname >>SHA256SUMS
    oras push --plain-http --no-tty "$REGISTRY/imported:SHA256SUMS" SHA256SUMS SHA256SUMS.gpg
    eventually 15 is_given_out imported
    ! importctl --class=sysext pull-raw "$URL/imported/imported-v1.raw" imported || fail "a list that was tampered with is accepted"
}
check importctl-refuses-a-tampered-list tampered

# As sysextmgr does with verify_signature=true, its default (openSUSE/sysextmgr, src/download.c and images-list.c): the list, the
# manifest of each image in it, then the image, each by a systemd-pull of its own that verifies the publisher's signature.
sysextmgr_verifies() {
    local file
    mkdir "$IMPORTS/sysextmgr"
    cd "$IMPORTS/sysextmgr"
    image wrench-1.2.x86-64.raw squashfs wrench 1.2
    jq --null-input '{config: {name: "wrench", architecture: "x86-64", version: "1.2"},
        extension: {ID: "_any", SYSEXT_VERSION_ID: "1.2", ARCHITECTURE: "x86-64"}}' | gzip --no-name >wrench-1.2.x86-64.manifest.gz
    export GNUPGHOME=$IMPORTS/gnupg
    signed_import wrench wrench-1.2.x86-64.raw wrench-1.2.x86-64.manifest.gz
    for file in SHA256SUMS wrench-1.2.x86-64.manifest.gz wrench-1.2.x86-64.raw; do
        /usr/lib/systemd/systemd-pull raw --direct --verify signature "$URL/wrench/$file" "$IMPORTS/pulled"
        # It takes a packed file apart, as sysextmgr expects.
        if [ "${file##*.}" = gz ]; then
            cmp <(zcat $file) "$IMPORTS/pulled"
        else
            cmp $file "$IMPORTS/pulled"
        fi
    done
}
check sysextmgr-verifies-all-that-it-fetches sysextmgr_verifies

# A list that does not name the manifest: systemd-pull has nothing to verify it by.
sysextmgr_without_manifest() {
    cd "$IMPORTS/sysextmgr"
    export GNUPGHOME=$IMPORTS/gnupg
    rm wrench-1.2.x86-64.manifest.gz
    signed_import wrench wrench-1.2.x86-64.raw
    ! /usr/lib/systemd/systemd-pull raw --direct --verify signature "$URL/wrench/wrench-1.2.x86-64.manifest.gz" "$IMPORTS/pulled" ||
        fail "a manifest that the publisher did not sign is accepted"
}
check sysextmgr-refuses-what-is-not-signed sysextmgr_without_manifest

# importctl keeps what it downloaded under its URL and ETag, and asks with If-None-Match the next time.
blobs_asked_for() {
    journalctl --sync
    journalctl --unit='registry-*.service' --output=cat | grep --count '"GET /v2/kept/blobs/' || true
}
keeps_downloads() {
    local before
    mkdir "$IMPORTS/kept"
    cd "$IMPORTS/kept"
    image kept-v1.raw squashfs kept 1
    push kept:v1 kept-v1.raw
    eventually 15 offers kept "$(line kept-v1.raw kept-v1.raw)"
    importctl --class=sysext --verify=checksum --keep-download=yes pull-raw "$URL/kept/kept-v1.raw" kept
    find /var/lib/extensions -name "*sha256:$(sha256 kept-v1.raw)*" | grep .
    before=$(blobs_asked_for)
    [ "$before" -gt 0 ] || fail "the first download is not in the registry's journal"
    importctl --class=sysext --verify=checksum --keep-download=yes --force pull-raw "$URL/kept/kept-v1.raw" kept
    same "the downloads from the registry" "$before" "$(blobs_asked_for)"
    cmp kept-v1.raw /var/lib/extensions/kept.raw
    # Pushed anew, it is fetched.
    image kept-v1.raw squashfs kept 2
    push kept:v1 kept-v1.raw
    eventually 15 offers kept "$(line kept-v1.raw kept-v1.raw)"
    importctl --class=sysext --verify=checksum --keep-download=yes --force pull-raw "$URL/kept/kept-v1.raw" kept
    cmp kept-v1.raw /var/lib/extensions/kept.raw
    find /var/lib/extensions -name '*kept*' -delete
}
check importctl-downloads-once-what-it-keeps keeps_downloads
