# shellcheck shell=bash
# An OCI layout directory instead of a registry.

LAYOUT=/srv/updates/local

from_layout() {
    local n
    mkdir -p /srv/updates
    for n in 1 2 3; do image "$SCRATCH/local-$n.raw" squashfs local "$n"; done
    configure 50-layout <<CONF
[repository.local]
source = "oci:$LAYOUT"
CONF
    oras push --oci-layout "$LAYOUT:v1" local-1.raw
    oras push --oci-layout "$LAYOUT:v2" local-2.raw
    listed local "$(line local-1.raw local-v1.raw)" "$(line local-2.raw local-v2.raw)"
    transfer local url-file local-@v.raw regular-file local-@v.raw local.raw
    sysupdate local update
    merged local 2
}
check layout-updates from_layout

new_in_layout() {
    oras push --oci-layout "$LAYOUT:v3" local-3.raw
    eventually 5 offers local "$(line local-3.raw local-v3.raw)"
    sysupdate local update
    merged local 3
}
check layout-new-version new_in_layout

# skopeo writes layouts too, and a mirror of a registry may lie where only the service's sandbox could be in the way
mirror_in_var_lib() {
    configure 50-layout <<CONF
[repository."mirrors/layer"]
source = "oci:/var/lib/mirror"
CONF
    copy --src-tls-verify=false "docker://$REGISTRY/layer:v1.1" oci:/var/lib/mirror:v1.1
    listed mirrors/layer "$(line "$LAYERS/layer-1.tar.gz" layer-v1.1.tar.gz)"
    delivers mirrors/layer/layer-v1.1.tar.gz "$LAYERS/layer-1.tar.gz"
}
check layout-mirrored-by-skopeo mirror_in_var_lib

without_registry() {
    stop_registry
    listed mirrors/layer "$(line "$LAYERS/layer-1.tar.gz" layer-v1.1.tar.gz)"
}
check layout-needs-no-registry without_registry

start_registry
unconfigure 50-layout
