# shellcheck shell=bash disable=SC2164,SC2154,SC2016 # a check ends with the first command that fails; trust.sh; jq
# What is not signed as the settings ask is refused, whatever stands in its place. By the means of trust.sh.

SIGNATURE=dev.cosignproject.cosign/signature
BUNDLE=application/vnd.dev.sigstore.bundle.v0.3+json
FORM=${forms[-1]}

# refusal NAME COMMAND… - a check on each registry, with its unsigned trust/NAME@$digest, which has to be signed
refusal() { on_each_registry "refused-$1" prepared "$@"; }
prepared() {
    repository=trust/$1
    asks "$repository" p256 | configure 20-trust
    digest=$(push_version "$repository:v1" 1)
    "${@:2}"
}

# manifest_of REFERENCE - as it is, in $REGISTRY
manifest_of() { oras manifest fetch --plain-http "$REGISTRY/$1"; }

# put_manifest REFERENCE - standard input becomes a manifest
put_manifest() { oras manifest push --plain-http "$REGISTRY/$1" -; }

# change_sig_tag FILTER [OPTION…] - has the manifest with the signature changed by jq
change_sig_tag() {
    local tag=${digest/:/-}.sig
    manifest_of "$repository:$tag" >"$KEYS/signature.json"
    jq --compact-output "$@" "$KEYS/signature.json" | put_manifest "$repository:$tag"
}

# flipped - standard input, with one bit of its last byte changed
flipped() { python3 -c 'import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data[:-1] + bytes([data[-1] ^ 1]))'; }

unsigned() { refused "$repository" "it is not signed; key $KEYS/p256.pub must have signed it"; }
refusal unsigned unsigned

by_another_key() {
    sign other "$1" "$repository@$digest"
    refused "$repository" "another key made it"
}
for form in "${forms[@]}"; do refusal "other-key-$form" by_another_key "$form"; done

changed_payload() {
    local payload
    sign p256 sig-tag "$repository@$digest"
    payload=$(manifest_of "$repository:${digest/:/-}.sig" | jq --raw-output '.layers[0].digest')
    oras blob fetch --plain-http --output "$KEYS/payload" "$REGISTRY/$repository@$payload"
    sed --in-place 's/cosign container/cosigm container/' "$KEYS/payload"
    oras blob push --plain-http "$REGISTRY/$repository" "$KEYS/payload"
    change_sig_tag --arg digest "sha256:$(sha256 "$KEYS/payload")" '.layers[0].digest = $digest'
    refused "$repository" "it was changed since"
}
refusal changed-payload changed_payload

changed_signature() {
    local signature
    sign p256 sig-tag "$repository@$digest"
    signature=$(manifest_of "$repository:${digest/:/-}.sig" | jq --raw-output --arg key $SIGNATURE '.layers[0].annotations[$key]')
    signature=$(base64 --decode <<<"$signature" | flipped | base64 --wrap=0)
    change_sig_tag --arg key $SIGNATURE --arg new "$signature" '.layers[0].annotations[$key] = $new'
    refused "$repository" "it was changed since"
}
refusal changed-signature changed_signature

empty_signature() {
    sign p256 sig-tag "$repository@$digest"
    change_sig_tag --arg key $SIGNATURE '.layers[0].annotations[$key] = ""'
    refused "$repository" "the signature is empty"
}
refusal empty-signature empty_signature

# One byte more is enough to make it another manifest.
changed_manifest() {
    sign p256 "$FORM" "$repository@$digest"
    { manifest_of "$repository@$digest" && echo; } | put_manifest "$repository:v1"
    refused "$repository" "it is not signed; key"
}
refusal changed-manifest changed_manifest

# attached_to REPOSITORY@DIGEST - the digest of what is, which oras has called by two names
attached_to() {
    oras discover --plain-http --format json "$REGISTRY/$1" | jq --raw-output '(.manifests // .referrers)[0].digest'
}

# only_second_version REASON - v2 is offered, and v1 is not for this reason
only_second_version() {
    listed "$REGISTRY/$repository" "$(line "$KEYS/2.raw" "${repository##*/}-v2.raw")"
    for directory in "$REGISTRY/$repository:v1" "$REGISTRY/$repository@$digest"; do
        has_nothing "$directory"
        same "$directory/1.raw" 404 "$(status "$URL/$directory/1.raw")"
        page=$(fetch "$URL/$directory/")
        grep --quiet --fixed-strings "$1" <<<"$page" || fail "$directory does not say '$1': $page"
    done
}

# signed_second_version FORM - prints its digest
signed_second_version() {
    local second
    second=$(push_version "$repository:v2" 2)
    sign p256 "$1" "$repository@$second" >&2
    echo "$second"
}

# What is attached to another version, made to say that it belongs to this one.
of_another_subject() {
    local second subject
    second=$(signed_second_version "$FORM")
    subject=$(oras manifest fetch --plain-http --descriptor "$REGISTRY/$repository@$digest")
    manifest_of "$repository@$(attached_to "$repository@$second")" | jq --compact-output --argjson subject "$subject" '.subject = $subject' |
        put_manifest "$repository"
    only_second_version "it is of another manifest"
}
refusal another-subject of_another_subject

copied_sig_tag() {
    local second
    second=$(signed_second_version sig-tag)
    oras copy --from-plain-http --to-plain-http --no-tty \
        "$REGISTRY/$repository:${second/:/-}.sig" "$REGISTRY/$repository:${digest/:/-}.sig"
    only_second_version "it is of another manifest"
}
refusal copied-sig-tag copied_sig_tag

# The fallback tag of another version. Where the API lists what is attached, no tag does.
copied_attached() {
    local second
    second=$(signed_second_version "$FORM")
    if [ "$REGISTRY" = "$REFERRERS_REGISTRY" ]; then
        manifest_of "$repository@$(attached_to "$repository@$second")" | put_manifest "$repository:${digest/:/-}"
    else
        oras tag --plain-http "$REGISTRY/$repository:${second/:/-}" "${digest/:/-}"
    fi
    only_second_version "it is not signed; key"
}
refusal copied-attached copied_attached

large_bundle() {
    cd "$KEYS"
    head --bytes=4M /dev/zero | tr '\0' ' ' >large.json
    oras attach --plain-http --no-tty --artifact-type $BUNDLE "$REGISTRY/$repository@$digest" large.json:$BUNDLE
    refused "$repository" "it has 4194304 bytes, at most 1048576 are read"
}
refusal large-bundle large_bundle

an_attestation() {
    echo '{}' >"$KEYS/predicate.json"
    timeout 60 cosign attest --yes --signing-config "$KEYS/offline.json" --key "$KEYS/p256.key" \
        --predicate "$KEYS/predicate.json" --type https://example.org/built "$REGISTRY/$repository@$digest"
    refused "$repository" "it is an attestation"
}
by_ed25519() {
    sign ed25519 "$1" "$repository@$digest"
    refused "$repository" "an Ed25519 signature, which is not read"
}
if [ "$COSIGN_MAJOR" -ge 3 ]; then
    refusal attestation an_attestation
    for form in sig-tag bundle; do refusal "ed25519-$form" by_ed25519 "$form"; done
fi

# Attached one after the other: the fallback tag of a registry without the API would be written each time.
many_attached() {
    python3 - "$REGISTRY" "$repository" "$digest" "$(manifest_of "$repository@$digest" | wc --bytes)" <<'END'
import hashlib, http.client, json, sys
registry, repository, digest, size = sys.argv[1:]
media_type = "application/vnd.oci.image.manifest.v1+json"
empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": "sha256:" + hashlib.sha256(b"{}").hexdigest(), "size": 2}
subject = {"mediaType": media_type, "digest": digest, "size": int(size)}
connection = http.client.HTTPConnection(registry)
for n in range(10_000):
    body = json.dumps({"schemaVersion": 2, "mediaType": media_type, "artifactType": "application/x-nothing", "config": empty,
                       "layers": [empty], "subject": subject, "annotations": {"n": str(n)}}).encode()
    path = f"/v2/{repository}/manifests/sha256:{hashlib.sha256(body).hexdigest()}"
    connection.request("PUT", path, body, {"Content-Type": media_type})
    answer = connection.getresponse()
    assert answer.status == 201, answer.read()
    answer.read()
END
    refused "$repository" "of 10000 manifests that are attached only 64 were looked into"
}
REGISTRY=$REFERRERS_REGISTRY check refused-many-attached prepared many-attached many_attached

old_bytes() {
    local second
    asks "$repository" p256 'require-version = true' | configure 20-trust
    digest=$(push_version "$repository:1.0" 1 --annotation org.opencontainers.image.version=1.0)
    second=$(push_version "$repository:2.0" 2)
    for one in "$digest" "$second"; do sign p256 "$FORM" "$repository@$one"; done
    oras tag --plain-http "$REGISTRY/$repository:1.0" 99.0
    is_offered "$repository" old-bytes-1.0.raw
    page=$(fetch "$URL/$REGISTRY/$repository/")
    for reason in 'which is not that of its tag' 'it notes no version' 'it is not signed'; do
        grep --quiet "$reason" <<<"$page" || fail "$page"
    done
}
refusal old-bytes old_bytes

# The key is named twice, and has signed twice.
one_key_twice() {
    cp "$KEYS/p256.pub" "$KEYS/copy.pub"
    configure 20-trust <<CONF
[repository."$REGISTRY/$repository"]
verify = [{ key = "$KEYS/p256.pub" }, { key = "$KEYS/copy.pub" }, { key = "$KEYS/other.pub" }]
threshold = 2
CONF
    sign p256 sig-tag "$repository@$digest"
    sign p256 "$FORM" "$repository@$digest"
    refused "$repository" "it is not signed by 2 of key"
    sign other sig-tag "$repository@$digest"
    stop_service
    is_offered "$repository"
}
refusal one-key-twice one_key_twice

# Settled, a listing looks nothing up. A replaced key makes it look again.
replaced_key() {
    cp "$KEYS/p256.pub" "$KEYS/current.pub"
    asks "$repository" current | configure 20-trust
    sign p256 "$FORM" "$repository@$digest"
    is_offered "$repository"
    cp "$KEYS/other.pub" "$KEYS/current.pub"
    stop_service
    # Not even what was promised.
    refused "$repository" "another key made it"
    rm "$KEYS/current.pub"
    stop_service
    same "without the key" 500 "$(status "$URL/$REGISTRY/$repository/SHA256SUMS")"
}
refusal replaced-key replaced_key

# The registry is down, and its mirror has the version without what is attached to it.
from_a_mirror() {
    local down=localhost:5009
    printf '[[registry]]\nlocation = "%s"\n[[registry.mirror]]\nlocation = "%s"\n' $down "$REGISTRY" \
        >/etc/containers/registries.conf.d/trust.conf
    printf 'allow = ["%s"]\n' $down >/etc/sysext-oci-proxy/config.d/16-trust.toml
    REGISTRY=$down asks "$repository" p256 | configure 20-trust
    for directory in "$down/$repository" "$down/$repository:v1" "$down/$repository@$digest"; do
        for file in SHA256SUMS 1.raw; do
            [[ $(status "$URL/$directory/$file") = 50[234] ]] || fail "$directory/$file has an answer"
        done
    done
    if [ "$FORM" = bundle ]; then
        sign p256 bundle "$repository@$digest"
        stop_service
        listed "$down/$repository" "$(line "$KEYS/1.raw" "${repository##*/}-v1.raw")"
    fi
    rm /etc/containers/registries.conf.d/trust.conf
    unconfigure 16-trust
}
mkdir -p /etc/containers/registries.conf.d
refusal mirror-without-signatures from_a_mirror

a_list_of_the_publisher() {
    cd "$KEYS"
    line 1.raw list-v1.raw >SHA256SUMS
    echo garbage >SHA256SUMS.gpg
    oras push --plain-http --no-tty "$REGISTRY/$repository:SHA256SUMS" SHA256SUMS SHA256SUMS.gpg
    for file in SHA256SUMS SHA256SUMS.gpg list-v1.raw; do
        same "$file" 403 "$(status "$URL/$REGISTRY/$repository/$file")"
    done
    digest=$(oras resolve --plain-http "$REGISTRY/$repository:SHA256SUMS")
    sign p256 "$FORM" "$repository@$digest"
    stop_service
    is_offered "$repository" list-v1.raw
}
refusal list a_list_of_the_publisher

an_attached_confext() {
    local confext
    cd "$KEYS"
    cp 2.raw more.confext.raw
    oras attach --plain-http --no-tty --artifact-type application/vnd.example.confext "$REGISTRY/$repository@$digest" more.confext.raw
    confext=$(attached_to "$repository@$digest")
    sign p256 "$FORM" "$repository@$digest"
    listed "$REGISTRY/$repository:v1" "$(line 1.raw 1.raw)"
    same "the confext" 404 "$(status "$URL/$REGISTRY/$repository:v1/more.confext.raw")"
    page=$(fetch "$URL/$REGISTRY/$repository:v1/")
    grep --quiet "attached $confext: it is not signed" <<<"$page" || fail "$page"
    sign p256 "$FORM" "$repository@$confext"
    stop_service
    delivers "$REGISTRY/$repository:v1/more.confext.raw" 2.raw
}
refusal attached-confext an_attached_confext

# The signed manifest says that it is for another machine than the index does, which nobody signed.
an_index_that_lies() {
    local child
    digest=$(push_version "$repository" 1 --annotation "architecture=$OTHER_OCI_ARCH")
    child=$(oras manifest fetch --plain-http --descriptor "$REGISTRY/$repository@$digest" |
        jq --compact-output --arg architecture "$OCI_ARCH" '{mediaType, digest, size, platform: {os: "linux", $architecture}}')
    push_index "$repository:v1" "$child"
    sign p256 "$FORM" "$repository@$digest"
    has_nothing "$REGISTRY/$repository"
    has_nothing "$REGISTRY/$repository:v1"
    page=$(fetch "$URL/$REGISTRY/$repository/")
    grep --quiet "its index, which says something else, is not signed" <<<"$page" || fail "$page"
}
refusal index-that-lies an_index_that_lies

# A signature is that of one repository, also where another one holds the same bytes.
in_another_repository() {
    local here=$repository there=$repository-signed
    { asks "$here" p256 && asks "$there" p256; } | configure 20-trust
    oras copy --from-plain-http --to-plain-http --no-tty "$REGISTRY/$here:v1" "$REGISTRY/$there:v1"
    sign p256 "$FORM" "$there@$digest"
    is_offered "$there"
    refused "$here" "it is not signed; key"
    # With its .sig tag, which names the repository.
    sign p256 sig-tag "$there@$digest"
    oras copy --from-plain-http --to-plain-http --no-tty "$REGISTRY/$there:${digest/:/-}.sig" "$REGISTRY/$here:${digest/:/-}.sig"
    stop_service
    refused "$here" "it names the repository"
}
refusal in-another-repository in_another_repository

unknown_field() {
    for file in SHA256SUMS 1.raw; do
        same "$file by a policy with an unknown field" 500 "$(status "$URL/$REGISTRY/$repository/$file")"
    done
    news | grep --quiet '/etc/containers/policy.json.*unknown field `keypath`' || fail "the journal does not name file and field"
}
by_a_wrong_policy() {
    sign p256 "$FORM" "$repository@$digest"
    news >/dev/null
    jq --null-input --arg key "$KEYS/p256.pub" '{default: [{type: "sigstoreSigned", keyPath: $key, keypath: $key}]}' |
        with_policy unknown_field
    is_offered "$repository"
}
check refused-policy prepared policy by_a_wrong_policy

unconfigure 20-trust
unconfigure 15-trust
