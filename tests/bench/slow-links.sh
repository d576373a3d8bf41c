# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# A registry that limits each connection: several connections for one file, beside one.

MEGABYTES=20 MIB=64
zeros "$MIB" slow
free_port; slow=127.0.0.1:$port
relay "$slow" "$registry" 0 "$MEGABYTES"
for count in 1 4; do settings "slow-$count" "$slow" '[repository.big]' "download-connections = $count"; done
for _ in $(seq "$RUNS"); do
    for count in 1 4; do
        serve "slow-$count"
        curl -fsS -o /dev/null "$url/big/SHA256SUMS"
        fetch "$url/big/big-slow.raw" >> "$work/times.slow.$count"
        stop "$service"
    done
done
# megabytes COUNT - prints the MB/s over COUNT connections
megabytes() { calculate %.1f "$MIB * 1.048576 / $(median < "$work/times.slow.$1")"; }
beside "$MIB MiB, $MEGABYTES MB/s a connection: 4 download-connections beside 1" "$(megabytes 4)" "$(megabytes 1)" MB/s '>= 3.5'
