# shellcheck shell=bash
# It leaves when nobody wants anything, and nobody notices.

leaves() {
    configure 50-idle <<<'idle-timeout-sec = 1'
    answers
    eventually 5 is "$SERVICE" inactive
    same "the result" success "$(systemctl show --property=Result --value "$SERVICE")"
    is "$SOCKET" active
    answers
}
check idle-exit leaves

stays() {
    local pid client
    answers
    pid=$(main_pid)
    # longer than the timeout, and never silent
    fetch --limit-rate 16M --output /dev/null "$URL/big/big-v1.raw" &
    client=$!
    sleep 3
    same "the process" "$pid" "$(main_pid)"
    wait "$client"
}
check download-is-not-idle stays

# The pauses end around the moment when the service leaves.
none_lost() {
    local n pause found started
    configure 50-idle <<<'idle-timeout-sec = 0.05'
    news >/dev/null
    for n in {1..500}; do
        found=$(status "$URL/first/first-v1.raw")
        [ "$found" = 200 ] || fail "request $n: status $found"
        printf -v pause '0.0%02d' $((n % 60)) # on a busy machine they take longer
        sleep "$pause"
    done
    started=$(news | grep --count '^Started ')
    echo "started $started times"
    # some come before that moment and some after it
    [[ $started -ge 50 && $started -le 450 ]] || fail "the requests missed the moment: started $started times"
    is "$SOCKET" active
}
check idle-exit-loses-nothing none_lost
unconfigure 50-idle
