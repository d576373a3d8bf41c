# shellcheck shell=bash
# Networks that fail in the middle: the client sees one whole body, whatever happens behind it.

LARGE=$SCRATCH/large
RELAY=localhost:5070

# relay OPTION… - between the service and the registry, until it is stopped
relay() {
    systemd-run --quiet --collect --unit=relay /e2e/tests/relay "${RELAY#*:}" "${REGISTRY#*:}" "$@"
    eventually 20 curl --fail --silent "http://$RELAY/v2/"
}

make_large() {
    mkdir -p "$LARGE"
    head --bytes=256M /dev/urandom >"$LARGE/cut-v1.raw"
    push cut:v1 "$LARGE/cut-v1.raw"
    configure cut <<CONF
[repository.cut]
source = "$RELAY/cut"
CONF
}
check make-large-images make_large

transfer cut url-file cut-@v.raw regular-file cut-@v.raw cut.raw

cut_every_3_mib() {
    local breaks
    relay --cut=$((3 << 20))
    news >/dev/null
    sysupdate cut update
    cmp "$LARGE/cut-v1.raw" /opt/extensions/cut/cut-v1.raw
    breaks=$(news | grep --count "broke off")
    [ "$breaks" -ge 80 ] || fail "only $breaks connections broke off"
    systemctl stop relay.service
}
check download-cut-every-3-mib cut_every_3_mib

registry_away() {
    local update
    mv "$LARGE/cut-v1.raw" "$LARGE/cut-v2.raw"
    printf 2 | dd of="$LARGE/cut-v2.raw" conv=notrunc status=none
    push cut:v2 "$LARGE/cut-v2.raw"
    relay --rate=$((16 << 20))
    stop_service
    news >/dev/null
    sysupdate cut update &
    update=$!
    eventually 20 partly_there
    stop_registry
    sleep 20
    start_registry
    wait "$update"
    cmp "$LARGE/cut-v2.raw" /opt/extensions/cut/cut-v2.raw
    news | grep "broke off"
    systemctl stop relay.service
}
partly_there() { find /opt/extensions/cut -type f ! -name cut-v1.raw -size +16M | grep .; }
check download-registry-away-for-20-s registry_away

unconfigure cut
rm --recursive "$LARGE" /opt/extensions/cut /var/lib/extensions/cut.raw
