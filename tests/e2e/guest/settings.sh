# shellcheck shell=bash
# A mistake in the settings: said where, and mended without touching the units.

mistake() {
    local started
    news >/dev/null
    configure 90-mistake <<CONF
# the key is idle-timeout-sec
idle-timeout = 3
CONF
    [ "$(status --max-time 5 "$URL/tool/SHA256SUMS")" != 200 ] || fail "it was served all the same"
    news >/tmp/journal
    grep '90-mistake.toml' /tmp/journal | grep --quiet '2.*idle-timeout' || fail "the journal does not name file and line"
    grep --quiet 'status=78' /tmp/journal || fail "it did not exit with status 78"
    is "$SOCKET" active
    # the client above is gone, but its connection may still be waiting
    started=$(grep --count '^Starting ' /tmp/journal)
    [ "$started" -le 10 ] || fail "it was started $started times in 5 s"
}
check mistake-in-settings mistake

mended() {
    rm /etc/sysext-oci-proxy/config.d/90-mistake.toml
    answers
    is "$SOCKET" active
}
check mended-settings mended
