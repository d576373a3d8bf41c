# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# The size of the program, and connections at the moment when it exits.

row 'size of the program' "$(stat -c %s "$program" | awk '{ printf "%.2f", $1 / 1048576 }')" MiB '<= 5'

if IDLE_CONNECTIONS=$IDLE cargo test --quiet --release --test it no_connection_is_lost -- --nocapture > "$work/idle" 2>&1; then
    lost=0
else
    lost=some
fi
answered=$(sed -n 's/^\([0-9]*\) of [0-9]* connections answered, \([0-9]*\) starts$/\1 answered, \2 starts/p' "$work/idle")
if [ $lost = 0 ] && [ -n "$answered" ]; then
    put "connections at the idle deadline: $answered" lost 0 '' '' '<= 0'
else
    put "connections at the idle deadline: ${answered:-no answer}" lost "$lost" '' '' '' MISSED
    sed 's/^/    /' "$work/idle" >&2
    failed=1
fi
