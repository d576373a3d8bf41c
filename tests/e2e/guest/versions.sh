# shellcheck shell=bash
# Which versions systemd-sysupdate sees: versions, exclude, hold, and the directory of all.

fill_pinned() {
    local n
    for n in 1.30.2 1.31.2 1.31.3 1.31.4 1.31.10 1.32.0; do
        echo "$n" >"$SCRATCH/pinned.raw"
        push "pinned:v$n-$ARCH" "$SCRATCH/pinned.raw"
    done
    transfer pinned url-file pinned-v@v-%a.raw regular-file pinned-@v.raw pinned.raw
    transfer pinned-all url-file pinned-v@v-%a.raw regular-file pinned-all-@v.raw pinned-all.raw
    sed --in-place "s,$URL/.*,$URL/pinned+all," /etc/sysupdate.pinned-all.d/pinned-all.transfer
}
check versions-publish fill_pinned
check versions-all-without-a-setting versions pinned 1.32.0 1.31.10 1.31.4 1.31.3 1.31.2 1.30.2

updates_pinned() { sysupdate pinned update; same "the file" 1.32.0 "$(cat /opt/extensions/pinned/pinned-1.32.0.raw)"; }
check versions-newest-is-installed updates_pinned

# What stood in the journal before this theme.
news >/dev/null

configure 20-pinned <<<'[repository.pinned]
versions = ["1.31.*"]
exclude = ["1.31.4"]
hold = "v1.31.3"'

# sysupdate still lists what is installed.
held() {
    local found
    found=$(listing pinned | cut --characters 67-)
    same "the listing" "$(printf 'pinned-v%s-%s.raw\n' 1.31.2 "$ARCH" 1.31.3 "$ARCH")" "$found"
    versions pinned 1.32.0 1.31.3 1.31.2
}
check versions-held held

# Pinned, then removed: the next night does not bring the newer one again.
goes_back() {
    rm /opt/extensions/pinned/pinned-1.32.0.raw
    sysupdate pinned update
    same "the installed versions" pinned-1.31.3.raw "$(ls /opt/extensions/pinned)"
    ! sysupdate pinned check-new || fail "there is a newer version"
}
check versions-back-to-an-older-one goes_back

sees_all() {
    versions pinned-all 1.32.0 1.31.10 1.31.4 1.31.3 1.31.2 1.30.2
    sysupdate pinned-all update
    same "the file" 1.32.0 "$(cat /opt/extensions/pinned-all/pinned-all-1.32.0.raw)"
}
check versions-all-are-in-a-directory-of-their-own sees_all

told_once() {
    local lines
    listing pinned >/dev/null
    stop_service
    listing pinned >/dev/null
    lines=$(news | grep --count 'was offered before')
    same "the warnings of an older newest version" 1 "$lines"
}
check versions-an-older-newest-one-is-told-once told_once

# They are no extensions.
rm /var/lib/extensions/pinned.raw /var/lib/extensions/pinned-all.raw
unconfigure 20-pinned
