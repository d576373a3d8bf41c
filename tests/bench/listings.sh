# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# Listings, beside a client that sends only the requests needed: tests/bench/listings.rs.

"$built/release/examples/listings" "$program" "$RUNS" > "$work/listings"
put_all < "$work/listings"

# The same of docker-registry, which takes longer for an answer than the registry of the tests.
for temperature in cold warm; do
    for _ in $(seq "$RUNS"); do
        [ $temperature = warm ] || forget
        serve far
        fetch "$url/hello/SHA256SUMS"
        lines=$(curl -fsS "$url/hello/SHA256SUMS" | wc -l)
        [ "$lines" = "$TAGS" ] || { echo "$lines lines instead of $TAGS" >&2; exit 1; }
        stop "$service"
    done > "$work/times"
    [ $temperature = cold ] && limit=0.9 || limit=0.7
    row "listing of $TAGS tags of docker-registry at $ROUND_TRIP_MS ms, $temperature" "$(median_of "$work/times" %.2f)" s "<= $limit"
done
