# shellcheck shell=bash
# Reload and restart in the middle of downloads: what is finished, what is cut, and what the journal says of it.

LARGE=1073741824 # bytes: 51 s at the rate of these downloads
MEDIUM=314572800 # 15 s
RATE=20M

fill_restarts() {
    truncate --size=$LARGE "$SCRATCH/large.raw"
    truncate --size=$MEDIUM "$SCRATCH/medium.raw"
    push restarts:v1 "$SCRATCH/large.raw"
    push restarts:v2 "$SCRATCH/medium.raw"
    listed restarts "$(line "$SCRATCH/large.raw" restarts-v1.raw)" "$(line "$SCRATCH/medium.raw" restarts-v2.raw)"
}
check fill-registry-for-restarts fill_restarts

# slowly PATH FILE - it arrives at 20 MiB/s, and whole
slowly() { fetch --max-time 120 --limit-rate $RATE "$URL/$1" | cmp - "$2"; }

since() { awk -v then="$1" -v now="$EPOCHREALTIME" 'BEGIN { printf "%.1f", now - then }'; }

reload() {
    local started=$EPOCHREALTIME begun pid client
    slowly restarts/restarts-v1.raw "$SCRATCH/large.raw" &
    client=$!
    sleep 5
    pid=$(main_pid)
    [[ $(systemctl show --property=StatusText --value "$SERVICE") = *'restarts-v1.raw '[1-9]*' %'* ]] ||
        fail "the status is $(systemctl show --property=StatusText --value "$SERVICE")"
    echo "[repository.reloaded]
source = \"$REGISTRY/restarts\"" >/etc/sysext-oci-proxy/config.d/60-reload.toml
    begun=$EPOCHREALTIME
    systemctl try-reload-or-restart "$SERVICE"
    offers reloaded "$(line "$SCRATCH/medium.raw" reloaded-v2.raw)"
    echo "reload: a second client was answered by the new settings $(since "$begun") s after it"
    same "the process" "$pid" "$(main_pid)"
    wait $client
    echo "reload: the download that was at 5 s ended whole $(since "$begun") s after it"
    eventually 5 is "$SERVICE" inactive
    same "the result" success "$(systemctl show --property=Result --value "$SERVICE")"
    # Also while it is not running.
    systemctl try-reload-or-restart "$SERVICE"
    is "$SERVICE" inactive
    offers reloaded "$(line "$SCRATCH/medium.raw" reloaded-v2.raw)"
    warns_of_nothing "$started"
}
check reload-loses-nothing reload

reload_of_a_mistake() {
    local pid
    listing restarts
    pid=$(main_pid)
    echo 'no-such-key = 1' >/etc/sysext-oci-proxy/config.d/61-mistake.toml
    ! systemctl try-reload-or-restart "$SERVICE" || fail "the mistake is accepted"
    rm /etc/sysext-oci-proxy/config.d/61-mistake.toml
    same "the process" "$pid" "$(main_pid)"
    listing restarts
}
check reload-of-a-mistake-changes-nothing reload_of_a_mistake
unconfigure 60-reload

restart() {
    local started begun large medium waiting cut
    listing restarts
    started=$EPOCHREALTIME
    (slowly restarts/restarts-v1.raw "$SCRATCH/large.raw") &
    large=$!
    (slowly restarts/restarts-v2.raw "$SCRATCH/medium.raw") &
    medium=$!
    sleep 3
    begun=$EPOCHREALTIME
    systemctl try-restart --no-block "$SERVICE"
    sleep 1
    (fetch --output /dev/null "$URL/restarts/SHA256SUMS") &
    waiting=$!
    wait $medium
    echo "restart: a download of $MEDIUM bytes ended whole $(since "$begun") s after it"
    ! wait $large || fail "the large one is not cut"
    echo "restart: a download of $LARGE bytes was cut $(since "$begun") s after it"
    wait $waiting
    echo "restart: a client that came meanwhile was answered $(since "$begun") s after it"
    cut=$(warnings "$started")
    echo "$cut"
    [[ $cut = 'GET /restarts/restarts-v1.raw: answer cut short at '*' MiB of 1.0 GiB ('[1-9]*' %), for the service was told to stop' ]] ||
        fail "the journal says: $cut"
    journalctl --unit="$SERVICE" MESSAGE_ID=01ee48d9a5de4a42be445c8a03fe19e3 FILE=restarts-v1.raw --output=json --lines=1 |
        jq --exit-status '.REPOSITORY == "restarts" and .PRIORITY == "4" and (.BYTES | tonumber) > 100000000'
}
check restart-finishes-what-ends-in-time-and-tells-of-the-rest restart

# ---- the journal of a download

fields() {
    local path=restarts/restarts-v2.raw
    delivers $path "$SCRATCH/medium.raw"
    journalctl --sync
    journalctl --unit="$SERVICE" MESSAGE_ID=e3ed8546536644ab9e52f158fd09b969 --output=json --lines=1 >/tmp/entry
    jq . /tmp/entry
    jq --exit-status --arg source "$REGISTRY/restarts" --arg digest "sha256:$(sha256 "$SCRATCH/medium.raw")" '
        .REPOSITORY == "restarts" and .FILE == "restarts-v2.raw" and .TAG == "v2" and .SOURCE == $source and .ORIGIN == $source
        and .DIGEST == $digest and .BYTES == "314572800" and (.USEC | tonumber) > 1000 and .VERIFIED_BY == "digest"
        and .PRIORITY == "6" and .SYSLOG_IDENTIFIER == "sysext-oci-proxy"' /tmp/entry
}
check journal-has-the-fields-of-a-download fields

explains() {
    journalctl --update-catalog
    same "explained" "$(grep --count '^-- ' /usr/local/lib/systemd/catalog/sysext-oci-proxy.catalog)" \
        "$(journalctl --list-catalog | grep --count 'OCI registry proxy\|@FILE@\|@REPOSITORY@\|@ORIGIN@\|A broken download')"
    journalctl --unit="$SERVICE" MESSAGE_ID=e3ed8546536644ab9e52f158fd09b969 --lines=1 --catalog |
        grep --quiet --fixed-strings 'Subject: A client has received restarts-v2.raw'
}
check journalctl-explains-them explains
