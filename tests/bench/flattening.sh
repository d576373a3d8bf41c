# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# An image of many layers made into one file, beside umoci and tar, which unpack the layers to disk and pack
# the result.

if ! { has umoci && has python3; }; then
    missing 'flattening' 'umoci or python3 is not here'
    return
fi
size=$((SIZE_MIB / 2))
python3 tests/tools/layers "$work/image" "$size"
printf '[repository.image]\nsource = "oci:%s"\narchitectures = ["x86-64"]\n' "$work/image" > "$work/image.toml"
for _ in $(seq "$RUNS"); do
    forget
    sync
    begin=$EPOCHREALTIME
    umoci raw unpack --rootless --image "$work/image:v1" "$work/unpacked" >> "$work/log" 2>&1
    tar -C "$work/unpacked" -cf "$work/unpacked.tar" .
    calculate '%.2f\n' "$EPOCHREALTIME - $begin" >> "$work/times.umoci"
    rm -rf "$work/unpacked" "$work/unpacked.tar"
    sync
    serve image
    fetch "$url/image/SHA256SUMS" >> "$work/times.flatten"
    memory "$service" VmHWM >> "$work/memory.flatten"
    stop "$service"
    ls "$work/cache/image/made" >> "$work/made"
done
[ "$(sort -u "$work/made" | wc -l)" = 1 ] || { echo 'not the same bytes in every run' >&2; exit 1; }
forget
rm -r "$work/image"
beside "flattening 8 gzip layers of $size MiB; beside umoci and tar" \
    "$(median_of "$work/times.flatten" %.2f)" "$(median_of "$work/times.umoci" %.2f)" s '<= 1'
row 'flattening, peak memory' "$(sort -g "$work/memory.flatten" | tail -1)" MiB '<= 64'
