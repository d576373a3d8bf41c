# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# Many clients at once, which fetch as much together, beside nginx.

if ! has nginx; then
    missing 'many clients' 'nginx is not here'
    return
fi
nginx_server clients <<CONF
    access_log off; proxy_max_temp_file_size 0;
    server { listen ADDRESS; location / { proxy_pass http://$registry; } }
CONF
through=$address

# at_once COUNT URL - COUNT clients fetch it at once; prints the seconds until all have it
at_once() {
    local transfers=() begin=$EPOCHREALTIME
    for _ in $(seq "$1"); do transfers+=(-o /dev/null "$2"); done
    curl -fsS --no-progress-meter --parallel --parallel-immediate --parallel-max "$1" "${transfers[@]}"
    calculate '%.2f\n' "$EPOCHREALTIME - $begin"
}

for count in 8 64; do
    total=$((SIZE_MIB * 4)) t=$work/times.clients.$count
    zeros $((total / count)) "each-$count"
    serve near
    curl -fsS -o /dev/null "$url/big/SHA256SUMS"
    for _ in $(seq "$RUNS"); do
        with_cpu "$t.nginx.cpu" "$nginx" at_once "$count" "http://$through/v2/big/blobs/$digest" >> "$t.nginx"
        with_cpu "$t.ours.cpu" "$service" at_once "$count" "$url/big/big-each-$count.raw" >> "$t.ours"
    done
    peak=$(memory "$service" VmHWM)
    stop "$service"
    label="$count clients, $total MiB in all"
    beside "$label, every byte checked; beside nginx proxy_pass" \
        "$(calculate %.0f "$total / $(median < "$t.ours")")" "$(calculate %.0f "$total / $(median < "$t.nginx")")" MiB/s
    beside "$label, CPU; beside nginx proxy_pass" "$(median_of "$t.ours.cpu" %.2f)" "$(median_of "$t.nginx.cpu" %.2f)" s
    row "$label, peak memory" "$peak" MiB "$([ "$count" != 64 ] || echo '<= 48')"
done
