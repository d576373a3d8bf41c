# shellcheck shell=bash disable=SC2154,SC2164 # of the theme trust; a check ends with the first command that fails
# Lists signed with the key of this machine: systemd verifies them, and those of the distribution's publishers as before.
#
# The repository k8s is signed with cosign only, by the key of the theme trust; `theirs` has a list that its publisher
# signed with gpg, whose key is in the distribution's keyring.

SYSTEMD=$(systemctl --version | awk 'NR == 1 { print int($2) }')
MACHINE=$SCRATCH/machine
OF_UPDATES=/etc/sysext-oci-proxy/import-pubring.pgp
VENDOR=/usr/lib/systemd/import-pubring.pgp OWN=/etc/systemd/import-pubring.pgp
[ "$SYSTEMD" -ge 258 ] || VENDOR=/usr/lib/systemd/import-pubring.gpg OWN=/etc/systemd/import-pubring.gpg

publisher() { GNUPGHOME=$MACHINE/gnupg gpg --batch --yes --passphrase '' "$@"; }

# k8s_version NUMBER - signed with cosign
k8s_version() {
    local digest
    digest=$(push_version "k8s-machine:$1" "$1" --annotation "org.opencontainers.image.version=$1")
    sign p256 "${forms[-1]}" "k8s-machine@$digest"
}

machine_publish() {
    mkdir -p "$MACHINE/gnupg"
    chmod 700 "$MACHINE/gnupg"
    cd "$MACHINE"
    # Keyrings of earlier themes would be in the way.
    rm -f /etc/systemd/import-pubring.*
    publisher --quick-gen-key publisher@example.org default default never
    publisher --export publisher@example.org >publisher.gpg
    # /usr is read-only while an extension is merged.
    systemd-sysext unmerge
    cat publisher.gpg >>"$VENDOR"
    cp "$KEYS/1.raw" theirs-1.raw
    sha256sum theirs-1.raw >SHA256SUMS
    publisher --output SHA256SUMS.gpg --detach-sign SHA256SUMS
    oras push --plain-http --no-tty "$REGISTRY/theirs:SHA256SUMS" SHA256SUMS SHA256SUMS.gpg theirs-1.raw
    k8s_version 1
    configure 30-machine <<CONF
[repository.k8s]
source = "$REGISTRY/k8s-machine"
verify = [{ key = "$KEYS/p256.pub" }]
CONF
}
check machine-publish machine_publish

# pull REPOSITORY - its list as systemd-sysupdate gets it, verified by the keyring that the units read
pull_verified() {
    local keyring=()
    [ ! -e "$OF_UPDATES" ] || keyring=("SYSTEMD_OPENPGP_KEYRING=$OF_UPDATES")
    env "${keyring[@]}" /usr/lib/systemd/systemd-pull raw --direct --verify=signature "$URL/$1/SHA256SUMS" - >/tmp/pulled
}

# systemd_refuses REPOSITORY
systemd_refuses() { ! pull_verified "$1" 2>/tmp/refused || fail "systemd accepts the list of $1"; }

# systemd_accepts REPOSITORY… - systemd verifies each list
systemd_accepts() {
    local repository
    for repository; do
        pull_verified "$repository" || fail "systemd refuses the list of $repository"
        same "the list of $repository" "$(listing "$repository")" "$(cat /tmp/pulled)"
    done
}

# In the beginning there is no key, and nothing is signed.
machine_unsigned() {
    local found=0
    sysext-oci-proxy key 2>/tmp/said || found=$?
    same "the exit status of key" 69 "$found"
    same "the signature" 404 "$(status "$URL/k8s/SHA256SUMS.gpg")"
    systemd_refuses k8s
    systemd_accepts theirs
}
check machine-unsigned machine_unsigned

# The commands of docs/trust.md. The service makes its key when it starts.
machine_signs() {
    block 'trust: sign' | configure 05-sign
    fetch "$URL/k8s/SHA256SUMS.gpg" >/tmp/signature
    systemd_refuses k8s
    types 'trust: key' >/tmp/said
    grep --quiet --line-regexp 'From now on this service can sign for every source on this machine' /tmp/said
    same "who signed" machine "$(sysext-oci-proxy list --json k8s | jq --raw-output .signed)"
    systemd_accepts k8s theirs
    same "other forms" "404 404 404" \
        "$(for form in asc sha256.gpg sha256.asc; do status "$URL/k8s/SHA256SUMS.$form"; done | paste --serial --delimiters=' ')"
    same "the seed" "600" "$(stat --format=%a /var/lib/private/sysext-oci-proxy/signing.key)"
}
check machine-signs machine_signs

# fetched DIRECTORY [URL] - the list, its signature and the key
fetched() {
    mkdir -p "$1"
    fetch "${2:-$URL}/k8s/SHA256SUMS" >"$1/list"
    fetch "${2:-$URL}/k8s/SHA256SUMS.gpg" >"$1/signature"
    cp "$MACHINE/key.asc" "$MACHINE/key.gpg" "$1"
    { cat "$1/list" && echo; } >"$1/other"
}

# all_verify DIRECTORY [COMMAND…] - each program accepts the list, and no other; COMMAND sets its clock
all_verify() {
    local list
    cd "$1"
    shift
    for list in list other; do
        for program in "gpgv --keyring ./key.gpg signature" "sqv --keyring key.asc signature" "rsop verify signature key.asc <"; do
            found=yes
            "$@" sh -c "$program $list" >said 2>&1 || found=no
            if [ $list = list ]; then
                [ $found = yes ] || fail "$program: $(cat said)"
            else
                [ $found = no ] || fail "$program accepts another list"
            fi
        done
    done
}

# A machine without a battery for its clock: the service signs in 1970, and the clock is right later. Whoever verifies does
# so an hour after that: to sqv a signature of the next second is from the future.
in_1970() { env FAKETIME_DONT_FAKE_MONOTONIC=1 TZ=UTC faketime '1970-01-01 01:10:00' "$@"; }

machine_readers() {
    sysext-oci-proxy key >"$MACHINE/key.asc"
    gpg --dearmor <"$MACHINE/key.asc" >"$MACHINE/key.gpg"
    fetched "$MACHINE/now"
    all_verify "$MACHINE/now"
}
check machine-readers machine_readers

machine_in_1970() {
    cp --recursive /var/lib/private/sysext-oci-proxy "$MACHINE/state"
    chown --recursive root: "$MACHINE/state"
    systemd-run --quiet --collect --unit=in-1970 --setenv="STATE_DIRECTORY=$MACHINE/state" --setenv=TZ=UTC \
        --setenv=FAKETIME_DONT_FAKE_MONOTONIC=1 faketime '1970-01-01 00:10:00' sysext-oci-proxy serve --listen 127.0.0.1:5003
    trap 'systemctl stop in-1970.service' EXIT
    eventually 20 curl --fail --silent http://localhost:5003/
    fetched "$MACHINE/in-1970" http://localhost:5003
    gpg --list-packets "$MACHINE/in-1970/signature" | grep --fixed-strings 'sig created 1970-01-01'
    all_verify "$MACHINE/in-1970" in_1970
    all_verify "$MACHINE/in-1970"
}
check machine-in-1970 machine_in_1970

# A transfer file without Verify= is verified, and the update unit has the keyring.
machine_update() {
    transfer k8s url-file k8s-@v.raw regular-file k8s-@v.raw trust.raw
    sed -i '/^Verify=/d' /etc/sysupdate.k8s.d/k8s.transfer
    systemctl start sysext-oci-proxy-update@k8s.service
    merged trust 1
    k8s_version 2
    stop_service
    systemctl start sysext-oci-proxy-update@k8s.service
    merged trust 2
    sysext-oci-proxy check k8s >/tmp/said || true
    grep --quiet '^ok  *keyring .*with the key of this machine' /tmp/said || fail "$(cat /tmp/said)"
}
check machine-update machine_update

# With another key than the one in the keyring systemd refuses the list, until the key is installed.
machine_another_key() {
    stop_service
    mv /var/lib/private/sysext-oci-proxy/signing.key "$MACHINE/first.key"
    systemd_refuses k8s
    systemd_accepts theirs
    k8s_version 3
    stop_service
    ! systemctl start sysext-oci-proxy-update@k8s.service || fail "systemd-sysupdate accepts another key"
    sysext-oci-proxy check k8s >/tmp/said || true
    grep --quiet 'key --install' /tmp/said || fail "$(cat /tmp/said)"
    sysext-oci-proxy key --install
    systemd_accepts k8s theirs
    systemctl start sysext-oci-proxy-update@k8s.service
    merged trust 3
}
check machine-another-key machine_another_key

machine_check_warns() {
    transfer theirs url-file theirs-@v.raw regular-file theirs-@v.raw theirs.raw
    sed -i '/^Verify=/d' /etc/sysupdate.theirs.d/theirs.transfer
    sysext-oci-proxy check theirs >/tmp/said || true
    grep --quiet 'could forge' /tmp/said || fail "$(cat /tmp/said)"
}
check machine-check-warns machine_check_warns

# Keyrings and drop-ins, byte for byte.
keyrings() { find /etc/systemd /etc/sysext-oci-proxy /usr/lib/systemd/import-pubring.* -type f -exec sha256sum {} + | sort; }

machine_remove() {
    sysext-oci-proxy key --remove
    [ ! -e "$OF_UPDATES" ] && [ ! -e /etc/systemd/system/sysext-oci-proxy-update@.service.d/50-sysext-oci-proxy-key.conf ]
    systemd_refuses k8s
    systemd_accepts theirs
}
check machine-remove machine_remove

# comes_and_goes [--global] - installs, uses and removes the key; all is as it was then
comes_and_goes() {
    local before
    before=$(keyrings)
    sysext-oci-proxy key --install "$@"
    systemd_accepts k8s theirs
    sysext-oci-proxy key --install "$@"
    sysext-oci-proxy key --remove
    same "keyrings and drop-ins" "$before" "$(keyrings)"
    systemd_refuses k8s
    systemd_accepts theirs
}

# with_keyrings COMMAND… - for each form that keyrings have
with_keyrings() {
    local other=/etc/systemd/import-pubring.gpg
    [ "$OWN" != "$other" ] || other=/etc/systemd/import-pubring.pgp
    "$@"
    cp "$MACHINE/publisher.gpg" "$OWN"
    "$@"
    cp "$VENDOR" "$other"
    "$@"
    rm "$other"
    cp "$MACHINE/gnupg/pubring.kbx" "$OWN"
    "$@"
    rm "$OWN"
}
check machine-keyrings with_keyrings comes_and_goes
[ "$SYSTEMD" -lt 262 ] || check machine-keyrings-of-all with_keyrings comes_and_goes --global

# From 262 on the keyring of the administrator may still have the older name.
older_name() {
    cp "$MACHINE/publisher.gpg" /etc/systemd/import-pubring.gpg
    comes_and_goes
    comes_and_goes --global
    rm /etc/systemd/import-pubring.gpg
}
[ "$SYSTEMD" -lt 262 ] || check machine-keyring-of-older-name older_name

unconfigure 05-sign
unconfigure 30-machine
