# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# The bytes fetched of a large image to read its extension-release fields.

if ! { has nginx && has mksquashfs && has mkfs.erofs; }; then
    missing 'metadata of large images' 'nginx, mksquashfs or mkfs.erofs is not here'
    return
fi
mkdir -p "$work/tree/usr/lib/extension-release.d"
printf 'ID=fedora\nVERSION_ID=42\n' > "$work/tree/usr/lib/extension-release.d/extension-release.big"
head -c 512M /dev/urandom > "$work/tree/usr/data"
free_port; front inside "$registry" "$port"
for kind in squashfs erofs; do
    if [ $kind = squashfs ]; then
        mksquashfs "$work/tree" "$work/image" -quiet -no-progress > /dev/null
    else
        mkfs.erofs --quiet -zlz4 "$work/image" "$work/tree"
    fi
    artifact big "$work/image" $kind
    rm "$work/image"
    forget
    serve inside
    curl -fsS -o /dev/null "$url/big/SHA256SUMS"
    : > "$work/inside.access"
    curl -fsS -o /dev/null "$url/big/big-$kind.manifest.gz"
    stop "$service"
    [ $kind = squashfs ] && most=6 || most=8
    row "metadata of 512 MiB of $kind: requests" "$(wc -l < "$work/inside.access")" requests "<= $most"
    row "metadata of 512 MiB of $kind: fetched" "$(awk '{ sum += $10 } END { printf "%.0f", sum / 1024 }' "$work/inside.access")" KiB '<= 1024'
done
rm -r "$work/tree"
