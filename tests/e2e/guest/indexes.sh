# shellcheck shell=bash
# Indexes: one tag, several machines, and what else lies in them.

platforms() {
    local here there attestation
    image "$SCRATCH/here.raw" squashfs index 1
    image "$SCRATCH/there.raw" squashfs index 2
    echo '{"_type":"https://in-toto.io/Statement/v0.1"}' >"$SCRATCH/attestation.json"
    here=$(entry index "$SCRATCH/here.raw" linux "$OCI_ARCH")
    there=$(entry index "$SCRATCH/there.raw" linux "$OTHER_OCI_ARCH")
    attestation=$(entry index "$SCRATCH/attestation.json" unknown unknown |
        jq '.annotations = {"vnd.docker.reference.type": "attestation-manifest"}')

    push_index index:v1 "$there" "$here" "$attestation"
    push_index index:v2 "$here" "$attestation"
    # this one is for other machines
    push_index index:v3 "$there" "$attestation"
    listed index "$(line "$SCRATCH/here.raw" "index-v1-$ARCH.raw")" "$(line "$SCRATCH/here.raw" index-v2.raw)"
    delivers "index/index-v1-$ARCH.raw" "$SCRATCH/here.raw"
    delivers index/index-v2.raw "$SCRATCH/here.raw"
}
check index-of-platforms platforms

nested() {
    local here there inner
    here=$(entry nested "$SCRATCH/here.raw" linux "$OCI_ARCH")
    there=$(entry nested "$SCRATCH/there.raw" linux "$OTHER_OCI_ARCH")
    inner=$(push_index nested "$here")
    push_index nested:v1 "$there" "$inner"
    listed nested "$(line "$SCRATCH/here.raw" "nested-v1-$ARCH.raw")"
    delivers "nested/nested-v1-$ARCH.raw" "$SCRATCH/here.raw"
}
check index-in-an-index nested

updates_from_index() {
    transfer index url-file index-@v-%a.raw regular-file index-@v-%a.raw index.raw
    sysupdate index update
    merged index 1
}
check sysupdate-from-an-index updates_from_index
