# shellcheck shell=bash
# The command line as a client of the service: whoever asks sees what its clients see.

COMMANDS=$SCRATCH/commands
PRIVATE=localhost:5010/acme/fleet

# as_user COMMAND… - as somebody who has no rights, no logins and no cache
as_user() { setpriv --reuid=65534 --regid=65534 --clear-groups env --chdir="$COMMANDS/user" HOME="$COMMANDS/user" "$@"; }

# exits STATUS COMMAND… - and prints what it says
exits() {
    local found=0
    "${@:2}" || found=$?
    same "the exit status of ${*:2}" "$1" "$found"
}

prepare_commands() {
    mkdir --parents "$COMMANDS/user"
    chown 65534:65534 "$COMMANDS/user"
    # A login that only the service can read.
    login localhost:5010 fleet "$FLEET_PASSWORD" >"$CREDENTIALS"
    chmod 600 "$CREDENTIALS"
    stop_service
}
CREDENTIALS=/etc/credstore/sysext-oci-proxy.auth
mkdir --parents /etc/credstore
check prepare-commands prepare_commands

all_see_the_same() {
    local expected
    expected=$(sysext-oci-proxy list "$PRIVATE")
    grep --fixed-strings "fleet-v1.raw" <<<"$expected"
    grep --fixed-strings "$(sha256 "$(fleet_image 1)")" <<<"$expected"
    same "the list of a user" "$expected" "$(as_user sysext-oci-proxy list "$PRIVATE")"
    same "the list of an address" "$expected" "$(as_user sysext-oci-proxy list "$URL/$PRIVATE/SHA256SUMS")"
    same "the JSON" "$(fetch --header 'Accept: application/json' "$URL/$PRIVATE/" | jq 'del(.listed)')" \
        "$(as_user sysext-oci-proxy list --json "$PRIVATE" | jq 'del(.listed)')"
    # Whoever asks the registry themselves has their own rights.
    exits 69 as_user sysext-oci-proxy list --direct "$PRIVATE" 2>&1 | grep --fixed-strings 'wants a login for localhost:5010'
}
check list-is-the-same-for-root-and-users all_see_the_same

fetches() {
    same "the path that is printed" fleet-v1.raw "$(as_user sysext-oci-proxy fetch "$PRIVATE")"
    cmp "$COMMANDS/user/fleet-v1.raw" "$(fleet_image 1)"
    same "its owner and mode" "65534 644" "$(stat --format='%u %a' "$COMMANDS/user/fleet-v1.raw")"
    as_user sysext-oci-proxy fetch "$PRIVATE/fleet-v1.raw" --output - | cmp - "$(fleet_image 1)"
    exits 1 as_user sysext-oci-proxy fetch "$PRIVATE" --version 77
    exits 69 as_user sysext-oci-proxy fetch "$PRIVATE" --output /usr
}
check fetch-as-a-user fetches

# On a terminal: no line of the table is longer than 80 columns, sizes have units, and a bar is drawn only there.
on_a_terminal() {
    local list fetched
    list=$(script --quiet --command "sysext-oci-proxy list $PRIVATE" /dev/null | tr --delete '\r')
    grep --extended-regexp 'fleet-v1.raw +[0-9.]+ [KM]iB' <<<"$list"
    [ "$(wc --max-line-length <<<"$list")" -le 80 ]
    fetched=$(script --quiet --command "sysext-oci-proxy fetch $PRIVATE --output $COMMANDS/terminal.raw" /dev/null)
    cmp "$COMMANDS/terminal.raw" "$(fleet_image 1)"
    grep --fixed-strings terminal.raw <<<"$fetched"
    same "standard error without a terminal" '' "$(sysext-oci-proxy fetch "$PRIVATE" --output "$COMMANDS" 2>&1 >/dev/null)"
}
check people-and-programs-get-their-form on_a_terminal

no_service() {
    local said
    systemctl stop "$SOCKET" "$SERVICE"
    said=$(exits 69 as_user sysext-oci-proxy list "$PRIVATE" 2>&1)
    [[ $said = *"$SOCKET"* && $said = *--direct* ]] || fail "it says '$said'"
}
check no-service-names-the-unit no_service

stranger() {
    local said
    systemd-run --quiet --collect --unit=stranger --uid=65534 sysext-oci-proxy serve --listen 127.0.0.1:5001
    eventually 10 fetch "$URL/"
    said=$(sysext-oci-proxy list "$PRIVATE" 2>&1 || true)
    systemctl stop stranger.service
    [[ $said = *"port 5001 belongs to user 65534"* ]] || fail "it says '$said'"
}
check a-strangers-service-is-warned-of stranger

ends() {
    rm "$CREDENTIALS"
    systemctl start "$SOCKET"
    eventually 10 fetch "$URL/"
    same "what is said of systemd's socket" '' "$(sysext-oci-proxy list extensions 2>&1 >/dev/null | grep belongs || true)"
}
check systemds-socket-is-no-stranger ends
