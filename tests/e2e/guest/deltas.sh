# shellcheck shell=bash disable=SC2164 # a check ends with the first command that fails
# Only what has changed: systemd-sysupdate has an older version of a large image, and the registry sends little of the
# next one. The images have the content of this system's /usr; in the newer one every twentieth file is another.

DELTAS=$SCRATCH/deltas
mkdir -p "$DELTAS"

# The files of two versions, with at least 300 MB each.
make_trees() {
    mkdir -p "$DELTAS/1/usr"
    cp --archive /usr/{bin,lib,libexec,sbin,share} "$DELTAS/1/usr"
    tree "$DELTAS/1" deltas 1
    cp --archive "$DELTAS/1" "$DELTAS/2"
    tree "$DELTAS/2" deltas 2
    python3 - "$DELTAS/2" <<'PYTHON'
import hashlib, os, sys

# One byte of 64 is another, as in a program that was compiled anew; some bytes are put before them.
files = changed = size = 0
for folder, _, names in os.walk(sys.argv[1]):
    for name in names:
        path = os.path.join(folder, name)
        if os.path.islink(path) or "extension-release" in path:
            continue
        files += 1
        size += os.path.getsize(path)
        relative = os.path.relpath(path, sys.argv[1])
        if hashlib.sha256(relative.encode()).digest()[0] >= 13:
            continue
        changed += 1
        with open(path, "rb") as file:
            content = bytearray(file.read())
        content[::64] = bytes((byte + 1) % 256 for byte in content[::64])
        os.unlink(path)
        with open(path, "wb") as file:
            file.write(b"version 2\n" + content)
print(f"{changed} of {files} files with {size} bytes are others")
assert size >= 300_000_000 and changed * 100 >= files * 3
PYTHON
}

# squashfs VERSION, with the index of casync
make_squashfs() {
    mksquashfs "$DELTAS/$1" "$DELTAS/squashfs_$1.raw" -comp zstd -Xcompression-level 3 -quiet -no-progress -all-root
    desync make "$DELTAS/squashfs_$1.raw.caibx" "$DELTAS/squashfs_$1.raw"
}

# erofs VERSION, in a disk image with its hash tree. The salt of systemd-repart comes from the seed.
make_erofs() {
    local definitions=$DELTAS/repart.d
    mkfs.erofs --quiet -zlz4 -T0 --all-root "$DELTAS/erofs" "$DELTAS/$1"
    mkdir -p "$definitions"
    cat >"$definitions/10-root.conf" <<CONF
[Partition]
Type=root
CopyBlocks=$DELTAS/erofs
Verity=data
VerityMatchKey=root
VerityDataBlockSizeBytes=4096
VerityHashBlockSizeBytes=4096
CONF
    printf '[Partition]\nType=root-verity\nVerity=hash\nVerityMatchKey=root\nMinimize=best\n' >"$definitions/20-verity.conf"
    systemd-repart --empty=create --size=auto --offline=yes --dry-run=no --definitions="$definitions" \
        --seed=6d1e5a0e8b9e4c9b9b0c000000000001 "$DELTAS/erofs_$1.raw"
    rm "$DELTAS/erofs"
}

# publish KIND VERSION - pushes the image, and attaches its index, if it has one
publish() {
    push "$1:v$2" "$DELTAS/$1_$2.raw"
    [ ! -e "$DELTAS/$1_$2.raw.caibx" ] || (cd "$DELTAS" && oras attach --plain-http --no-tty \
        --artifact-type application/vnd.casync.caibx "$REGISTRY/$1:v$2" "$1_$2.raw.caibx:application/vnd.casync.caibx")
}

# sent SINCE REPOSITORY - bytes of blobs of REPOSITORY that the registry has sent since then, by its own log
sent() {
    journalctl --sync
    journalctl --since="@$1" --output=cat --unit='registry-*' |
        sed --quiet "s,.*http.request.uri=\"*/v2/$2/blobs/.*http.response.written=\([0-9]*\).*,\1,p" |
        awk '{ sum += $1 } END { print sum + 0 }'
}

# updates KIND MISSING - the first version is installed; of the second one little more than MISSING bytes is sent
updates() {
    local kind=$1 missing=$2 begun found peak installed=/opt/extensions/$1/$1_2.raw
    publish "$kind" 1
    transfer "$kind" url-file "$kind-v@v.raw" regular-file "${kind}_@v.raw" "$kind.raw"
    sysupdate "$kind" update
    cmp "$DELTAS/${kind}_1.raw" "/opt/extensions/$kind/${kind}_1.raw"
    publish "$kind" 2
    eventually 15 is_newest "$kind" 2
    # The memory is that of this download.
    stop_service
    begun=$EPOCHREALTIME
    sysupdate "$kind" update
    peak=$(awk '/^VmHWM:/ { print $2 }' "/proc/$(main_pid)/status")
    cmp "$DELTAS/${kind}_2.raw" "$installed"
    found=$(sent "$begun" "$kind")
    echo "$kind: of $(stat --format=%s "$installed") bytes $missing are missing, the registry sent $found; $peak KiB in memory"
    [ "$found" -ge "$((missing * 9 / 10))" ] || fail "the registry's log has $found bytes, $missing are missing"
    [ "$((found * 100))" -le "$((missing * 115))" ] || fail "the registry sent $found bytes, $missing are missing"
    [ "$peak" -le 32768 ] || fail "it took $peak KiB of memory"
    rm -r "/opt/extensions/$kind" "/etc/sysupdate.$kind.d"
}

by_chunks() {
    make_squashfs 1
    make_squashfs 2
    updates squashfs "$(desync info --seed "$DELTAS/squashfs_1.raw.caibx" "$DELTAS/squashfs_2.raw.caibx" |
        jq '."dedup-size-not-in-seed"')"
    rm "$DELTAS"/squashfs_*
}

by_blocks() {
    make_erofs 1
    make_erofs 2
    # Blocks of the second image that the first one does not have, wherever they are.
    updates erofs "$(python3 - "$DELTAS"/erofs_[12].raw <<'PYTHON'
import hashlib, sys

def blocks(path):
    with open(path, "rb") as file:
        while block := file.read(4096):
            yield hashlib.sha256(block).digest()

old = set(blocks(sys.argv[1]))
print(4096 * sum(block not in old for block in blocks(sys.argv[2])))
PYTHON
    )"
    rm "$DELTAS"/erofs_*
}

check deltas-of-two-trees make_trees
check deltas-by-an-index-of-desync by_chunks
check deltas-by-a-hash-tree by_blocks
rm -r "$DELTAS"
