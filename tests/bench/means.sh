# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# Processes, ports, times and memory: functions that all parts use.

work=$(mktemp -d)
started=()
stop() { if kill "$1" 2>/dev/null; then wait "$1" 2>/dev/null || true; fi; }
# shellcheck disable=SC2317 # called by the trap
clean_up() {
    for pid in "${started[@]}"; do stop "$pid"; done
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

has() { command -v "$1" >/dev/null; }

# Below the ports that the kernel gives out by itself.
next_port=$((12000 + RANDOM % 18000))
# free_port - sets $port to one where nobody listens
free_port() {
    while next_port=$((next_port + 1)); ss -Hltn "sport = :$next_port" | grep -q .; do :; done
    port=$next_port
}
# background PORT COMMAND... - starts it and waits until it listens; its id is $! then
background() {
    local port=$1 n=0
    shift
    "$@" >>"$work/log" 2>&1 &
    started+=($!)
    until ss -Hltn "sport = :$port" | grep -q .; do
        n=$((n + 1))
        if [ $n = 500 ] || ! kill -0 $! 2>/dev/null; then echo "it does not listen on $port: $*" >&2; cat "$work/log" >&2; exit 1; fi
        sleep 0.01
    done
}
# serve NAME - starts the service with $work/NAME.toml; $url and $service are its address and its process
serve() {
    mkdir -p "$work/cache/$1" "$work/state/$1" "$work/config"
    free_port
    # MALLOC_ARENA_MAX: as in the unit
    MALLOC_ARENA_MAX=2 CACHE_DIRECTORY=$work/cache/$1 STATE_DIRECTORY=$work/state/$1 XDG_CONFIG_HOME=$work/config \
        background "$port" "$program" --config "$work/$1.toml" serve --listen "127.0.0.1:$port"
    service=$! url=http://127.0.0.1:$port
}
# forget - empties the cache and the state of the service
forget() { rm -rf "$work/cache" "$work/state"; }

# fetch URL [OPTION...] - prints the seconds that it takes
fetch() { curl -fsS -o /dev/null -w '%{time_total}\n' "$@"; }

calculate() { awk "BEGIN { printf \"$1\", $2 }"; }
median() { sort -g | awk '{ line[NR] = $1 } END { print line[int((NR + 1) / 2)] }'; }
# median_of FILE FORMAT
median_of() { median < "$1" | awk "{ printf \"$2\", \$1 }"; }

clock_ticks=$(getconf CLK_TCK)
# cpu PROCESS - the seconds of CPU that it and its children have taken
cpu() {
    local pid stat ticks=0
    for pid in "$1" $(cat "/proc/$1/task/$1/children"); do
        stat=$(< "/proc/$pid/stat")
        # The name of the program, in parentheses, may have blanks.
        read -ra stat <<< "${stat##*) }"
        ticks=$((ticks + stat[11] + stat[12]))
    done
    calculate %.2f "$ticks / $clock_ticks"
}
# with_cpu FILE PROCESS COMMAND... - runs the command, and adds the seconds of CPU that PROCESS took meanwhile to FILE
with_cpu() {
    local file=$1 process=$2 before
    shift 2
    before=$(cpu "$process")
    "$@"
    calculate '%.2f\n' "$(cpu "$process") - $before" >> "$file"
}
# memory PROCESS FIELD - that field of its status, in MiB: VmHWM is the most that was resident, RssAnon what is now of its own
memory() { awk -v field="$2:" '$1 == field { printf "%.2f\n", $2 / 1024 }' "/proc/$1/status"; }
