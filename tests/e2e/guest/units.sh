# shellcheck shell=bash
# The units: as systemd judges them, and as they behave. The service has never run before this.

verifies() {
    # Nothing here has manual pages, or man.
    systemd-analyze verify --man=no "$SOCKET" "$SERVICE" sysext-oci-proxy-update@a.{service,timer} |& tee /tmp/remarks
    [ ! -s /tmp/remarks ]
}
check units-verify verifies

# In tenths: 1.1 at most.
check units-exposure systemd-analyze security --threshold=11 "$SERVICE"

enables() {
    systemctl enable --now "$SOCKET"
    is "$SOCKET" active
    same "addresses listened on" 127.0.0.1:5001 "$(ss --no-header --listening --tcp --numeric 'sport = :5001' | awk '{ print $4 }')"
}
check socket-on-loopback-only enables

first_request() {
    image "$SCRATCH/first.raw" squashfs first 1
    push first:v1 "$SCRATCH/first.raw"
    is "$SERVICE" inactive
    listed first "$(line "$SCRATCH/first.raw" first-v1.raw)"
    is "$SERVICE" active
}
check first-request-starts-service first_request

silent_connection() {
    stop_service
    exec 9<>/dev/tcp/127.0.0.1/5001
    sleep 1
    is "$SERVICE" inactive
}
check silent-connection-starts-nothing silent_connection

unprivileged() {
    local pid
    listing first
    pid=$(main_pid)
    [ "$(stat --format=%u "/proc/$pid")" != 0 ] || fail "it runs as root"
    same "capabilities" 0000000000000000 "$(awk '$1 == "CapBnd:" { print $2 }' "/proc/$pid/status")"
}
check service-is-unprivileged unprivileged

caches() {
    [ -n "$(find /var/cache/private/sysext-oci-proxy -type f)" ] || fail "nothing in the cache"
    rm -r /var/cache/private/sysext-oci-proxy/*
    stop_service
    offers first "$(line "$SCRATCH/first.raw" first-v1.raw)"
}
check cache-is-kept-and-may-be-deleted caches
