# shellcheck shell=bash disable=SC2164 # a check ends with the first command that fails
# The commands of docs/publishing.md and docs/air-gap.md, each as it stands there. They push to a registry with TLS by a CA
# that the whole machine trusts, so that none of them needs an option for that.

PUBLISHING=$SCRATCH/publishing
PUBLIC_HOST=registry.example.com
INSIDE_HOST=registry.lan
KEYRING_FILES=(/etc/systemd/import-pubring.gpg /etc/systemd/import-pubring.pgp)
export COSIGN_PASSWORD='' BUILDAH_ISOLATION=chroot
COSIGN_MAJOR=$(dpkg-query --show --showformat='${Version}' cosign | cut -d . -f 1)

prepare_publishing() {
    mkdir --parents "$PUBLISHING/keyrings"
    cd "$PUBLISHING"
    echo "127.0.0.6 $PUBLIC_HOST" >>/etc/hosts
    echo "127.0.0.6 $INSIDE_HOST" >>/etc/hosts
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=publishing -keyout ca.key -out ca.crt
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$PUBLIC_HOST" -keyout host.key -out host.csr
    openssl x509 -req -in host.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out host.crt \
        -extfile <(echo "subjectAltName=DNS:$PUBLIC_HOST,DNS:$INSIDE_HOST")
    # /usr is read-only while extensions of earlier themes are merged.
    systemd-sysext unmerge
    cp ca.crt /usr/local/share/ca-certificates/publishing.crt
    update-ca-certificates
    cat >registry.yml <<CONF
version: 0.1
storage: { filesystem: { rootdirectory: $PUBLISHING/registry }, delete: { enabled: true } }
http: { addr: "127.0.0.6:443", tls: { certificate: $PUBLISHING/host.crt, key: $PUBLISHING/host.key } }
CONF
    systemd-run --quiet --collect --unit=publishing-registry docker-registry serve "$PUBLISHING/registry.yml"
    eventually 20 curl --fail --silent "https://$PUBLIC_HOST/v2/"
    for keyring in "${KEYRING_FILES[@]}"; do [ ! -e "$keyring" ] || cp "$keyring" keyrings; done
    # overlayfs does not lie on overlayfs
    printf '[storage]\ndriver = "vfs"\nrunroot = "/run/containers/storage"\ngraphroot = "%s/storage"\n' "$PUBLISHING" >/etc/containers/storage.conf
    configure 60-publishing <<<"registry = \"$PUBLIC_HOST/acme\""
}
check publishing-prepare prepare_publishing

# type_all LABEL… - one block after the other
type_all() {
    local label
    for label; do types "$label"; done
}

# offered DIRECTORY NAME FILE - it is on offer by this name, and is this file
offered() {
    eventually 15 offers "$1" "$(line "$3" "$2")"
    delivers "$1/$2" "$3"
}

disk_image() {
    cd "$PUBLISHING"
    type_all "publishing: build" "publishing: push"
    offered hello hello-1.0.raw hello.raw
    types "publishing: install"
    same "what the extension says" hello "$(hello)"
}
check publishing-disk-image disk_image

# newest_of NAME FILE - what systemd-sysupdate has installed is this file
newest_of() {
    sysext-oci-proxy transfer "$1" --write
    sysupdate "$1" update
    cmp "$(find /var/lib/extensions /var/lib/confexts -name "$1_*" | sort --version-sort | tail --lines=1)" "$2"
}

architectures() {
    mkdir --parents "$PUBLISHING/agent"
    cd "$PUBLISHING/agent"
    image agent-x86-64.raw squashfs agent x86-64
    image agent-arm64.raw erofs agent arm64
    types "publishing: architecture tags"
    offered agent agent-2.0-x86-64.raw agent-x86-64.raw
    offered agent agent-2.0-arm64.raw agent-arm64.raw
    newest_of agent "agent-$ARCH.raw"
    types "publishing: index by buildah"
    # Nothing changes for machines.
    stop_service
    listed agent "$(line agent-arm64.raw agent-2.0-arm64.raw)" "$(line agent-x86-64.raw agent-2.0-x86-64.raw)"
    listed agent:2.0 "$(line "agent-$ARCH.raw" "agent-$ARCH.raw")"
    if oras push --help | grep --fixed-strings -- --artifact-platform; then
        types "publishing: index by oras"
        offered agent "agent-2.1-$ARCH.raw" "agent-$ARCH.raw"
        listed agent:2.1 "$(line "agent-$ARCH.raw" "agent-$ARCH.raw")"
        oras manifest delete --force "$PUBLIC_HOST/acme/agent:2.1"
        offered agent "agent-2.1-$ARCH.raw" "agent-$ARCH.raw"
        newest_of agent "agent-$ARCH.raw"
    fi
}
check publishing-architectures architectures

container_images() {
    tree "$PUBLISHING/greeter" greeter 1.0
    cd "$PUBLISHING/greeter"
    block "publishing: Containerfile" >Containerfile
    types "publishing: container"
    sysext-oci-proxy transfer greeter --write
    sysupdate greeter update
    merged greeter 1.0
    echo 1.1 >usr/share/greeter/version
    types "publishing: containers"
    # The names of an index end in the architecture: another pattern.
    eventually 15 names greeter "greeter-1.1-$ARCH.tar.gz"
    sysext-oci-proxy transfer greeter --write --force
    sysupdate greeter update
    merged greeter 1.1
}
# names REPOSITORY FILE - the listing does
names() { grep --quiet --fixed-strings "  $2" <<<"$(listing "$1")"; }
check publishing-container-images container_images

configuration() {
    cd "$PUBLISHING"
    types "publishing: confext"
    newest_of acme-config acme-config.raw
    systemd-confext refresh
    same "the setting" "server = updates.example.com" "$(cat /etc/acme.conf)"
    systemd-confext unmerge
}
check publishing-configuration configuration

several_files() {
    mkdir --parents "$PUBLISHING/os"
    cd "$PUBLISHING/os"
    local partition=usr-x86-64.0a1b2c3d00004000800000000000000a verity=usr-x86-64-verity.0a1b2c3d00004000800000000000000b
    local suffix file
    for file in os_1.2.efi "os_1.2.$partition.raw" "os_1.2.$verity.raw" vpn.{raw,verity,roothash,roothash.p7s}; do echo "$file" >"$file"; done
    type_all "publishing: several files" "publishing: verity"
    for suffix in efi "$partition.raw" "$verity.raw"; do offered os "os-1.2.$suffix" "os_1.2.$suffix"; done
    for suffix in raw verity roothash roothash.p7s; do offered vpn "vpn-1.0.$suffix" "vpn.$suffix"; done
}
check publishing-several-files several_files

channel_and_withdrawal() {
    cd "$PUBLISHING"
    rm hello.raw
    image hello.raw squashfs hello 1.1
    oras push "$PUBLIC_HOST/acme/hello:1.1" hello.raw --annotation org.opencontainers.image.version=1.1
    types "publishing: channel"
    listed hello:stable "$(line hello.raw hello-1.1.raw)" "$(line hello.raw hello.raw)"
    eventually 15 is_newest hello 1.1
    sysupdate hello update
    merged hello 1.1
    types "publishing: withdraw"
    eventually 15 lacks hello "$(line hello.raw hello-1.1.raw)"
    # The machine keeps it.
    sysupdate hello update
    merged hello 1.1
}
# lacks REPOSITORY LINE
lacks() { ! offers "$@"; }
check publishing-channel-and-withdrawal channel_and_withdrawal

signed_list() {
    local keyring=${KEYRING_FILES[0]}
    [ "$(systemctl --version | awk 'NR == 1 { print int($2) }')" -lt 258 ] || keyring=${KEYRING_FILES[1]}
    mkdir --parents "$PUBLISHING/agent"
    cd "$PUBLISHING/agent"
    export GNUPGHOME=$PUBLISHING/gnupg
    mkdir -m 700 "$GNUPGHOME"
    gpg --batch --passphrase '' --quick-gen-key agent@example.org default default never
    gpg --export agent@example.org >"$keyring"
    image agent-3.0-x86-64.raw squashfs agent 3.0
    image agent-3.0-arm64.raw erofs agent 3.0
    rm agent-x86-64.raw agent-arm64.raw
    for file in agent-3.0-*.raw; do oras push "$PUBLIC_HOST/acme/agent:${file:6:-4}" "$file"; done
    types "publishing: list"
    eventually 15 published agent
    cmp SHA256SUMS.gpg <(fetch "$URL/agent/SHA256SUMS.gpg")
    sysext-oci-proxy transfer agent --write --force
    grep --fixed-strings --line-regexp Verify=yes /etc/sysupdate.agent.d/agent.transfer
    sysupdate agent update
    merged agent 3.0
}
published() { listing "$1" | cmp SHA256SUMS; }
check publishing-signed-list signed_list

# The script is for cosign 2, which CI has there.
in_ci() {
    mkdir --parents "$PUBLISHING/ci"
    cd "$PUBLISHING/ci"
    cosign generate-key-pair --output-key-prefix acme
    chmod 644 acme.pub
    block "publishing: script" >publish
    chmod 755 publish
    image agent-x86-64.raw squashfs ci x86-64
    image agent-arm64.raw squashfs ci arm64
    COSIGN_PRIVATE_KEY=$(cat acme.key) ./publish "$PUBLIC_HOST/acme/ci" 1.0
    printf 'registry = "%s/acme"\n[repository.ci]\nverify = [{ key = "%s" }]\nrequire-version = true\n' \
        "$PUBLIC_HOST" "$PWD/acme.pub" | configure 60-publishing
    chmod 755 "$PUBLISHING" "$PUBLISHING/ci"
    listed ci "$(line agent-arm64.raw ci-1.0-arm64.raw)" "$(line agent-x86-64.raw ci-1.0-x86-64.raw)"
}
if [ "$COSIGN_MAJOR" = 2 ]; then check publishing-in-ci in_ci; fi

# A version that is signed as this suite's cosign does it: with 2 in a tag, with 3 attached.
push_signed() {
    local options=(--tlog-upload=false)
    if [ "$COSIGN_MAJOR" -ge 3 ]; then
        [ -e offline.json ] || cosign signing-config create --out offline.json
        options=(--signing-config offline.json)
    fi
    image strace.raw squashfs strace "$1"
    oras push "$PUBLIC_HOST/acme/strace:$1" strace.raw --annotation "org.opencontainers.image.version=$1" --annotation ID=_any
    cosign sign --yes --key acme.key "${options[@]}" "$PUBLIC_HOST/acme/strace@$(oras resolve "$PUBLIC_HOST/acme/strace:$1")"
    mv strace.raw "strace-$1.raw"
}

# without_network COMMAND… - while the registry is not there
without_network() {
    cp /etc/hosts /tmp/hosts.before
    sed "/ $PUBLIC_HOST\$/d" /tmp/hosts.before >/etc/hosts
    "$@"
    cat /tmp/hosts.before >/etc/hosts
}

air_gap() {
    mkdir --parents "$PUBLISHING/gap" /media/stick
    cd "$PUBLISHING/gap"
    cosign generate-key-pair --output-key-prefix acme
    install -D --mode=644 acme.pub /etc/pki/containers/acme.pub
    push_signed 1.31.3

    # skopeo brings the version alone.
    types "air-gap: skopeo"
    writes "air-gap: /etc/sysext-oci-proxy/config.d/strace.toml"
    stop_service
    types "air-gap: install"
    without_network listed strace "$(line strace-1.31.3.raw strace-1.31.3.raw)"
    block "air-gap: verify" >/etc/sysext-oci-proxy/config.d/strace.toml
    stop_service
    without_network nothing_listed strace
    rm --recursive /media/stick/strace /srv/updates/strace

    type_all "air-gap: copy" "air-gap: install"
    without_network types "air-gap: update"
    merged strace 1.31.3

    push_signed 1.31.4
    type_all "air-gap: copy" "air-gap: install"
    without_network eventually 15 is_newest strace 1.31.4
    sysupdate strace update
    merged strace 1.31.4
    sed --in-place 's/, identity = [^ ]*//' /etc/sysext-oci-proxy/config.d/strace.toml
    stop_service
    # A bundle names no repository.
    if [ "$COSIGN_MAJOR" = 2 ]; then
        nothing_listed strace
        # It exits with 1, as nothing is on offer.
        { sysext-oci-proxy list strace --all || true; } | grep --fixed-strings "'identity' beside the key allows it"
    else
        offers strace "$(line strace-1.31.4.raw strace-1.31.4.raw)"
    fi
    unconfigure strace
}
nothing_listed() { [[ $(listing "$1") = *"  BEST-BEFORE-"* ]] || fail "$1: $(listing "$1")"; }
check publishing-over-an-air-gap air_gap

registry_inside() {
    cd "$PUBLISHING/gap"
    types "air-gap: registry"
    mv /etc/containers/registries.conf registries.before
    writes "air-gap: /etc/containers/registries.conf"
    writes "air-gap: /etc/sysext-oci-proxy/config.d/acme.toml"
    printf '[repository.strace]\nverify = [{ key = "/etc/pki/containers/acme.pub" }]\n' >>/etc/sysext-oci-proxy/config.d/acme.toml
    stop_service
    without_network listed strace "$(line strace-1.31.3.raw strace-1.31.3.raw)" "$(line strace-1.31.4.raw strace-1.31.4.raw)"
    mv registries.before /etc/containers/registries.conf
    unconfigure acme
}
check publishing-to-a-registry-inside registry_inside

# What the next themes find is what was there before.
end_publishing() {
    local keyring
    systemctl stop publishing-registry.service
    systemd-sysext unmerge
    for keyring in "${KEYRING_FILES[@]}"; do
        rm --force "$keyring"
        [ ! -e "$PUBLISHING/keyrings/${keyring##*/}" ] || cp "$PUBLISHING/keyrings/${keyring##*/}" "$keyring"
    done
    rm --recursive --force /var/lib/extensions/{hello,agent,greeter,strace}* /media/stick /srv/updates /var/lib/confexts/acme-config* \
        /etc/sysupdate.{hello,agent,greeter,strace,acme-config}.d /etc/containers/storage.conf
    rm /usr/local/share/ca-certificates/publishing.crt
    update-ca-certificates --fresh
    # In a container it cannot be renamed over.
    sed "/ \($PUBLIC_HOST\|$INSIDE_HOST\)\$/d" /etc/hosts >/tmp/hosts
    cat /tmp/hosts >/etc/hosts
    unconfigure 60-publishing
    systemd-sysext refresh
}
check publishing-end end_publishing
