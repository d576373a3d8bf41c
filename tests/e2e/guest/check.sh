# shellcheck shell=bash
# `check` with the real systemd: faults are planted, and found with their remedies. The steps of the service and of the
# registry; nothing that it finds may need more rights than a user has.

CHECK_DROP_IN=/etc/systemd/system/$SERVICE.d/check.conf

check_as_user() { setpriv --reuid=65534 --regid=65534 --clear-groups env --chdir=/ HOME=/nonexistent sysext-oci-proxy check "$@"; }

prepare_check() {
    image "$SCRATCH/checked.raw" squashfs checked 1
    push checked:v1 "$SCRATCH/checked.raw"
    systemctl enable --now "$SOCKET"
}
check check-prepare prepare_check

# The steps up to the signatures of the repository that are not well, of a list of findings as JSON.
not_well() {
    jq --compact-output '["socket", "port", "settings", "cache", "state", "service", "clock", "proxy", "resolution",
        "connection", "tls", "login", "tags", "names", "signatures"] as $steps |
        ($steps - map(select(.status == "ok").step)) + map(select(.status != "ok" and (.step | IN($steps[]))))'
}

well() {
    same "what is wrong, for root" '[]' "$({ sysext-oci-proxy check --json checked || true; } | not_well)"
    same "what is wrong, for a user" '[]' "$({ check_as_user --json checked || true; } | not_well)"
}
check check-finds-nothing-where-nothing-is-wrong well

# finds STEP TEXT… - for root and for a user it fails, and the line or its remedy has each text
finds() {
    local step=$1 who output lines text status
    shift
    for who in sysext-oci-proxy\ check check_as_user; do
        status=0
        output=$($who checked) || status=$?
        echo "$output"
        same "the exit status of $who" 1 "$status"
        lines=$(grep --after-context=1 --extended-regexp "^failed +$step " <<<"$output")
        for text; do
            [[ $lines = *"$text"* ]] || fail "$who: no '$text' in '$lines'"
        done
    done
}

not_enabled() {
    systemctl disable --now "$SOCKET"
    finds socket "does not listen" "systemctl enable --now $SOCKET"
    systemctl mask "$SOCKET"
    finds socket "is masked" "systemctl unmask $SOCKET"
    systemctl unmask "$SOCKET"
}
check check-finds-a-socket-that-is-off not_enabled

is_taken() { [ -n "$(ss --no-header --listening --tcp --numeric 'sport = :5001')" ]; }

# A user holds the port, and systemd cannot have it.
taken() {
    systemd-run --quiet --unit=stranger setpriv --reuid=65533 --regid=65533 --clear-groups \
        systemd-socket-activate --listen=127.0.0.1:5001 cat
    eventually 10 is_taken
    ! systemctl start "$SOCKET" || fail "systemd has the port"
    finds port "a program of user 65533 listens on port 5001" "ss -ltnp"
    systemctl stop stranger.service
    systemctl reset-failed "$SOCKET"
    systemctl enable --now "$SOCKET"
}
check check-finds-another-program-on-the-port taken

not_started() {
    mkdir --parents "${CHECK_DROP_IN%/*}"
    printf '[Service]\nExecStart=\nExecStart=/nonexistent/sysext-oci-proxy serve\n' >"$CHECK_DROP_IN"
    systemctl daemon-reload
    stop_service
    finds service "exit status 203" "ExecStart="
    rm "$CHECK_DROP_IN"
    systemctl daemon-reload
    systemctl stop "$SERVICE" "$SOCKET"
    systemctl reset-failed "$SERVICE" "$SOCKET" || true
    systemctl start "$SOCKET"
}
check check-finds-a-service-that-does-not-start not_started

mistaken() {
    configure 30-check <<<'
registri = "localhost:5000"'
    finds settings "/etc/sysext-oci-proxy/config.d/30-check.toml:2" "correct the settings"
    configure 30-check <<<'parallel = 4'
    chmod 600 /etc/sysext-oci-proxy/config.d/30-check.toml
    finds settings "30-check.toml" "chmod a+rX"
    unconfigure 30-check
}
check check-finds-mistakes-in-settings mistaken

down() {
    stop_registry
    stop_service
    finds connection "cannot connect to http://$REGISTRY/" "curl -v"
    start_registry
}
check check-finds-a-registry-that-is-down down

check check-finds-nothing-afterwards well
