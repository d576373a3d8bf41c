# shellcheck shell=bash
# SHA256SUMS and the files in it, of a repository as `oras push` fills it.

tool() { echo "$SCRATCH/tool-v1.$1-$ARCH.raw"; }

fill() {
    local n
    for n in 6 7 9 10 11; do
        # both kinds of file system that images have
        image "$(tool $n)" "$([ $((n % 2)) = 0 ] && echo erofs || echo squashfs)" tool "1.$n"
    done
    for n in 6 7 9; do push "tool:v1.$n-$ARCH" "$(tool $n)"; done
}
check fill-registry fill

tool_line() { line "$(tool "$1")" "tool-v1.$1-$ARCH.raw"; }

lists() { listed tool "$(tool_line 6)" "$(tool_line 7)" "$(tool_line 9)"; }
check every-tag-is-listed-in-order lists

checks_out() {
    fetch --remote-name "$URL/tool/SHA256SUMS" --remote-name "$URL/tool/tool-v1.7-$ARCH.raw"
    sha256sum --check --ignore-missing SHA256SUMS
    cmp "tool-v1.7-$ARCH.raw" "$(tool 7)"
}
check sha256sum-accepts checks_out

side_file() { same "the side file" "$(tool_line 9)" "$(fetch "$URL/tool/tool-v1.9-$ARCH.raw.sha256")"; }
check side-file-sha256 side_file

announces() {
    local path announced
    for path in tool/SHA256SUMS "tool/tool-v1.9-$ARCH.raw"; do
        announced=$(fetch --head "$URL/$path" | tr -d '\r' | awk 'tolower($1) == "content-length:" { print $2 }')
        same "the length of $path" "$(fetch "$URL/$path" | wc --bytes)" "$announced"
    done
}
check head-announces-length announces

query() { fetch "$URL/tool/SHA256SUMS?version=1" | diff <(listing tool) -; }
check query-is-ignored query

many_tags() {
    local manifest=/tmp/manifest n
    image "$SCRATCH/many.raw" squashfs many 1
    push many:1000 "$SCRATCH/many.raw"
    oras manifest fetch --plain-http "$REGISTRY/many:1000" >$manifest
    # a registry gives out 100 tags at a time
    oras manifest push --plain-http "$REGISTRY/many:$(seq --separator=, 1001 1159)" $manifest
    for n in {1000..1159}; do line "$SCRATCH/many.raw" "many-$n.raw"; done >/tmp/expected
    listing many | diff /tmp/expected -
}
check many-tags many_tags

# A tag that a signer leaves, an artifact without a file, and one good tag.
odd_neighbours() {
    printf '{}' >/tmp/empty
    image "$SCRATCH/odd.raw" erofs odd 1
    push odd:v1 "$SCRATCH/odd.raw"
    push "odd:sha256-$(sha256 "$SCRATCH/odd.raw").sig" /tmp/empty
    oras push --plain-http --artifact-type application/vnd.example.nothing "$REGISTRY/odd:v2"
    listed odd "$(line "$SCRATCH/odd.raw" odd-v1.raw)"
}
check odd-tags-spoil-nothing odd_neighbours

nothing_usable() {
    local date found
    oras push --plain-http --artifact-type application/vnd.example.nothing "$REGISTRY/nothing:v1"
    date=$(date --utc --date='2 days' +%F)
    found=$(listing nothing)
    # unless midnight came between
    [[ $found = *"-$date" ]] || date=$(date --utc --date='2 days' +%F)
    same "the listing" "$(line /dev/null "BEST-BEFORE-$date")" "$found"
    transfer nothing url-file nothing-@v.raw regular-file nothing-@v.raw nothing.raw
    versions nothing
    sysupdate nothing update
}
check empty-listing-is-no-error nothing_usable

# With the settings as they are by default: a listing is given out again for 10 s, and a file in it
# stays what the listing said, wherever its tag has gone.
snapshot() {
    local before
    before=$(tool_line 7)
    offers tool "$before"
    push "tool:v1.7-$ARCH" "$(tool 11)"
    delivers "tool/tool-v1.7-$ARCH.raw" "$(tool 7)"
    eventually 15 offers tool "$(line "$(tool 11)" "tool-v1.7-$ARCH.raw")"
    delivers "tool/tool-v1.7-$ARCH.raw" "$(tool 11)"
}
check listing-is-a-snapshot snapshot

# From here on no check waits for a listing to grow old.
configure 10-e2e <<<'listing-ttl-sec = 0.2'

moved_tag() {
    push "tool:v1.7-$ARCH" "$(tool 7)"
    eventually 5 offers tool "$(tool_line 7)"
    delivers "tool/tool-v1.7-$ARCH.raw" "$(tool 7)"
}
check moved-tag-moves-back moved_tag
