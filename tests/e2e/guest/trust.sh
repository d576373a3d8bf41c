# shellcheck shell=bash disable=SC2164 # a check ends with the first command that fails
# Signatures by real cosign: what is accepted is what `cosign verify` accepts.
#
# cosign 3 writes bundles; cosign 2 (Debian 13) knows the other forms, and P-256 alone. docker-registry has no referrers API,
# so what is attached is found by the fallback tag there; the other registry has it.

export COSIGN_PASSWORD='' COSIGN_EXPERIMENTAL=1
KEYS=$SCRATCH/trust
COSIGN_MAJOR=$(dpkg-query --show --showformat='${Version}' cosign | cut -d . -f 1)
forms=(sig-tag attached) keys=(p256)
[ "$COSIGN_MAJOR" -lt 3 ] || forms+=(bundle) keys+=(p384 rsa)
REFERRERS_REGISTRY=localhost:5002
declare -A registries=([docker-registry]=$REGISTRY [referrers-api]=$REFERRERS_REGISTRY)

start_referrers_registry() {
    systemd-run --quiet --collect --setenv=FERRO_OCI_LISTEN=127.0.0.1:5002 /usr/local/bin/ferro-oci-server
    eventually 20 curl --fail --silent "http://$REFERRERS_REGISTRY/v2/"
    configure 15-trust <<<"allow = [\"$REFERRERS_REGISTRY\"]"
}
check trust-registry start_referrers_registry

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

# on_each_registry NAME COMMAND… - a check on each of them: $REGISTRY is the one
on_each_registry() {
    local kind REGISTRY
    for kind in docker-registry referrers-api; do
        REGISTRY=${registries[$kind]}
        check "$1-on-$kind" "${@:2}"
    done
}

# push_version REPOSITORY:TAG NUMBER [OPTION…] - prints its digest
push_version() {
    cd "$KEYS"
    oras push --plain-http --no-tty "${@:3}" "$REGISTRY/$1" "$2.raw" | awk '/^Digest:/ { print $2 }'
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
    printf '[repository."%s"]\nverify = [{ key = "%s/%s.pub" }]\n' "$REGISTRY/$1" "$KEYS" "$2"
    shift 2
    printf '%s\n' "$@"
}

# The four steps of docs/trust.md; its registry is another one.
four_steps() {
    local digest
    mkdir "$SCRATCH/steps"
    cd "$SCRATCH/steps"
    types 'trust: keys'
    types 'trust: install'
    mv acme.key "$KEYS"
    digest=$(push_version k8s:v1.31.3 1 --annotation org.opencontainers.image.version=1.31.3)
    sign acme sig-tag "k8s@$digest"
    block 'trust: settings' | sed "s,ghcr.io/acme/k8s,$REGISTRY/k8s," | configure 16-steps
    types 'trust: apply' | grep --fixed-strings k8s-v1.31.3.raw
    unconfigure 16-steps
}
check trust-in-four-steps four_steps

# has_nothing DIRECTORY - but the line that stands in a listing without files
has_nothing() { [[ $(listing "$1") = *"  BEST-BEFORE-"* ]] || fail "$1: $(listing "$1")"; }

# addresses REPOSITORY - every directory that has its v1. Of the default registry names need not name it.
addresses() {
    local digest name
    digest=$(oras resolve --plain-http "$REGISTRY/$1:v1")
    for name in "$REGISTRY/$1" ${registries[docker-registry]}/"$1"; do
        [ "$name" = "$REGISTRY/$1" ] || [ "$REGISTRY" = "${registries[docker-registry]}" ] || continue
        echo "$name" "$name:v1" "$name@$digest"
    done
}

# refused REPOSITORY REASON - nothing of it is offered by any address, and the page says why
refused() {
    local page
    for directory in $(addresses "$1"); do
        has_nothing "$directory"
        for file in "${1##*/}-v1.raw" 1.raw "${1##*/}-v1.raw.sha256"; do
            same "$directory/$file" 404 "$(status "$URL/$directory/$file")"
        done
        page=$(fetch "$URL/$directory/")
        grep --quiet --fixed-strings "$2" <<<"$page" || fail "$directory does not say '$2': $page"
    done
}

# is_offered REPOSITORY [FILE] - its v1, which is 1.raw, perhaps by another name
is_offered() {
    local file=${2:-${1##*/}-v1.raw}
    listed "$REGISTRY/$1" "$(line "$KEYS/1.raw" "$file")"
    delivers "$REGISTRY/$1/$file" "$KEYS/1.raw"
}

# of KEY FORM - a version that is signed so
of() {
    local repository=trust/$1-$2 digest
    asks "$repository" "$1" | configure 20-trust
    digest=$(push_version "$repository:v1" 1)
    refused "$repository" "it is not signed; key"
    sign "$1" "$2" "$repository@$digest"
    cosign_verifies "$1" "$2" "$repository@$digest"
    # A listing is kept for ten seconds.
    stop_service
    is_offered "$repository"
    for directory in $(addresses "$repository"); do
        [[ $directory != *:v1 ]] || delivers "$directory/1.raw" "$KEYS/1.raw"
    done
}
for key in "${keys[@]}"; do
    for form in "${forms[@]}"; do on_each_registry "trust-$key-$form" of "$key" "$form"; done
done

# cosign sign signs an index, and with -r what is in it.
an_index() {
    local here there digest
    here=$(entry trust/index "$KEYS/1.raw" linux "$OCI_ARCH")
    there=$(entry trust/index "$KEYS/2.raw" linux "$OTHER_OCI_ARCH")
    push_index trust/index:v1 "$here" "$there"
    asks trust/index p256 | configure 20-trust
    has_nothing "$REGISTRY/trust/index"
    digest=$(oras resolve --plain-http "$REGISTRY/trust/index:v1")
    sign p256 "${forms[-1]}" "trust/index@$digest"
    stop_service
    is_offered trust/index "index-v1-$ARCH.raw"
}
on_each_registry trust-index an_index

# The machine's own systemd-sysupdate gets the signed version, and never hears of the newer one that is not.
updates() {
    local digest
    asks trust p256 | configure 20-trust
    digest=$(push_version trust:1 1 --annotation org.opencontainers.image.version=1)
    sign p256 "${forms[-1]}" "trust@$digest"
    push_version trust:2 2 --annotation org.opencontainers.image.version=2
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

# with_policy COMMAND… - while standard input is the policy.json of this machine, which may have its own Debian's
with_policy() {
    mkdir -p /etc/containers
    [ ! -e /etc/containers/policy.json ] || cp /etc/containers/policy.json "$KEYS/policy.before"
    cat >/etc/containers/policy.json
    stop_service
    "$@"
    rm /etc/containers/policy.json
    [ ! -e "$KEYS/policy.before" ] || mv "$KEYS/policy.before" /etc/containers/policy.json
    stop_service
}

signed_by_policy() {
    local digest
    digest=$(oras resolve --plain-http "$REGISTRY/trust/policy:v1")
    refused trust/policy "asked for by docker:$REGISTRY/trust in /etc/containers/policy.json"
    sign p256 "${forms[-1]}" "trust/policy@$digest"
    stop_service
    is_offered trust/policy
}

# The policy.json that podman reads. All but one scope is as Debian has it.
the_policy() {
    unconfigure 20-trust
    push_version trust/policy:v1 1
    is_offered trust/policy
    jq --null-input --arg key "$KEYS/p256.pub" --arg scope "$REGISTRY/trust" '{
        default: [{type: "insecureAcceptAnything"}],
        transports: {docker: {($scope): [{
            type: "sigstoreSigned", keyPath: $key, signedIdentity: {type: "matchRepository"}
        }]}}
    }' | with_policy signed_by_policy
}
check trust-policy the_policy
