# shellcheck shell=bash
# The registry goes away, the service is killed: the client hears of it, and the next one is served.

answers() { same "the status" 200 "$(status "$URL/tool/SHA256SUMS")"; }

registry_down() {
    stop_registry
    sleep 0.5 # no listing is that old
    refuses '502|503|504' tool/SHA256SUMS
    ! sysupdate tool list || fail "systemd-sysupdate found versions"
}
check registry-down registry_down
start_registry
check registry-back answers

# A listing promises a file that its registry has lost.
blob_gone() {
    local digest data
    image "$SCRATCH/gone.raw" squashfs gone 1
    push gone:v1 "$SCRATCH/gone.raw"
    digest=$(sha256 "$SCRATCH/gone.raw")
    data=$SCRATCH/registry/docker/registry/v2/blobs/sha256/${digest:0:2}/$digest/data
    transfer gone url-file gone-@v.raw regular-file gone-@v.raw gone.raw
    mv "$data" "$data.away"
    refuses '404|502' gone/gone-v1.raw
    ! sysupdate gone update || fail "systemd-sysupdate installed it"
    mv "$data.away" "$data"
    # at once: nothing of the failure was left behind
    sysupdate gone update
    cmp /opt/extensions/gone/gone-v1.raw "$SCRATCH/gone.raw"
}
check blob-gone-and-back blob_gone

# The registry's disk has other bytes than the digest says.
blob_wrong() {
    local digest data
    dd if=/dev/urandom of="$SCRATCH/wrong.raw" bs=1M count=4 status=none
    push wrong:v1 "$SCRATCH/wrong.raw"
    digest=$(sha256 "$SCRATCH/wrong.raw")
    data=$SCRATCH/registry/docker/registry/v2/blobs/sha256/${digest:0:2}/$digest/data
    printf 'x' | dd of="$data" bs=1 seek=2000000 conv=notrunc status=none
    ! fetch --output /tmp/wrong "$URL/wrong/wrong-v1.raw" || fail "it arrived whole"
    [ "$(stat --format=%s /tmp/wrong)" -lt 4194304 ] || fail "it arrived whole"
}
check wrong-bytes-never-arrive-whole blob_wrong

killed() {
    local pid
    answers
    pid=$(main_pid)
    kill -KILL "$pid"
    answers
    [ "$(main_pid)" != "$pid" ]
}
check service-killed-and-back killed

stopped() { stop_service; answers; }
check service-stopped-and-back stopped

fill_big() {
    dd if=/dev/urandom of="$SCRATCH/big.raw" bs=1M count=128 status=none
    push big:v1 "$SCRATCH/big.raw"
    transfer big url-file big-@v.raw regular-file big-@v.raw big.raw
    # 128 MiB are too much for the container's memory
    mkdir -p "$SCRATCH/big" /opt/extensions
    ln --symbolic "$SCRATCH/big" /opt/extensions/big
}
check fill-big fill_big

parallel() {
    local client clients=()
    for _ in {1..6}; do
        delivers big/big-v1.raw "$SCRATCH/big.raw" &
        clients+=($!)
    done
    for client in "${clients[@]}"; do wait "$client"; done
}
check parallel-downloads parallel

killed_download() {
    local client status=0
    # The service gives up after a minute, and so does this elsewhere.
    fetch --max-time 120 --limit-rate 4M --output "$SCRATCH/part" "$URL/big/big-v1.raw" &
    client=$!
    sleep 1
    kill -KILL "$(main_pid)"
    wait "$client" || status=$?
    # a partial file, or a connection reset
    [[ $status = 18 || $status = 56 ]] || fail "curl ended with $status"
    delivers big/big-v1.raw "$SCRATCH/big.raw"
}
check killed-in-a-download killed_download

killed_update() {
    local client
    sysupdate big update &
    client=$!
    # a part of it is there
    eventually 20 find_part
    kill -KILL "$(main_pid)"
    ! wait "$client" || fail "systemd-sysupdate says it has updated"
    [ ! -e "$SCRATCH/big/big-v1.raw" ] || fail "it is installed"
    # systemd 262 keeps the part, and wants to be told that it may go
    sysupdate big vacuum
    sysupdate big update
    cmp "$SCRATCH/big/big-v1.raw" "$SCRATCH/big.raw"
}
find_part() { [ -n "$(find "$SCRATCH/big" -name '.*' -type f -size +0)" ]; }
check killed-in-an-update killed_update

registry_killed() {
    local client status=0
    # The service gives up after a minute, and so does this elsewhere.
    fetch --max-time 120 --limit-rate 4M --output "$SCRATCH/part" "$URL/big/big-v1.raw" &
    client=$!
    sleep 1
    systemctl kill --signal=KILL 'registry-*.service'
    wait "$client" || status=$?
    [[ $status = 18 || $status = 56 ]] || fail "curl ended with $status"
    [ "$(stat --format=%s "$SCRATCH/part")" -lt $((128 * 1024 * 1024)) ]
}
check registry-killed-in-a-download registry_killed
registry_is_gone() { ! systemctl --quiet is-active 'registry-*.service'; }
eventually 10 registry_is_gone
start_registry
check registry-restarted answers
