# shellcheck shell=bash disable=SC2164 # a check ends with the first command that fails
# What `transfer` writes, for each shape of an update: systemd-sysupdate takes it as it stands, lists, and updates.

TRANSFERS=$SCRATCH/transfers
OS_RELEASE=../usr/lib/os-release
mkdir -p "$TRANSFERS" /var/lib/extensions /var/lib/confexts /var/lib/portables

# write REPOSITORY [OPTION…] - has the transfer files written, and shows them
write() {
    sysext-oci-proxy transfer "$@" --write
    tail --verbose --lines=+1 "/etc/sysupdate.$1.d/"*
}

# sees REPOSITORY VERSION… - waits until the newest one is listed; the versions are these, the newest first
sees() {
    eventually 15 has_version "$1" "$2"
    versions "$@"
}
has_version() { sysupdate "$1" --json=short list | jq --exit-status --arg version "$2" '.all | index($version)' >/dev/null; }

# install NAME FILE - the newest is installed, and the file is there
install_newest() { sysupdate "$1" update; [ -e "$2" ] || fail "there is no $2: $(find "$(dirname "$2")")"; }

raw_sysext() {
    local n
    for n in 9 10; do
        image "$TRANSFERS/raw.raw" squashfs shaperaw "1.$n"
        push "shaperaw:v1.$n-$ARCH" "$TRANSFERS/raw.raw"
        rm "$TRANSFERS/raw.raw"
        [ "$n" != 9 ] || write shaperaw
        eventually 15 has_version shaperaw "1.$n"
        install_newest shaperaw "/var/lib/extensions/shaperaw.raw.v/shaperaw_1.$n.raw"
        merged shaperaw "1.$n"
    done
    versions shaperaw 1.10 1.9
}
check transfer-raw-sysext raw_sysext

# 257 and 262 disagree on these in a directory of versions; with a link both merge the newest.
odd_versions() {
    local version
    for version in 1.0 1.1_2; do
        image "$TRANSFERS/odd.raw" squashfs shapeodd "$version"
        push "shapeodd:$version-$ARCH" "$TRANSFERS/odd.raw"
        rm "$TRANSFERS/odd.raw"
    done
    write shapeodd
    grep 'A link names the current version' /etc/sysupdate.shapeodd.d/shapeodd.transfer
    sysupdate shapeodd update 1.0
    merged shapeodd 1.0
    install_newest shapeodd /var/lib/extensions.d/shapeodd/shapeodd_1.1_2.raw
    merged shapeodd 1.1_2
}
check transfer-versions-with-an-underscore odd_versions

directory() {
    local version
    mkdir -p "$TRANSFERS/tree"
    cd "$TRANSFERS/tree"
    for version in 1.0 2.0; do
        tree content shapetree $version
        tar --directory=content --create --owner=0 --group=0 --gzip --file=layer.tar.gz .
        container layout $version layer.tar.gz
        skopeo copy --quiet --dest-tls-verify=false --insecure-policy "oci:layout:$version" "docker://$REGISTRY/shapetree:v$version"
        [ $version != 1.0 ] || write shapetree
        eventually 15 has_version shapetree $version
        install_newest shapetree /var/lib/extensions/shapetree.v/shapetree_$version
        merged shapetree $version
    done
}
check transfer-directory-of-a-container-image directory

confext() {
    local content=$TRANSFERS/confext
    mkdir -p "$content/etc/extension-release.d"
    printf 'ID=_any\nCONFEXT_SCOPE=system\n' >"$content/etc/extension-release.d/extension-release.shapeconf"
    echo 1.0 >"$content/etc/shapeconf"
    mksquashfs "$content" "$TRANSFERS/conf.raw" -quiet -no-progress -all-root
    push "shapeconf:1.0" "$TRANSFERS/conf.raw"
    write shapeconf
    sees shapeconf 1.0
    install_newest shapeconf /var/lib/confexts/shapeconf.raw.v/shapeconf_1.0.raw
    systemd-confext refresh
    local found
    found=$(cat /etc/shapeconf) || true
    systemd-confext unmerge
    same "the version in /etc" 1.0 "$found"
}
check transfer-confext confext

portable() {
    local content=$TRANSFERS/portable
    mkdir -p "$content"/{usr/lib/systemd/system,etc,proc,sys,dev,run,tmp,var/tmp}
    printf 'ID=shapeport\nVERSION_ID=1\n' >"$content/usr/lib/os-release"
    ln --symbolic --force ../usr/lib/os-release "$content/etc/os-release"
    touch "$content/etc/"{resolv.conf,machine-id}
    printf '[Service]\nExecStart=/bin/true\n' >"$content/usr/lib/systemd/system/shapeport.service"
    mksquashfs "$content" "$TRANSFERS/port.raw" -quiet -no-progress -all-root
    push "shapeport:1.0" "$TRANSFERS/port.raw"
    ! sysext-oci-proxy transfer shapeport 2>/run/said || fail "it is clear what it is"
    grep --fixed-strings -- '--shape selects what to install: sysext, confext, portable' /run/said
    write shapeport --shape portable
    sees shapeport 1.0
    install_newest shapeport /var/lib/portables.d/shapeport/shapeport_1.0.raw
    portablectl inspect shapeport
}
check transfer-portable-service portable

# A directory in place of the boot partition.
in_boot() {
    mkdir -p /run/boot/EFI
    SYSTEMD_ESP_PATH=/run/boot SYSTEMD_XBOOTLDR_PATH=/run/boot SYSTEMD_RELAX_ESP_CHECKS=1 SYSTEMD_RELAX_XBOOTLDR_CHECKS=1 sysupdate "$@"
}

kernel() {
    mkdir -p "$TRANSFERS/kernel"
    cd "$TRANSFERS/kernel"
    echo kernel >vmlinuz
    echo initrd >initrd.img
    oras push --plain-http --no-tty "$REGISTRY/shapekernel:v6.12" vmlinuz initrd.img
    write shapekernel
    in_boot shapekernel list
    in_boot shapekernel update
    cmp vmlinuz /run/boot/shapekernel/shapekernel_6.12.vmlinuz
    cmp initrd.img /run/boot/shapekernel/shapekernel_6.12.initrd
}
check transfer-kernel-and-initrd kernel

# The machine has no version of its OS, which an update of the OS must not remove.
no_version() {
    cd "$TRANSFERS"
    echo "a unified kernel image" >uki.efi
    push shapeuki:v3 "$TRANSFERS/uki.efi"
    ! sysext-oci-proxy transfer shapeuki 2>/run/said || fail "the version that runs could be removed"
    grep --fixed-strings 'os-release(5) has no IMAGE_VERSION=' /run/said
    cp --remove-destination /usr/lib/os-release /etc/os-release
    echo IMAGE_VERSION=1.0 >>/etc/os-release
}
check transfer-os-without-a-version no_version

uki() {
    cd "$TRANSFERS"
    write shapeuki
    in_boot shapeuki list
    in_boot shapeuki update
    cmp uki.efi /run/boot/EFI/Linux/shapeuki_3+3-0.efi
}
check transfer-uki uki

# Two partitions and a UKI of one artifact, on a disk of its own.
os() {
    local disk=$TRANSFERS/disk loop usr=0a1b2c3d-0000-4000-8000-00000000001a verity=0a1b2c3d-0000-4000-8000-00000000001b
    local files=("shapeos_1.2.usr-$ARCH.${usr//-/}.raw" "shapeos_1.2.usr-$ARCH-verity.${verity//-/}.raw" shapeos_1.2.efi)
    mkdir -p "$TRANSFERS/os"
    cd "$TRANSFERS/os"
    image "${files[0]}" squashfs shapeos 1.2
    head --bytes=65536 /dev/urandom >"${files[1]}"
    echo "a unified kernel image" >"${files[2]}"
    oras push --plain-http --no-tty "$REGISTRY/shapeos:1.2" "${files[@]}"
    rm --force "$disk"
    truncate --size=64M "$disk"
    sfdisk --quiet "$disk" <<TABLE
label: gpt
size=8M, type=8484680C-9521-48C6-9C11-B0720656F69E, name=_empty
size=8M, type=77FF5F63-E7B6-4633-ACF4-1565B864C0E6, name=_empty
size=8M, type=8484680C-9521-48C6-9C11-B0720656F69E, name=_empty
size=8M, type=77FF5F63-E7B6-4633-ACF4-1565B864C0E6, name=_empty
TABLE
    loop=$(losetup --find --show "$disk")
    write shapeos
    # The disk that the machine runs from is none here.
    sed --in-place "s,^Path=auto,Path=$loop," /etc/sysupdate.shapeos.d/*
    in_boot shapeos list
    in_boot shapeos update
    same "the labels and UUIDs" "shapeos_1.2 $usr shapeos_1.2_verity $verity" \
        "$(sfdisk --json "$disk" | jq --raw-output '[.partitiontable.partitions[:2][] | .name, (.uuid | ascii_downcase)] | join(" ")')"
    cmp --bytes="$(stat --format=%s "${files[0]}")" "${files[0]}" <(tail --bytes=+$((1 + 512 * 2048)) "$disk")
    cmp "${files[2]}" /run/boot/EFI/Linux/shapeos_1.2+3-0.efi
    losetup --detach "$loop"
}
# The partition types above are those of x86-64.
if [ "$ARCH" = x86-64 ]; then check transfer-whole-os os; fi
ln --symbolic --force "$OS_RELEASE" /etc/os-release

# transfer_alone FILE - it without the record for --undo
transfer_alone() { sed '/^# "transfer --undo"/,$d' "$1"; }

is_left_as_it_is() {
    local file=/etc/sysupdate.shaperaw.d/shaperaw.transfer
    sysext-oci-proxy transfer shaperaw --write | grep "$file is there already"
    cp $file /run/before
    echo '# mine' >>$file
    ! sysext-oci-proxy transfer shaperaw --write || fail "it was replaced"
    tail --lines=1 $file | grep mine
    sysext-oci-proxy transfer shaperaw --write --force
    # The record of a file that was changed is not believed, so its directories are not in the new one.
    diff <(transfer_alone $file) <(transfer_alone /run/before)
}
check transfer-file-of-others-is-left-as-it-is is_left_as_it_is

# No other theme has these merged.
rm --recursive /etc/sysupdate.shape*.d /var/lib/extensions/shape* /var/lib/extensions.d/shape* /var/lib/confexts/shape* \
    /var/lib/portables/shape* /var/lib/portables.d/shape* || true
systemd-sysext refresh >>"$LOG" || true
