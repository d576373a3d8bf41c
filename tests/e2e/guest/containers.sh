# shellcheck shell=bash
# Container images of one layer, as skopeo pushes them in both formats, and tarballs pushed as files.

LAYERS=$SCRATCH/layers

make_layers() {
    local n
    for n in 0 1 2; do
        tree "$LAYERS/$n" layer "1.$n"
        ln --symbolic version "$LAYERS/$n/usr/share/layer/link"
        printf '#!/bin/sh\n' >"$LAYERS/$n/usr/share/layer/program"
        chmod 750 "$LAYERS/$n/usr/share/layer/program"
        tar --directory="$LAYERS/$n" --create --owner=0 --group=0 --gzip --file="$LAYERS/layer-$n.tar.gz" .
    done
    for n in 0 1; do container "$LAYERS/oci" "v1.$n" "$LAYERS/layer-$n.tar.gz"; done
}
check make-container-images make_layers

copy() { skopeo --insecure-policy copy --quiet --dest-tls-verify=false "$@"; }

transfer layer url-tar layer-@v.tar.gz directory layer-@v layer

# layer_installed N - the version 1.N is the newest one, gets installed, and is what was in the layer
layer_installed() {
    local directory=/opt/extensions/layer/layer-v1.$1
    eventually 5 offers layer "$(line "$LAYERS/layer-$1.tar.gz" "layer-v1.$1.tar.gz")"
    newest layer "v1.$1"
    sysupdate layer update
    diff --recursive --no-dereference "$LAYERS/$1" "$directory"
    same "the modes in $directory" "$(modes "$LAYERS/$1")" "$(modes "$directory")"
    same "the current version" "$directory" "$(realpath /var/lib/extensions/layer)"
    merged layer "1.$1"
}
modes() { (cd "$1" && find . -mindepth 1 -printf '%P %m %l\n' | sort); }

docker_format() { copy --format=v2s2 "oci:$LAYERS/oci:v1.0" "docker://$REGISTRY/layer:v1.0"; layer_installed 0; }
check container-image-docker docker_format

oci_format() { copy --format=oci "oci:$LAYERS/oci:v1.1" "docker://$REGISTRY/layer:v1.1"; layer_installed 1; }
check container-image-oci oci_format

typed_tarball() {
    (cd "$LAYERS" && oras push --plain-http "$REGISTRY/layer:v1.2" layer-2.tar.gz:application/vnd.oci.image.layer.v1.tar+gzip)
    layer_installed 2
    versions layer v1.2 v1.1 v1.0
}
check tarball-with-media-type typed_tarball

untyped_tarball() {
    push plain:v3 "$LAYERS/layer-2.tar.gz"
    listed plain "$(line "$LAYERS/layer-2.tar.gz" plain-v3.tar.gz)"
}
check tarball-by-its-title untyped_tarball

imports_tar() {
    importctl --class=sysext --verify=checksum pull-tar "$URL/layer/layer-v1.1.tar.gz" imported
    diff --recursive --no-dereference "$LAYERS/1" /var/lib/extensions/imported
    rm --recursive --force /var/lib/extensions/imported
}
check importctl-pull-tar imports_tar
