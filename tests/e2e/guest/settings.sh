# shellcheck shell=bash
# A mistake in the settings: said where, and mended without touching the units.

mistake() {
    local started
    news >/dev/null
    configure 90-mistake <<CONF
# the key is idle-timeout-sec
idle-timeout = 3
CONF
    # The client hears of it at once.
    same "the answer" 500 "$(status --max-time 5 --dump-header /tmp/head "$URL/tool/SHA256SUMS")"
    grep --quiet '^X-Reason: .*90-mistake.toml:2: .*idle-timeout' /tmp/head || fail "$(cat /tmp/head)"
    eventually 20 is "$SERVICE" failed
    news >/tmp/journal
    grep '90-mistake.toml' /tmp/journal | grep --quiet '2.*idle-timeout' || fail "the journal does not name file and line"
    grep --quiet 'status=78' /tmp/journal || fail "it did not exit with status 78"
    is "$SOCKET" active
    # one client, one try
    started=$(grep --count '^Starting ' /tmp/journal)
    same "starts" 1 "$started"
}
check mistake-in-settings mistake

mended() {
    rm /etc/sysext-oci-proxy/config.d/90-mistake.toml
    answers
    is "$SOCKET" active
}
check mended-settings mended
