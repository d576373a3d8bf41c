# shellcheck shell=bash disable=SC2164 # a check ends with the first command that fails
# Signatures by real cosign: what is accepted is what `cosign verify` accepts, and nothing else is offered.
#
# cosign 3 writes bundles; cosign 2 (Debian 13) knows the other forms, and P-256 alone. docker-registry has no referrers API.

export COSIGN_PASSWORD='' COSIGN_EXPERIMENTAL=1
KEYS=$SCRATCH/trust
COSIGN_MAJOR=$(dpkg-query --show --showformat='${Version}' cosign | cut -d . -f 1)
forms=(sig-tag attached) keys=(p256)
[ "$COSIGN_MAJOR" -lt 3 ] || forms+=(bundle) keys+=(p384 rsa)

make_keys() {
    mkdir -p "$KEYS"
    cd "$KEYS"
    local key
    for key in p256 other; do cosign generate-key-pair --output-key-prefix $key; done
    if [ "$COSIGN_MAJOR" -ge 3 ]; then
        openssl ecparam -name secp384r1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out p384.pem
        openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:3072 -out rsa.pem
        openssl genpkey -algorithm ed25519 -out ed25519.pem
        for key in p384 rsa ed25519; do cosign import-key-pair --key $key.pem --output-key-prefix $key; done
        cosign signing-config create --out offline.json
    fi
    chmod 755 "$KEYS"
    chmod 644 ./*.pub
    for n in 1 2 3; do image "$KEYS/$n.raw" squashfs trust "$n"; done
}
check trust-keys make_keys

# push_version REPOSITORY:TAG NUMBER [VERSION] - prints its digest
push_version() {
    cd "$KEYS"
    oras push --plain-http --no-tty ${3:+--annotation "org.opencontainers.image.version=$3"} \
        "$REGISTRY/$1" "$2.raw" | awk '/^Digest:/ { print $2 }'
}

# sign KEY FORM REPOSITORY@DIGEST
sign() {
    local options=(--yes --key "$KEYS/$1.key")
    case $2 in
        bundle) options+=(--signing-config "$KEYS/offline.json") ;;
        *) options+=(--tlog-upload=false) ;;
    esac
    [ "$2" = bundle ] || [ "$COSIGN_MAJOR" -lt 3 ] || options+=(--new-bundle-format=false --use-signing-config=false)
    [ "$2" != attached ] || options+=(--registry-referrers-mode=oci-1-1)
    timeout 60 cosign sign "${options[@]}" "$REGISTRY/$3"
}

# cosign_verifies KEY FORM REPOSITORY@DIGEST
cosign_verifies() {
    local options=(--key "$KEYS/$1.pub" --insecure-ignore-tlog=true)
    [ "$2" != attached ] || options+=(--experimental-oci11)
    [ "$2" != attached ] || [ "$COSIGN_MAJOR" -lt 3 ] || options+=(--new-bundle-format=false)
    # It does not take the hash from the key.
    [ "$1" != p384 ] || options+=(--signature-digest-algorithm=sha384)
    timeout 60 cosign verify "${options[@]}" "$REGISTRY/$3"
}

# asks REPOSITORY KEY [LINE…] - the settings of a repository
asks() {
    printf '[repository."%s"]\nverify = [{ key = "%s/%s.pub" }]\n' "$1" "$KEYS" "$2"
    shift 2
    printf '%s\n' "$@"
}

# refused REPOSITORY REASON - nothing of it is offered by any address, and the page says why
refused() {
    local digest page
    digest=$(oras resolve --plain-http "$REGISTRY/$1:v1")
    for directory in "$1" "$1:v1" "$1@$digest" "$REGISTRY/$1"; do
        [[ $(listing "$directory") = *"  BEST-BEFORE-"* ]] || fail "$directory: $(listing "$directory")"
        for file in "${1##*/}-v1.raw" 1.raw "${1##*/}-v1.raw.sha256"; do
            same "$directory/$file" 404 "$(status "$URL/$directory/$file")"
        done
        page=$(fetch "$URL/$directory/")
        grep --quiet --fixed-strings "$2" <<<"$page" || fail "$directory does not say '$2': $page"
    done
}

each_form_by_each_key() {
    local key form digest
    for key in "${keys[@]}"; do
        for form in "${forms[@]}"; do asks "trust/$key-$form" "$key"; done
    done | configure 20-trust
    for key in "${keys[@]}"; do
        for form in "${forms[@]}"; do
            digest=$(push_version "trust/$key-$form:v1" 1)
            refused "trust/$key-$form" "it is not signed"
            sign "$key" "$form" "trust/$key-$form@$digest"
            cosign_verifies "$key" "$form" "trust/$key-$form@$digest"
            # A listing is kept for ten seconds.
            stop_service
            listed "trust/$key-$form" "$(line "$KEYS/1.raw" "$key-$form-v1.raw")"
            delivers "trust/$key-$form/$key-$form-v1.raw" "$KEYS/1.raw"
            delivers "trust/$key-$form:v1/1.raw" "$KEYS/1.raw"
        done
    done
}
check trust-each-form-by-each-key each_form_by_each_key

refusals() {
    local digest second
    for name in other ed25519 attestation copied-tag; do asks "trust/$name" p256; done | configure 20-trust

    digest=$(push_version trust/other:v1 1)
    sign other sig-tag "trust/other@$digest"
    refused trust/other "another key made it"

    # The .sig tag of another version.
    digest=$(push_version trust/copied-tag:v1 1)
    second=$(push_version trust/copied-tag:v2 2)
    sign p256 sig-tag "trust/copied-tag@$second"
    oras copy --from-plain-http --to-plain-http --no-tty \
        "$REGISTRY/trust/copied-tag:${second/:/-}.sig" "$REGISTRY/trust/copied-tag:${digest/:/-}.sig"
    listed trust/copied-tag "$(line "$KEYS/2.raw" copied-tag-v2.raw)"
    same "the first version" 404 "$(status "$URL/trust/copied-tag:v1/1.raw")"

    [ "$COSIGN_MAJOR" -ge 3 ] || return 0
    digest=$(push_version trust/ed25519:v1 1)
    sign ed25519 sig-tag "trust/ed25519@$digest"
    refused trust/ed25519 "an Ed25519 signature, which is not read"

    digest=$(push_version trust/attestation:v1 1)
    echo '{}' >"$KEYS/predicate.json"
    timeout 60 cosign attest --yes --signing-config "$KEYS/offline.json" --key "$KEYS/p256.key" \
        --predicate "$KEYS/predicate.json" --type https://example.org/built "$REGISTRY/trust/attestation@$digest"
    refused trust/attestation "it is an attestation"
}
check trust-refusals refusals

a_threshold() {
    local digest
    configure 20-trust <<CONF
[repository."trust/two"]
verify = [{ key = "$KEYS/p256.pub" }, { key = "$KEYS/other.pub" }]
threshold = 2
CONF
    digest=$(push_version trust/two:v1 1)
    sign p256 sig-tag "trust/two@$digest"
    sign p256 "${forms[-1]}" "trust/two@$digest"
    refused trust/two "it is not signed by 2 of key"
    sign other sig-tag "trust/two@$digest"
    stop_service
    listed trust/two "$(line "$KEYS/1.raw" two-v1.raw)"
}
check trust-threshold a_threshold

old_bytes_under_a_new_tag() {
    local digest
    asks trust/replayed p256 'require-version = true' | configure 20-trust
    digest=$(push_version trust/replayed:1.0 1 1.0)
    sign p256 "${forms[-1]}" "trust/replayed@$digest"
    oras tag --plain-http "$REGISTRY/trust/replayed:1.0" 99.0
    digest=$(push_version trust/replayed:2.0 2)
    sign p256 "${forms[-1]}" "trust/replayed@$digest"
    listed trust/replayed "$(line "$KEYS/1.raw" replayed-1.0.raw)"
    page=$(fetch "$URL/trust/replayed/")
    grep --quiet 'which is not that of its tag' <<<"$page" || fail "$page"
    grep --quiet 'it notes no version' <<<"$page" || fail "$page"
}
check trust-old-bytes-under-a-new-tag old_bytes_under_a_new_tag

# cosign sign signs an index, and with -r what is in it.
an_index() {
    local here there digest
    here=$(entry trust/index "$KEYS/1.raw" linux "$OCI_ARCH")
    there=$(entry trust/index "$KEYS/2.raw" linux "$OTHER_OCI_ARCH")
    push_index trust/index:v1 "$here" "$there"
    asks trust/index p256 | configure 20-trust
    [[ $(listing trust/index) = *"  BEST-BEFORE-"* ]] || fail "$(listing trust/index)"
    digest=$(oras resolve --plain-http "$REGISTRY/trust/index:v1")
    sign p256 "${forms[-1]}" "trust/index@$digest"
    stop_service
    listed trust/index "$(line "$KEYS/1.raw" "index-v1-$ARCH.raw")"
    delivers "trust/index/index-v1-$ARCH.raw" "$KEYS/1.raw"
}
check trust-index an_index

a_list_of_the_publisher() {
    local digest
    asks trust/list p256 | configure 20-trust
    push_version trust/list:v1 1
    cd "$KEYS"
    line 1.raw list-v1.raw >SHA256SUMS
    echo garbage >SHA256SUMS.gpg
    oras push --plain-http --no-tty "$REGISTRY/trust/list:SHA256SUMS" SHA256SUMS SHA256SUMS.gpg
    for file in SHA256SUMS SHA256SUMS.gpg list-v1.raw; do
        same "$file" 403 "$(status "$URL/trust/list/$file")"
    done
    digest=$(oras resolve --plain-http "$REGISTRY/trust/list:SHA256SUMS")
    sign p256 "${forms[-1]}" "trust/list@$digest"
    stop_service
    listed trust/list "$(cat SHA256SUMS)"
    delivers trust/list/list-v1.raw 1.raw
}
check trust-list-of-the-publisher a_list_of_the_publisher

# The machine's own systemd-sysupdate gets the signed version, and never hears of the newer one that is not.
updates() {
    local digest
    asks trust p256 | configure 20-trust
    digest=$(push_version trust:1 1 1)
    sign p256 "${forms[-1]}" "trust@$digest"
    push_version trust:2 2 2
    transfer trust url-file trust-@v.raw regular-file trust-@v.raw trust.raw
    sysupdate trust update
    merged trust 1
    ! sysupdate trust check-new || fail "it knows of a version that is not signed"
    digest=$(oras resolve --plain-http "$REGISTRY/trust:2")
    sign p256 "${forms[-1]}" "trust@$digest"
    stop_service
    sysupdate trust update
    merged trust 2
}
check trust-sysupdate updates

# The policy.json that podman reads, of this machine's own Debian but for one scope.
the_policy() {
    local digest
    mkdir -p /etc/containers
    [ ! -e /etc/containers/policy.json ] || cp /etc/containers/policy.json "$KEYS/policy.before"
    unconfigure 20-trust
    digest=$(push_version trust/policy:v1 1)
    listed trust/policy "$(line "$KEYS/1.raw" policy-v1.raw)"
    jq --null-input --arg key "$KEYS/p256.pub" --arg scope "$REGISTRY/trust" '{
        default: [{type: "insecureAcceptAnything"}],
        transports: {docker: {($scope): [{
            type: "sigstoreSigned", keyPath: $key, signedIdentity: {type: "matchRepository"}
        }]}}
    }' >/etc/containers/policy.json
    stop_service
    refused trust/policy "asked for by docker:$REGISTRY/trust in /etc/containers/policy.json"
    sign p256 "${forms[-1]}" "trust/policy@$digest"
    stop_service
    listed trust/policy "$(line "$KEYS/1.raw" policy-v1.raw)"
    rm /etc/containers/policy.json
    [ ! -e "$KEYS/policy.before" ] || mv "$KEYS/policy.before" /etc/containers/policy.json
    stop_service
}
check trust-policy the_policy

# Settled, a listing looks nothing up. A replaced key makes it look again.
a_replaced_key() {
    cp "$KEYS/p256.pub" "$KEYS/current.pub"
    asks trust current | configure 20-trust
    listed trust "$(line "$KEYS/1.raw" trust-1.raw)" "$(line "$KEYS/2.raw" trust-2.raw)"
    cp "$KEYS/other.pub" "$KEYS/current.pub"
    stop_service
    [[ $(listing trust) = *"  BEST-BEFORE-"* ]] || fail "$(listing trust)"
    same "a file that was promised" 404 "$(status "$URL/trust/trust-1.raw")"
    rm "$KEYS/current.pub"
    stop_service
    same "without the key" 500 "$(status "$URL/trust/SHA256SUMS")"
    unconfigure 20-trust
}
check trust-replaced-key a_replaced_key
