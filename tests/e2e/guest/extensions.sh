# shellcheck shell=bash
# Disk images: from the registry to /usr, by systemd-sysupdate and systemd-sysext.

transfer tool url-file tool-@v-%a.raw regular-file tool-@v-%a.raw tool.raw

# installed N - the version 1.N is there as it was pushed, and the current one
installed() {
    local file=/opt/extensions/tool/tool-v1.$1-$ARCH.raw
    cmp "$file" "$(tool "$1")"
    same "the current version" "$file" "$(realpath /var/lib/extensions/tool.raw)"
}

check sysupdate-list versions tool v1.9 v1.7 v1.6
check sysupdate-check-new newest tool v1.9

updates_to() { sysupdate tool update v1.6; installed 6; }
check sysupdate-update-to-a-version updates_to
check sysext-erofs-in-usr merged tool 1.6

updates() { sysupdate tool update; installed 9; }
check sysupdate-update updates
check sysext-squashfs-in-usr merged tool 1.9

nothing_new() {
    ! sysupdate tool check-new || fail "there is a newer version"
    sysupdate tool update
    installed 9
}
check sysupdate-has-nothing-new nothing_new

new_version() {
    push "tool:v1.10-$ARCH" "$(tool 10)"
    eventually 5 offers tool "$(tool_line 10)"
    newest tool v1.10
    sysupdate tool update
    installed 10
    merged tool 1.10
}
check new-version-is-installed new_version

instances_max() {
    same "installed versions" "tool-v1.10-$ARCH.raw
tool-v1.9-$ARCH.raw" "$(ls /opt/extensions/tool)"
}
check instances-max instances_max

imports() {
    importctl --class=sysext --verify=checksum pull-raw "$URL/tool/tool-v1.9-$ARCH.raw" imported
    cmp /var/lib/extensions/imported.raw "$(tool 9)"
    # it must not be merged: what is in it is the extension "tool"
    rm --force /var/lib/extensions/imported.raw
}
check importctl-pull-raw imports
