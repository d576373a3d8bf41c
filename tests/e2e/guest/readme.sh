# shellcheck shell=bash disable=SC2164 # a check ends with the first command that fails
# The examples of README.md and docs, each command as it stands there.

# installs LABEL - the transfer file that `transfer` has installed is the one of this block, without its record for --undo
installs() { diff <(block "$1") <(sed '/^# "transfer --undo"/,$d' "${1#*: }" | grep .); }

SYSTEMD=$(systemctl --version | awk 'NR == 1 { print int($2) }')

# shows LABEL FILE - each line of output in this block is in the file
shows() {
    local line
    while IFS= read -r line; do
        [[ $line = "# "* ]] || grep --quiet --line-regexp --fixed-strings -e "$line" "$2" || fail "nothing has said: $line"
    done < <(block "$1")
}

# Until the check ends this machine has no extension: systemd-sysext names all that are there.
set_extensions_aside() {
    systemd-sysext unmerge
    mkdir -p /var/lib/extensions
    mv /var/lib/extensions "$SCRATCH/others"
    mkdir /var/lib/extensions
    trap 'find "$SCRATCH/others" -mindepth 1 -maxdepth 1 -exec mv --target-directory=/var/lib/extensions {} +' EXIT
}

disk_image() {
    set_extensions_aside
    mkdir -p "$SCRATCH/readme"
    cd "$SCRATCH/readme"
    image "kubernetes-v1.27.8-$ARCH.raw" squashfs kubernetes 1.27.8
    types 'disk-image: push'
    types 'disk-image: update' &>output
    cat output
    # Later versions of systemd have other words.
    [ "$SYSTEMD" != 257 ] || shows 'readme: terminal' output
    installs 'disk-image: /etc/sysupdate.kubernetes.d/kubernetes.transfer'
    merged kubernetes 1.27.8
}

container_image() {
    mkdir -p "$SCRATCH/readme"
    cd "$SCRATCH/readme"
    tree content tools 1.0
    tar --directory=content --create --owner=0 --group=0 --gzip --file=layer.tar.gz .
    container tools latest layer.tar.gz
    # skopeo wants a policy, which a root without podman lacks
    mkdir -p /etc/containers
    echo '{"default": [{"type": "insecureAcceptAnything"}]}' >/etc/containers/policy.json
    types 'container: push'
    types 'container: update'
    installs 'container: /etc/sysupdate.tools.d/tools.transfer'
    merged tools 1.0
}

# The timer, and nothing that it starts now: the night is not waited for here.
automatic_update() {
    types 'readme: automatic' | grep sysext-oci-proxy-update@kubernetes.timer
    same "the timer" enabled "$(systemctl is-enabled sysext-oci-proxy-update@kubernetes.timer)"
}

rollback() {
    cd "$SCRATCH/readme"
    image "kubernetes-v1.27.9-$ARCH.raw" squashfs kubernetes 1.27.9
    oras push --plain-http --no-tty "$REGISTRY/kubernetes:v1.27.9-$ARCH" "kubernetes-v1.27.9-$ARCH.raw"
    eventually 15 is_newest kubernetes 1.27.9
    sysupdate kubernetes update
    merged kubernetes 1.27.9
    types 'readme: rollback'
    same "the version in /usr" 1.27.8 "$(cat /usr/share/kubernetes/version)"
    sysupdate kubernetes update
    merged kubernetes 1.27.8
    unconfigure kubernetes
}

# What docs say beside the first update, on the machine that has it.
looks() {
    types 'installing: check' | grep --fixed-strings kubernetes
    mkdir "$SCRATCH/looks"
    cd "$SCRATCH/looks"
    types 'settings: commands' | tee /dev/stderr | grep --fixed-strings "kubernetes-v1.27.8-$ARCH.raw"
    cmp "kubernetes-v1.27.8-$ARCH.raw" "$SCRATCH/readme/kubernetes-v1.27.8-$ARCH.raw"
    types 'names: head' | grep --fixed-strings 'HTTP/1.1 200'
    types 'troubleshooting: check' | grep '^ok  *pattern'
    types 'troubleshooting: journal' | grep --fixed-strings 'kubernetes/kubernetes-v1.27.8'
    types 'json: list' | jq --exit-status '.files[0].name'
}

imports() {
    # It takes no name that an extension has.
    mv /var/lib/extensions/kubernetes.raw.v "$SCRATCH"
    types 'names: importctl'
    cmp "$SCRATCH/readme/kubernetes-v1.27.8-$ARCH.raw" /var/lib/extensions/kubernetes.raw
    rm --force /var/lib/extensions/kubernetes.raw
    mv "$SCRATCH/kubernetes.raw.v" /var/lib/extensions
}

reload() {
    listing kubernetes
    types 'settings: reload'
    listing kubernetes
}

# More in the journal, and less again.
journal() {
    types 'journal: unit' | grep --fixed-strings 'kubernetes/kubernetes-v1.27.8'
    types 'journal: fields' | grep --fixed-strings '"REPOSITORY":"kubernetes"'
    types 'journal: debug'
    stop_service
    listing kubernetes
    news | grep --fixed-strings /v2/kubernetes/ || fail "no request is logged"
    types 'journal: as before'
    stop_service
    news >/dev/null
    listing kubernetes
    ! news | grep --fixed-strings /v2/kubernetes/ || fail "requests are still logged"
}

if [ "$ARCH" = x86-64 ]; then # the tags in the documents are for it
    check readme-disk-image disk_image
    check readme-container-image container_image
    check readme-automatic automatic_update
    check readme-looks looks
    check readme-importctl imports
    check readme-reload reload
    check readme-journal journal
    check readme-rollback rollback
else
    check readme-container-image container_image
fi

# The listing is the list in this directory.
is_published() { listing kubernetes | cmp SHA256SUMS; }

# The publisher's part of signed listings, and what the administrator gets from it.
signed_listing() {
    local keyring=/etc/systemd/import-pubring.gpg
    [ "$SYSTEMD" -lt 258 ] || keyring=/etc/systemd/import-pubring.pgp
    mkdir -p "$SCRATCH/publisher"
    cd "$SCRATCH/publisher"
    image "kubernetes-v1.28.0-$ARCH.raw" squashfs kubernetes 1.28.0
    image "kubernetes-v1.28.1-$ARCH.raw" squashfs kubernetes 1.28.1
    export GNUPGHOME=$SCRATCH/gnupg
    mkdir -m 700 "$GNUPGHOME"
    gpg --batch --passphrase '' --quick-gen-key publisher@example.org default default never
    gpg --export publisher@example.org >$keyring
    sha256sum kubernetes-v*.raw >SHA256SUMS
    gpg --detach-sign --output SHA256SUMS.gpg SHA256SUMS
    for file in kubernetes-v*.raw; do oras push --insecure "localhost:5000/kubernetes:${file:11:-4}" "$file"; done
    oras push --insecure localhost:5000/kubernetes:SHA256SUMS SHA256SUMS SHA256SUMS.gpg

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

# What is remembered of that list is forgotten, and then everything.
forgets() {
    types 'settings: forget' | grep --fixed-strings 'forgot the list in its tag SHA256SUMS'
    types 'settings: forget' | grep --fixed-strings 'no list was remembered'
    types 'settings: clean'
    [ -z "$(ls /var/lib/private/sysext-oci-proxy /var/lib/sysext-oci-proxy 2>/dev/null)" ] || fail "there is still state"
    # The transfer file was changed above, so it stays.
    sysext-oci-proxy transfer kubernetes --undo
    rm -r /etc/sysupdate.kubernetes.d
    # The timer has started it. It would merge the confexts of later themes, and make /etc read-only.
    systemctl stop systemd-sysupdate-notify-sysext.socket || true
}
if [ "$ARCH" = x86-64 ]; then
    check readme-signed-listing signed_listing
    check readme-forgets forgets
fi
