# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# The start of the process, the first byte of a file, and the memory of a process that waits.

"$make_extension" "$work/layout" hello v1 v2 v3
printf '[repository.hello]\nsource = "oci:%s"\n' "$work/layout" > "$work/local.toml"
for _ in $(seq $((RUNS * 4))); do
    "$measure" first-byte "$program" "$work/local.toml" /hello/SHA256SUMS
done > "$work/times"
row 'from exec to the first byte of a listing (of a layout)' "$(median_of "$work/times" %.1f)" ms '<= 3'

# first_byte URL - prints the milliseconds until it comes
first_byte() { curl -fsS -o /dev/null -w '%{time_starttransfer}\n' "$1" | awk '{ print $1 * 1000 }'; }
serve far
curl -fsS -o "$work/listing" "$url/hello/SHA256SUMS"
stop "$service"
read -r blob file < "$work/listing"
file=${file#\*}
for _ in $(seq "$RUNS"); do
    forget
    serve far
    memory "$service" RssAnon >> "$work/idle.started"
    first_byte "$url/hello/$file" >> "$work/times.cold"
    curl -fsS -o /dev/null "$url/hello/SHA256SUMS"
    first_byte "$url/hello/$file" >> "$work/times.listed"
    sleep 0.5
    memory "$service" RssAnon >> "$work/idle.worked"
    stop "$service"
    serve far
    first_byte "$url/hello/$file" >> "$work/times.warm"
    stop "$service"
    first_byte "http://$relay/v2/hello/blobs/sha256:$blob" >> "$work/times.direct"
done
direct=$(median_of "$work/times.direct" %.1f)
for state in listed warm cold; do
    case $state in
        listed) name='just listed' ;;
        warm) name="not listed by this process" ;;
        cold) name="never listed, $TAGS tags" ;;
    esac
    beside "first byte of a file at $ROUND_TRIP_MS ms, $name; beside curl" "$(median_of "$work/times.$state" %.1f)" "$direct" ms
done
row 'anonymous memory of an idle process that has just started' "$(median_of "$work/idle.started" %.2f)" MiB '<= 1'
row "anonymous memory of an idle process after a listing of $TAGS tags" "$(median_of "$work/idle.worked" %.2f)" MiB '<= 1'
