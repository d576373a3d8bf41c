# shellcheck shell=bash disable=SC2164 # a check ends with the first command that fails
# The examples of README.md and docs, each command as it stands there.

# follow EXAMPLE COMPONENT - what the document says from the push on; the transfer file is the one that it shows, without its
# record for --undo
follow() {
    local transfer=/etc/sysupdate.$2.d/$2.transfer
    PATH=$PATH:/usr/lib/systemd bash -eux -c "$(block "$1: push"; block "$1: update")"
    diff <(block "$1: $transfer") <(sed '/^# "transfer --undo"/,$d' "$transfer" | grep .)
}

disk_image() {
    mkdir -p "$SCRATCH/readme"
    cd "$SCRATCH/readme"
    image "kubernetes-v1.27.8-$ARCH.raw" squashfs kubernetes 1.27.8
    follow disk-image kubernetes
    merged kubernetes 1.27.8
}
# The tag in it is for this architecture.
if [ "$ARCH" = x86-64 ]; then check readme-disk-image disk_image; fi

container_image() {
    mkdir -p "$SCRATCH/readme"
    cd "$SCRATCH/readme"
    tree content tools 1.0
    tar --directory=content --create --owner=0 --group=0 --gzip --file=layer.tar.gz .
    container tools latest layer.tar.gz
    # skopeo wants a policy, which a root without podman lacks
    mkdir -p /etc/containers
    echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
    follow container tools
    merged tools 1.0
}
check readme-container-image container_image

# The listing is the list in this directory.
is_published() { listing kubernetes | cmp SHA256SUMS; }

# The publisher's part of signed listings, and what the administrator gets from it.
signed_listing() {
    local keyring=/etc/systemd/import-pubring.gpg
    [ "$(systemctl --version | awk 'NR == 1 { print int($2) }')" -lt 258 ] || keyring=/etc/systemd/import-pubring.pgp
    mkdir -p "$SCRATCH/publisher"
    cd "$SCRATCH/publisher"
    image "kubernetes-v1.28.0-$ARCH.raw" squashfs kubernetes 1.28.0
    image "kubernetes-v1.28.1-$ARCH.raw" squashfs kubernetes 1.28.1
    export GNUPGHOME=$SCRATCH/gnupg
    mkdir -m 700 "$GNUPGHOME"
    gpg --batch --passphrase '' --quick-gen-key publisher@example.org default default never
    gpg --export publisher@example.org >$keyring
    bash -eux -c "$(block "signed: publish")"

    eventually 15 is_published
    cmp SHA256SUMS.gpg <(fetch "$URL/kubernetes/SHA256SUMS.gpg")
    sed -i s/Verify=no/Verify=yes/ /etc/sysupdate.kubernetes.d/kubernetes.transfer
    sysupdate kubernetes update
    merged kubernetes 1.28.1

    # A line that was added after it was signed.
    sha256sum /etc/hostname >>SHA256SUMS
    oras push --plain-http --no-tty "$REGISTRY/kubernetes:SHA256SUMS" SHA256SUMS SHA256SUMS.gpg
    eventually 15 is_published
    ! sysupdate kubernetes list || fail "a list that was tampered with is accepted"
}
if [ "$ARCH" = x86-64 ]; then check readme-signed-listing signed_listing; fi
