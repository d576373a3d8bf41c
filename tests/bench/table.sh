# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# The table: rows, the limits that they are held to, and their form as text or JSON.

failed=0
# The objects of JSON, and the seconds that each part took.
rows=() took_by_part=()
began=$SECONDS

# begin_table - prints the line of the machine, and the head
begin_table() {
    local load
    read -r load _ < /proc/loadavg
    machine="$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1), $(nproc) cores, $(uname -sr), $(uname -m)"
    machine+=", load $load, medians of $RUNS"
    [ -z "$JSON" ] || return 0
    echo "$machine"
    printf '%-72s %10s %-9s %10s %6s %8s\n' '' value '' beside ratio limit
}
# end_table - prints the table where it is one JSON object, and ends
end_table() {
    local IFS=,
    if [ -n "$JSON" ]; then
        printf '{"machine": %s, "seconds": {%s}, "rows": [%s]}\n' "$(text "$machine")" "${took_by_part[*]}" "${rows[*]}"
    else
        echo "$((SECONDS - began)) s for all rows: ${took_by_part[*]}"
    fi
    exit $failed
}

# text STRING - as JSON has it; there are no control characters
text() { local s=${1//\\/\\\\}; printf '"%s"' "${s//\"/\\\"}"; }
# number VALUE - as JSON has it, null where there is none
number() { if [[ $1 =~ ^-?[0-9]+(\.[0-9]+)?$ ]]; then printf %s "$1"; else printf null; fi; }

# put NAME UNIT VALUE BESIDE RATIO LIMIT [WHY] - one row. BESIDE is the same of another program. LIMIT is `<= NUMBER` or
# `>= NUMBER`, and holds for RATIO, or for VALUE where there is no ratio; WHY says why there is no value. All but the name
# may be empty.
put() {
    local name=$1 unit=$2 value=$3 beside=$4 ratio=$5 limit=$6 verdict=${7:-} most='' least=''
    if [ -n "$limit" ]; then
        verdict=ok
        awk "BEGIN { exit !(${ratio:-$value} $limit) }" || { verdict=MISSED; failed=1; }
        case $limit in
            '<= '*) most=${limit#<= } ;;
            '>= '*) least=${limit#>= } ;;
        esac
    fi
    rows+=("{\"name\": $(text "$name"), \"unit\": $(text "$unit"), \"value\": $(number "$value"), \"beside\": $(number "$beside"), \"ratio\": $(number "$ratio"), \"at_most\": $(number "$most"), \"at_least\": $(number "$least"), \"verdict\": $(text "$verdict")}")
    [ -n "$JSON" ] || printf '%-72s %10s %-9s %10s %6s %8s  %s\n' "$name" "$value" "$unit" "$beside" "$ratio" "$limit" "$verdict"
}
# put_all - rows that a program prints, with tabs between NAME, UNIT, VALUE, BESIDE, RATIO, and the most that it may be
put_all() {
    local line name unit value beside ratio limit
    while IFS= read -r line; do
        # Tabs that follow one another are one to `read`.
        IFS='|' read -r name unit value beside ratio limit <<< "${line//$'\t'/|}"
        put "$name" "$unit" "$value" "$beside" "$ratio" "${limit:+<= $(calculate %.4g "$limit")}"
    done
}
# row NAME VALUE UNIT [LIMIT]
row() { put "$1" "$3" "$2" '' '' "${4:-}"; }
# beside NAME VALUE OTHER UNIT [LIMIT] - with the ratio of both
beside() { put "$1" "$4" "$2" "$3" "$(calculate %.2f "$2 / $3")" "${5:-}"; }
# missing NAME WHY - a row without a value
missing() { put "$1" '' - '' '' '' "$2"; }
