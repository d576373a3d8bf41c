# shellcheck shell=bash
# Container images of several layers, as buildah builds them: they have to be flattened.

BUILT=$SCRATCH/built

build() {
    buildah --storage-driver=vfs --root="$BUILT/root" --runroot="$BUILT/runroot" "$@"
}

# build_and_push TAG [OPTION…] - an image from the Dockerfile on standard input
build_and_push() {
    local tag=$1
    shift
    # The limits that a container gets by default are higher than those here.
    build bud --quiet --isolation=chroot --ulimit=nofile=1024:1024 --ulimit=nproc=1024:1024 \
        --layers --tag "built:$tag" --file - "$BUILT/context"
    build push --quiet --tls-verify=false "$@" "built:$tag" "docker://$REGISTRY/built:$tag"
}

layers_of() { oras manifest fetch --plain-http "$REGISTRY/built:$1" | jq '.layers | length'; }

# built_installed TAG VERSION - is the newest, gets installed and merged
built_installed() {
    eventually 15 is_newest built "$1"
    sysupdate built update
    same "the current version" "/opt/extensions/built/built-$1" "$(realpath /var/lib/extensions/built)"
    merged built "$2"
}

transfer built url-tar built-@v.tar.gz directory built-@v built

copied_and_removed() {
    local directory=/opt/extensions/built/built-v1.0
    mkdir -p "$BUILT/context"
    tree "$BUILT/context/base" built 0
    tree "$BUILT/context/next" built 1.0
    echo gone >"$BUILT/context/base/usr/share/built/gone"
    mkdir "$BUILT/context/base/usr/share/built/directory"
    echo gone >"$BUILT/context/base/usr/share/built/directory/file"
    echo kept >"$BUILT/context/base/usr/share/built/kept"
    ln "$BUILT/context/base/usr/share/built/kept" "$BUILT/context/base/usr/share/built/kept-too"
    echo owned >"$BUILT/context/owned"
    cp /bin/busybox "$BUILT/context/"
    build_and_push v1.0 <<'DOCKERFILE'
FROM scratch
COPY base/usr /usr
COPY busybox /usr/lib/built/busybox
RUN ["/usr/lib/built/busybox", "rm", "-r", "/usr/share/built/gone", "/usr/share/built/directory"]
COPY --chown=1000:1000 owned /usr/share/built/owned
RUN ["/usr/lib/built/busybox", "chmod", "4711", "/usr/lib/built/busybox"]
COPY next/usr /usr
DOCKERFILE
    [ "$(layers_of v1.0)" -ge 6 ] || fail "only $(layers_of v1.0) layers"
    built_installed v1.0 1.0
    [ ! -e /usr/share/built/gone ] || fail "what a layer removed is there"
    [ ! -e /usr/share/built/directory ] || fail "a directory that a layer removed is there"
    same "what was kept" kept "$(cat /usr/share/built/kept)"
    [ "$directory/usr/share/built/kept" -ef "$directory/usr/share/built/kept-too" ] || fail "a hard link became a copy"
    same "an owner" 1000:1000 "$(stat --format=%u:%g /usr/share/built/owned)"
    same "a mode" 4711 "$(stat --format=%a /usr/lib/built/busybox)"
}
check flatten-buildah copied_and_removed

# The sums are remembered: a later start of the service lists them without making anything again.
remembered() {
    local before after
    before=$(listing built)
    stop_service
    news >/dev/null
    after=$(listing built)
    same "the listing after a restart" "$before" "$after"
    ! news | grep --regexp=flattening --regexp='reading its one layer' || fail "what was made is made again"
}
check flatten-remembered remembered

made_again() {
    local sum
    sum=$(listing built | cut -d ' ' -f 1)
    stop_service
    rm -r /var/cache/private/sysext-oci-proxy/made
    same "the sum of what is made again" "$sum" "$(fetch "$URL/built/built-v1.0.tar.gz" | sha256sum | cut -d ' ' -f 1)"
}
check flatten-again made_again

zstd_layers() {
    tree "$BUILT/context/next" built 1.1
    build_and_push v1.1 --compression-format=zstd --force-compression <<'DOCKERFILE'
FROM scratch
COPY base/usr /usr
COPY next/usr /usr
DOCKERFILE
    oras manifest fetch --plain-http "$REGISTRY/built:v1.1" | grep tar+zstd
    built_installed v1.1 1.1
}
check flatten-zstd zstd_layers
