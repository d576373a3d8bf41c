# shellcheck shell=bash disable=SC2164 # a check ends with the first command that fails
# A list that is signed anew all the time, verified by systemd-pull as systemd-sysupdate calls it.

LISTS=150 PAIRS=300

# Puts LISTS lists, each with its signature, into the repository `signed`, and the key where systemd looks for it.
publish_lists() {
    local keyring=/etc/systemd/import-pubring.gpg n
    [ "$(systemctl --version | awk 'NR == 1 { print int($2) }')" -lt 258 ] || keyring=/etc/systemd/import-pubring.pgp
    mkdir -p "$SCRATCH/signed"
    cd "$SCRATCH/signed"
    export GNUPGHOME=$SCRATCH/signed/gnupg
    mkdir -m 700 "$GNUPGHOME"
    gpg --batch --passphrase '' --quick-gen-key signer@example.org default default never
    gpg --export signer@example.org >$keyring
    for ((n = 0; n < LISTS; n++)); do
        echo "$(echo "$n" | sha256sum | cut -d ' ' -f 1)  signed-$n.raw" >SHA256SUMS
        gpg --batch --yes --output SHA256SUMS.gpg --detach-sign SHA256SUMS
        oras push --plain-http --no-tty --export-manifest "$n.json" "$REGISTRY/signed:list-$n" SHA256SUMS SHA256SUMS.gpg
    done
}
check signed-publish publish_lists

move_tag() {
    fetch --request PUT --data-binary "@$SCRATCH/signed/$1.json" \
        --header 'Content-Type: application/vnd.oci.image.manifest.v1+json' "http://$REGISTRY/v2/signed/manifests/SHA256SUMS"
}

# Signs the list anew five times a second, until it is killed.
sign_anew() {
    local n
    for ((n = 0; ; n = (n + 1) % LISTS)); do
        move_tag "$n"
        sleep 0.2
    done
}

# pull FILE - a list and its signature, at once, as systemd-sysupdate gets them
pull() { /usr/lib/systemd/systemd-pull raw --direct --verify=signature "$URL/signed/SHA256SUMS" - >"$1" 2>"$1.log"; }

# pull_pairs NAME NUMBER PAUSE - prints how many of them did not fit, and keeps the lists
pull_pairs() {
    local n failed=0
    for ((n = 0; n < $2; n++)); do
        pull "$1.$n" || { failed=$((failed + 1)); cat "$1.$n.log" >&2; mv "$1.$n.log" "$1.$n.failed.log"; }
        # so that there are enough lists for the pairs
        sleep "$3"
    done
    echo "$failed"
}

# lists_seen NAME - how many different lists were pulled
lists_seen() { cat "$1".*[0-9] | sort --unique | wc --lines; }

# each_pair_fits TTL PAUSE - no BAD signature in 300 pairs at least, and as many more as it takes to see 100 different lists
each_pair_fits() {
    local failed lists pairs=$PAIRS more
    configure 10-e2e <<<"listing-ttl-sec = $1"
    cd "$(mktemp --directory)"
    move_tag 0
    sign_anew &>/dev/null &
    signer=$!
    trap 'kill "$signer"' EXIT
    failed=$(pull_pairs pair "$PAIRS" "$2")
    lists=$(lists_seen pair)
    for more in 1 2 3 4 5 6; do
        [ "$lists" -lt 100 ] || break
        failed=$((failed + $(pull_pairs "pair.$more" 50 "$2")))
        pairs=$((pairs + 50)) lists=$(lists_seen pair)
    done
    # A registry that is asked while it writes the tag may answer 500: that is an error, and no pair.
    echo "$pairs pairs, $lists lists, $failed failed"
    same "pairs that do not fit" 0 "$(cat pair.*.log | grep --count 'BAD signature')"
    [ "$failed" -le $((pairs / 20)) ] || fail "$failed of $pairs pairs failed"
    same "pairs that failed for another reason" "" "$(find . -name '*.failed.log' -exec grep --files-without-match 'failed with code 502' {} +)"
    [ "$lists" -ge 100 ] || fail "only $lists lists were seen"
}
check signed-pairs-fit-without-a-listing-time each_pair_fits 0 0.15
check signed-pairs-fit each_pair_fits 0.5 0.3

# Nothing in HTTP ties the two requests of one client together. How many pairs do not fit is only measured.
side_by_side() {
    local client clients=()
    configure 10-e2e <<<"listing-ttl-sec = $1"
    cd "$(mktemp --directory)"
    move_tag 0
    sign_anew &>/dev/null &
    signer=$!
    trap 'kill "$signer"' EXIT
    for client in 1 2 3 4; do
        pull_pairs "client$client" $((PAIRS / 4)) 0.15 >"failed.$client" &
        clients+=($!)
    done
    wait "${clients[@]}"
    echo "four clients at once, listing-ttl-sec = $1: $(($(paste --serial --delimiters=+ failed.*[0-9] | paste --serial --delimiters=+))) of $PAIRS pairs failed"
}
check signed-four-clients-without-a-listing-time side_by_side 0

configure 10-e2e <<<'listing-ttl-sec = 0.2'
