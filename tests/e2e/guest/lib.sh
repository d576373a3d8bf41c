# shellcheck shell=bash disable=SC2034 # used where this is sourced
# What the checks have in common: the proxy, the registry, images. Sourced.

URL=http://localhost:5001
REGISTRY=localhost:5000
SERVICE=sysext-oci-proxy.service
SOCKET=sysext-oci-proxy.socket
# A directory on disk: the rest of the system is in memory.
SCRATCH=/e2e/scratch

case $(uname -m) in
    x86_64) ARCH=x86-64 OCI_ARCH=amd64 OTHER_OCI_ARCH=arm64 ;;
    aarch64) ARCH=arm64 OCI_ARCH=arm64 OTHER_OCI_ARCH=amd64 ;;
    *) echo "no architecture for $(uname -m)" >&2; exit 1 ;;
esac

sha256() { sha256sum "$1" | cut -d ' ' -f 1; }

# ---- the proxy

fetch() { curl --fail --silent --show-error --max-time 60 "$@"; }
# status OPTION… URL - the status of the answer. Failures are noted: the journal has to have each of them.
status() {
    local found
    # Of several --output curl takes the first.
    found=$(curl --silent --max-time 30 --write-out '%{http_code}' "$@" | tail --bytes=3 | tr --delete '\0') || true
    [[ $found != 403 && $found != 5?? ]] || echo "$found ${*: -1}" >>/run/failures
    echo "$found"
}
# refuses STATUSES PATH - one of these
refuses() {
    local found
    : >/tmp/body
    found=$(status --user-agent systemd-pull/262 --location --path-as-is --dump-header /tmp/header --output /tmp/body "$URL/$2")
    [[ $found =~ ^($1)$ ]] || fail "/$2: status $found, not $1"
    [ ! -s /tmp/body ] || fail "/$2: $found with a body"
    grep --quiet --ignore-case '^x-reason: *[^ ]' /tmp/header || fail "/$2: $found without X-Reason"
}

listing() { fetch "$URL/$1/SHA256SUMS"; }

# listed REPOSITORY LINE… - the listing is these lines and no other
listed() {
    local repository=$1
    shift
    same "the listing of $repository" "$(printf '%s\n' "$@")" "$(listing "$repository")"
}

# line FILE NAME - a line of a listing
line() { echo "$(sha256 "$1")  $2"; }

# offers REPOSITORY LINE - among others
offers() { grep --quiet --line-regexp --fixed-strings "$2" <<<"$(listing "$1")"; }

# delivers REPOSITORY/NAME FILE
delivers() { fetch "$URL/$1" | cmp - "$2"; }

main_pid() { systemctl show --property=MainPID --value "$SERVICE"; }
state() { systemctl show --property=ActiveState --value "$1"; }
is() { [ "$(state "$1")" = "$2" ]; }

# configure NAME - standard input becomes a drop-in, and is read with the next request
configure() {
    mkdir -p /etc/sysext-oci-proxy/config.d
    cat >"/etc/sysext-oci-proxy/config.d/$1.toml"
    stop_service
}

unconfigure() {
    rm "/etc/sysext-oci-proxy/config.d/$1.toml"
    stop_service
}

# systemd remarks that the socket may start it again: that is the idea.
stop_service() { systemctl stop "$SERVICE" 2>/dev/null; }

# news [OPTION…] - what the journal has of the service since the last time
news() {
    journalctl --sync
    journalctl --cursor-file=/run/news.cursor --unit="$SERVICE" --output=cat "$@"
}

# warnings SINCE - what the service itself has logged at warning or above
warnings() {
    journalctl --sync
    journalctl --since="@$1" "_SYSTEMD_UNIT=$SERVICE" --priority=warning --output=cat "${@:2}"
}

warns_of_nothing() { same "warnings" "" "$(warnings "$1")"; }

# failures_are_told SINCE - each one that `status` has noted. Wrong settings are told once for all clients that waited,
# and so are clients that were turned away.
failures_are_told() {
    local found url path
    warnings "$1" >/tmp/warnings
    while read -r found url; do
        path=/${url#*://*/}
        grep --quiet --fixed-strings " $path: $found: " /tmp/warnings && continue
        case $found in
            500) [ -z "$(warnings "$1" MESSAGE_ID=fee2ca142c4d43fab95a743829e7b35f)" ] || continue ;;
            503) [ -z "$(warnings "$1" MESSAGE_ID=1cf925d989334f49a73cfbfa93d71d6d)" ] || continue ;;
        esac
        fail "a client got $found for $path, and the journal does not have it"
    done </run/failures
}

# ---- the registry

start_registry() {
    cat >/run/registry.yml <<CONF
version: 0.1
storage: { filesystem: { rootdirectory: $SCRATCH/registry } }
http: { addr: "127.0.0.1:5000" }
CONF
    # A unit of its own each time: one that was just stopped may stay loaded for a while.
    systemd-run --quiet --collect --unit="registry-$EPOCHREALTIME" docker-registry serve /run/registry.yml
    eventually 20 curl --fail --silent "http://$REGISTRY/v2/"
}

stop_registry() { systemctl stop 'registry-*.service'; }

# push REPOSITORY:TAG FILE[:TYPE] - as a publisher does it; without a tag it prints the descriptor as JSON
push() {
    (cd "$(dirname "$2")" && oras push --plain-http --no-tty "$REGISTRY/$1" "$(basename "$2")")
}

# entry REPOSITORY FILE OS ARCHITECTURE - pushes FILE without a tag, prints the line of an index for it
entry() {
    local digest
    digest=$(push "$1" "$2" | awk '/^Digest:/ { print $2 }')
    oras manifest fetch --plain-http --descriptor "$REGISTRY/$1@$digest" |
        jq --compact-output --arg os "$3" --arg architecture "$4" '{mediaType, digest, size, platform: {$os, $architecture}}'
}

# push_index REPOSITORY[:TAG] ENTRY… - prints its descriptor
push_index() {
    local reference=$1
    shift
    printf '%s\n' "$@" | jq --slurp --compact-output \
        '{schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json", manifests: .}' >/tmp/index.json
    oras manifest push --plain-http --descriptor "$REGISTRY/$reference" /tmp/index.json
}

# ---- documents

# block LABEL [FILE] - the indented or fenced lines below <!-- LABEL -->, in README.md and docs or in one document
block() {
    local label=$1
    shift
    [ $# != 0 ] || set -- /e2e/README.md /e2e/docs/*.md
    awk -v label="<!-- $label -->" '
        { stripped = $0; sub(/^ */, "", stripped) }
        stripped == label { found = 1; next }
        !found { next }
        stripped ~ /^```/ { if (fenced) exit; fenced = 1; next }
        fenced { print; next }
        /^    / { print substr($0, 5); next }
        { exit }' "$@" | grep .
}

# types LABEL - runs the commands of a block
types() { PATH=$PATH:/usr/lib/systemd bash -eux -c "$(block "$1")"; }

# writes LABEL - writes the file that a block has; its path follows the first word of the label
writes() {
    mkdir --parents "$(dirname "${1#*: }")"
    block "$1" >"${1#*: }"
}

# ---- images

# tree DIRECTORY NAME VERSION - what is in the extension NAME
tree() {
    mkdir -p "$1/usr/lib/extension-release.d" "$1/usr/share/$2"
    echo "ID=_any" >"$1/usr/lib/extension-release.d/extension-release.$2"
    echo "$3" >"$1/usr/share/$2/version"
}

# image FILE FILESYSTEM NAME VERSION - the extension as a disk image
image() {
    local directory
    directory=$(mktemp -d)
    chmod 755 "$directory"
    tree "$directory" "$3" "$4"
    case $2 in
        squashfs) mksquashfs "$directory" "$1" -quiet -no-progress -all-root ;;
        erofs) mkfs.erofs --quiet "$1" "$directory" ;;
    esac
    rm -r "$directory"
}

# container LAYOUT TAG LAYER.tar.gz - a container image of this one layer, in an OCI layout
container() {
    local config=/tmp/config.json layer
    jq --null-input --arg architecture "$OCI_ARCH" --arg diff "sha256:$(gzip --decompress --stdout "$3" | sha256sum | cut -d ' ' -f 1)" \
        '{$architecture, os: "linux", config: {}, rootfs: {type: "layers", diff_ids: [$diff]}}' >$config
    config=$(oras blob push --oci-layout --descriptor --media-type application/vnd.oci.image.config.v1+json "$1" $config)
    layer=$(oras blob push --oci-layout --descriptor --media-type application/vnd.oci.image.layer.v1.tar+gzip "$1" "$3")
    jq --null-input --argjson config "$config" --argjson layer "$layer" \
        '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", $config, layers: [$layer]}' >/tmp/manifest.json
    oras manifest push --oci-layout "$1:$2" /tmp/manifest.json
}

# ---- the clients

# transfer NAME TYPE SOURCE-PATTERN TARGET-TYPE TARGET-PATTERN LINK - the component NAME, from the repository NAME
transfer() {
    mkdir -p "/etc/sysupdate.$1.d" /var/lib/extensions
    cat >"/etc/sysupdate.$1.d/$1.transfer" <<CONF
[Transfer]
Verify=no

[Source]
Type=$2
Path=$URL/$1
MatchPattern=$3

[Target]
Type=$4
Path=/opt/extensions/$1
MatchPattern=$5
CurrentSymlink=/var/lib/extensions/$6
InstancesMax=2
CONF
}

sysupdate() {
    local component=$1
    shift
    /usr/lib/systemd/systemd-sysupdate --component="$component" "$@"
}

# versions NAME VERSION… - what systemd-sysupdate knows of, the newest first
versions() {
    local name=$1 found
    shift
    found=$(sysupdate "$name" --json=short list | jq --raw-output '.all[]')
    same "the versions of $name" "$(printf '%s\n' "$@")" "$found"
}

# is_newest NAME VERSION - without a word, to be waited for
is_newest() { [ "$(sysupdate "$1" check-new)" = "$2" ]; }
newest() { same "the newer version of $1" "$2" "$(sysupdate "$1" check-new)"; }

# merged NAME VERSION - the extension is in /usr
merged() {
    systemd-sysext refresh
    same "the version of $1 in /usr" "$2" "$(cat "/usr/share/$1/version")"
}
