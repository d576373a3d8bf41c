# shellcheck shell=bash disable=SC2164 # a check ends with the first command that fails
# Images as builders other than buildah write them, channels, and a whole OS, each installed by systemd-sysupdate.

PUBLISHERS=$SCRATCH/publishers
mkdir -p "$PUBLISHERS"

# layer FILE < ENTRIES - a tar archive; an entry a line: TYPE NAME [CONTENT or TARGET] [XATTR=VALUE]
layer() {
    python3 -c '
import io, sys, tarfile
TYPES = {"dir": tarfile.DIRTYPE, "file": tarfile.REGTYPE, "hard": tarfile.LNKTYPE, "sym": tarfile.SYMTYPE, "char": tarfile.CHRTYPE}
with tarfile.open(sys.argv[1], "w", format=tarfile.PAX_FORMAT) as archive:
    for line in sys.stdin:
        kind, name, *rest = line.split()
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode = TYPES[kind], 0o755 if kind == "dir" else 0o644
        for pair in [one for one in rest if "=" in one and one.startswith(("trusted.", "user."))]:
            rest.remove(pair)
            xattr, value = pair.split("=", 1)
            entry.pax_headers["SCHILY.xattr." + xattr] = value
        content = (" ".join(rest) + "\n").encode() if kind == "file" else b""
        if kind in ("hard", "sym"):
            entry.linkname = rest[0]
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
' "$1"
}

# push_layers REPOSITORY:TAG FILE:TYPE… - a container image of these layers, whatever their types say of them
push_layers() {
    local reference=$1 one layers=()
    shift
    echo '{"architecture":"'"$OCI_ARCH"'","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}' >/tmp/config.json
    for one; do
        layers+=("$(oras blob push --plain-http --descriptor --media-type "${one#*:}" "$REGISTRY/${reference%:*}" "${one%%:*}")")
    done
    oras blob push --plain-http --descriptor --media-type application/vnd.oci.image.config.v1+json "$REGISTRY/${reference%:*}" /tmp/config.json >/tmp/config
    printf '%s\n' "${layers[@]}" | jq --slurp --slurpfile config /tmp/config \
        '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config[0], layers: .}' >/tmp/manifest.json
    oras manifest push --plain-http "$REGISTRY/$reference" /tmp/manifest.json
}
GZIP=application/vnd.oci.image.layer.v1.tar+gzip

# A release, as the first layer of each image has it.
release() {
    cat <<ENTRIES
dir usr
dir usr/lib
dir usr/lib/extension-release.d
file usr/lib/extension-release.d/extension-release.$1 ID=_any
dir usr/share
dir usr/share/$1
file usr/share/$1/version $2
file usr/share/$1/gone gone
file usr/share/$1/kept kept
ENTRIES
}

installs() {
    local host
    host=$(find /usr/bin | wc --lines)
    transfer "$1" url-tar "$1-@v.tar.gz" directory "$1-@v" "$1"
    sysupdate "$1" update
    merged "$1" "$2"
    same "what /usr/bin of the host has" "$host" "$(find /usr/bin | wc --lines)"
}

# An entry for the root, names and targets that begin with a slash, and a whiteout that does.
like_kaniko() {
    release kaniko 1 | layer "$PUBLISHERS/base.tar"
    layer "$PUBLISHERS/top.tar" <<'ENTRIES'
dir /
dir /usr/share/kaniko
file /usr/share/kaniko/new new
hard /usr/share/kaniko/linked /usr/share/kaniko/new
hard usr/share/kaniko/below /usr/share/kaniko/kept
file /usr/share/kaniko/.wh.gone
ENTRIES
    gzip --force --keep "$PUBLISHERS/base.tar" "$PUBLISHERS/top.tar"
    push_layers kaniko:v1 "$PUBLISHERS/base.tar.gz:$GZIP" "$PUBLISHERS/top.tar.gz:$GZIP"
    installs kaniko 1
    [ /usr/share/kaniko/new -ef /usr/share/kaniko/linked ] || fail "a hard link became a copy"
    same "what a link into the layer below leads to" kept "$(cat /usr/share/kaniko/below)"
    [ ! -e /usr/share/kaniko/gone ] || fail "what a layer removed is there"
}
check image-like-kaniko like_kaniko

# What an overlay's upper directory has: devices 0:0 as whiteouts, an xattr for an opaque directory, aufs's own names.
like_an_overlay() {
    { release overlay 1; echo 'dir usr/share/overlay/opaque'; echo 'file usr/share/overlay/opaque/old old'; } | layer "$PUBLISHERS/base.tar"
    layer "$PUBLISHERS/top.tar" <<'ENTRIES'
dir .wh..wh.plnk
file .wh..wh.plnk/12.34 aufs
dir usr trusted.overlay.origin=x
dir usr/bin trusted.overlay.impure=y
char usr/share/overlay/gone
dir usr/share/overlay/opaque trusted.overlay.opaque=y
file usr/share/overlay/opaque/new new
ENTRIES
    gzip --force --keep "$PUBLISHERS/base.tar" "$PUBLISHERS/top.tar"
    push_layers overlay:v1 "$PUBLISHERS/base.tar.gz:$GZIP" "$PUBLISHERS/top.tar.gz:$GZIP"
    installs overlay 1
    [ ! -e /usr/share/overlay/gone ] || fail "what a whiteout hides is there"
    same "an opaque directory" new "$(ls /usr/share/overlay/opaque)"
    ! find /opt/extensions/overlay -name '.wh.*' | grep . || fail "aufs's own names are there"
    ! getfattr --recursive --absolute-names --match=overlay /opt/extensions/overlay | grep . || fail "xattrs of an overlay are there"
}
check image-like-an-overlay like_an_overlay

# One layer whose type says gzip, and whose bytes are zstd: it must not be called .tar.gz as it is.
mislabelled() {
    release mislabelled 1 | layer "$PUBLISHERS/base.tar"
    zstd --quiet --force "$PUBLISHERS/base.tar" -o "$PUBLISHERS/base.tar.zst"
    push_layers mislabelled:v1 "$PUBLISHERS/base.tar.zst:$GZIP"
    installs mislabelled 1
    push_layers mislabelled:v2 "$PUBLISHERS/base.tar:$GZIP"
    eventually 15 is_newest mislabelled v2
    sysupdate mislabelled update
    merged mislabelled 1
}
check image-that-is-mislabelled mislabelled

# A tag that moves; the files keep titles without a version, and the manifest notes it.
channel() {
    mkdir -p "$PUBLISHERS/channel"
    cd "$PUBLISHERS/channel"
    local version
    for version in 1.0 1.1; do
        rm --force channel.raw
        image channel.raw squashfs channel $version
        oras push --plain-http --no-tty --annotation "org.opencontainers.image.version=$version" "$REGISTRY/channel:stable" channel.raw
        mkdir -p /etc/sysupdate.channel.d
        transfer channel url-file channel-@v.raw regular-file channel-@v.raw channel.raw
        sed --in-place "s,^Path=$URL/channel,&:stable," /etc/sysupdate.channel.d/channel.transfer
        eventually 15 is_newest channel $version
        sysupdate channel update
        merged channel $version
    done
    versions channel 1.1 1.0
}
check channel-of-unversioned-titles channel

# Two partitions of one artifact, as mkosi names them; their UUIDs are in the names, and get into the partition table.
whole_os() {
    local disk loop uuid_usr=0a1b2c3d-0000-4000-8000-00000000000a uuid_verity=0a1b2c3d-0000-4000-8000-00000000000b
    mkdir -p "$PUBLISHERS/os" /etc/sysupdate.os.d
    cd "$PUBLISHERS/os"
    image "os_1.2.usr-$ARCH.${uuid_usr//-/}.raw" squashfs os 1.2
    head --bytes=65536 /dev/urandom >"os_1.2.usr-$ARCH-verity.${uuid_verity//-/}.raw"
    oras push --plain-http --no-tty "$REGISTRY/os:1.2" "os_1.2.usr-$ARCH.${uuid_usr//-/}.raw" "os_1.2.usr-$ARCH-verity.${uuid_verity//-/}.raw"
    offers os "$(line "os_1.2.usr-$ARCH.${uuid_usr//-/}.raw" "os-1.2.usr-$ARCH.${uuid_usr//-/}.raw")"

    disk=$PUBLISHERS/disk
    rm --force "$disk"
    truncate --size=64M "$disk"
    # sysupdate wants two slots of a kind, and takes an empty one by its label.
    sfdisk --quiet "$disk" <<TABLE
label: gpt
size=8M, type=8484680C-9521-48C6-9C11-B0720656F69E, name=_empty
size=8M, type=77FF5F63-E7B6-4633-ACF4-1565B864C0E6, name=_empty
size=8M, type=8484680C-9521-48C6-9C11-B0720656F69E, name=_empty
size=8M, type=77FF5F63-E7B6-4633-ACF4-1565B864C0E6, name=_empty
TABLE
    loop=$(losetup --find --show "$disk")
    local part kind
    for part in usr usr-verity; do
        kind="$part"
        cat >"/etc/sysupdate.os.d/10-$part.transfer" <<CONF
[Transfer]
Verify=no

[Source]
Type=url-file
Path=$URL/os
MatchPattern=os-@v.usr-$ARCH${part#usr}.@u.raw

[Target]
Type=partition
Path=$loop
MatchPattern=os_@v
MatchPartitionType=$kind
CONF
    done
    sysupdate os update
    cmp --bytes="$(stat --format=%s "os_1.2.usr-$ARCH.${uuid_usr//-/}.raw")" \
        <(dd if="$disk" bs=512 skip="$(partition_start 1)" status=none) "os_1.2.usr-$ARCH.${uuid_usr//-/}.raw"
    same "the UUIDs" "$uuid_usr $uuid_verity" "$(sfdisk --json "$disk" | jq --raw-output '[.partitiontable.partitions[:2][].uuid | ascii_downcase] | join(" ")')"
    losetup --detach "$loop"
}
partition_start() { sfdisk --json "$PUBLISHERS/disk" | jq ".partitiontable.partitions[$(($1 - 1))].start"; }
# The partition types above are those of x86-64.
if [ "$ARCH" = x86-64 ]; then check whole-os-of-one-artifact whole_os; fi
