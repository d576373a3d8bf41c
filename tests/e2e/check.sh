# shellcheck shell=bash
# How a check is made. Sourced.

# check NAME COMMAND… - runs COMMAND, a function as a rule, and prints one line about it. A check fails with its
# first command that does; the reason is the last line it printed. All of its output goes to $LOG.
check() {
    local name=$1 output status begun=$SECONDS
    shift
    # A condition would switch -e off in all of COMMAND.
    set +e
    output=$(
        exec 2>&1 </dev/null
        trap 'echo "${BASH_SOURCE##*/}:$LINENO: $BASH_COMMAND" >&2' ERR
        set -eE
        "$@"
    )
    status=$?
    set -e
    printf '== %s (%s) %s s\n%s\n' "$name" "$status" "$((SECONDS - begun))" "$output" >>"$LOG"
    if [ "$status" = 0 ]; then
        echo "ok $name"
    else
        echo "FAIL $name: $(tail --lines=1 <<<"${output:-exit status $status}")"
    fi
}

fail() {
    echo "$*"
    exit 1
}

# same WHAT EXPECTED FOUND
same() {
    [ "$2" = "$3" ] || { diff <(echo "$2") <(echo "$3") || true; fail "$1: expected '${2//$'\n'/ | }', found '${3//$'\n'/ | }'"; }
}

# eventually SECONDS COMMAND… - until it succeeds
eventually() {
    local end=$((SECONDS + $1))
    shift
    until "$@" &>/dev/null; do
        [ $SECONDS -lt $end ] || fail "not within time: $*"
        sleep 0.1
    done
}
