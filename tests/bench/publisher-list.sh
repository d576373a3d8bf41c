# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# A list that its publisher has signed, of many names.

if ! has nginx; then
    missing 'a signed list' 'nginx is not here'
    return
fi
"$measure" seed-list "$registry" names "$NAMES"
free_port; front names "$registry" "$port"
echo 'listing-ttl-sec = 0.01' >> "$work/names.toml"
for _ in $(seq "$RUNS"); do
    forget
    for step in cold settled warm; do
        [ $step = settled ] || serve names
        : > "$work/names.access"
        # systemd asks for both. A client that never asks for the signature would make the next one wait for a second.
        curl -fsS -o "$work/listing" -o /dev/null -w '%{time_total}\n' "$url/names/SHA256SUMS" "$url/names/SHA256SUMS.gpg" |
            awk '{ sum += $1 } END { print sum }' >> "$work/times.names.$step"
        [ "$(wc -l < "$work/listing")" = "$NAMES" ] || { echo 'wrong listing' >&2; exit 1; }
        [ $step = cold ] || stop "$service"
        # nginx writes a line after it has sent the last byte.
        sleep 0.1
        wc -l < "$work/names.access" > "$work/requests.$step"
    done
done
for step in cold settled warm; do
    row "a signed list of $NAMES names and its signature at $ROUND_TRIP_MS ms, $step" "$(median_of "$work/times.names.$step" %.3f)" s
    row "a signed list of $NAMES names and its signature at $ROUND_TRIP_MS ms, $step: requests" "$(< "$work/requests.$step")" ''
done
