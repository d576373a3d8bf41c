# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# Versions that are signed, each by itself: what the signatures cost, verified and not.

if ! has nginx; then
    missing 'signed versions' 'nginx is not here'
    return
fi

# list_signed NAME - lists the repository `signed` by $NAME.toml: with nothing known, again, and by the next process. Sets
# ${took[...]}, in seconds, and ${requests[...]} of cold, settled and warm.
declare -A took requests
list_signed() {
    local step
    rm -f "$work"/steps.*
    for _ in $(seq "$RUNS"); do
        forget
        for step in cold settled warm; do
            [ $step = settled ] || serve "$1"
            : > "$work/$1.access"
            curl -fsS -o "$work/listing" -w '%{time_total}\n' "$url/signed/SHA256SUMS" >> "$work/steps.$step"
            [ "$(grep -c raw "$work/listing")" = "$SIGNED" ] || { echo 'wrong listing' >&2; cat "$work/log" >&2; exit 1; }
            [ $step = cold ] || stop "$service"
            # nginx writes a line after it has sent the last byte.
            sleep 0.1
            requests[$step]=$(wc -l < "$work/$1.access")
        done
    done
    for step in cold settled warm; do took[$step]=$(median_of "$work/steps.$step" %.2f); done
}

# signed FORM REGISTRY NAME - the rows of signatures of this form
signed() {
    local form=$1 far step
    local -A unverified
    free_port; far=$port
    "$measure" seed "$2" signed "$SIGNED" "$form" "127.0.0.1:$far/signed" "$work/$form.pub"
    front "$form" "$2" "$far"
    echo 'listing-ttl-sec = 0.01' >> "$work/$form.toml"
    list_signed "$form"
    for step in cold settled warm; do unverified[$step]="${took[$step]} ${requests[$step]}"; done
    printf '[repository.signed]\nverify = [{ key = "%s" }]\n' "$work/$form.pub" >> "$work/$form.toml"
    list_signed "$form"
    for step in cold settled warm; do
        beside "$SIGNED tags with $3, verified beside not, $step" "${took[$step]}" "${unverified[$step]% *}" s
        put "$SIGNED tags with $3, verified beside not, $step: requests" '' "${requests[$step]}" "${unverified[$step]#* }" '' ''
    done
    row "verdicts that are kept: more requests" "$((requests[settled] - ${unverified[settled]#* }))" requests '<= 0'
}

free_port; referrers_registry=127.0.0.1:$port
FERRO_OCI_LISTEN=$referrers_registry RUST_LOG=error background "$port" "$(tests/tools/referrers-registry)"
signed sig-tag "$registry" '.sig tags'
signed bundle "$referrers_registry" 'bundles, referrers API'
