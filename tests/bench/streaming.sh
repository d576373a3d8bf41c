# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# One large file: from the registry itself, through nginx, and through the program, which checks every byte. Then the same
# with TLS between them and the registry.

# timed FILE COMMAND... - adds the seconds that it takes to FILE, and those of CPU to FILE.cpu
timed() {
    local file=$1 TIMEFORMAT='%R %U %S'
    shift
    { time "$@" >> "$work/log" 2>&1; } 2> "$work/took"
    awk '{ print $1 }' "$work/took" >> "$file"
    awk '{ print $2 + $3 }' "$work/took" >> "$file.cpu"
}

# Where `stream` fetches from, and how: the registry, nginx's address and process, which are empty where it is not here, and
# the options that curl and oras need for the registry. Without options oras is left out.
from='' through='' nginx='' curl_options=() oras_options=()

# pass_on NAME TARGET [DIRECTIVES] - starts nginx, if it is here, which passes requests on
pass_on() {
    has nginx || return 0
    nginx_server "$1" <<CONF
    access_log off; proxy_max_temp_file_size 0; ${3:-}
    server { listen ADDRESS; location / { proxy_pass $2; } }
CONF
    through=$address
}

pulls() { [ ${#oras_options[@]} != 0 ] && has oras; }
# pull_beside_oras FILES - the same file, written to the disk
pull_beside_oras() {
    timed "$1.oras" oras pull "${oras_options[@]}" --output "$work/pulled" "${from#*://}/big:v1"
    rm -r "$work/pulled"
    with_cpu "$1.service" "$service" timed "$1.file" curl -fsS -o "$work/pulled" "$url/big/big-v1.raw"
    rm "$work/pulled"
}

# stream NAME LABEL - the rows of this file by $work/NAME.toml
stream() {
    local label=$2 t=$work/times.stream.$1 peak ours other
    serve "$1"
    curl -fsS -o /dev/null "$url/big/SHA256SUMS"
    for _ in $(seq "$RUNS"); do
        timed "$t.sha256" "$measure" sha256 "$SIZE_MIB"
        fetch "$from/v2/big/blobs/$digest" "${curl_options[@]}" >> "$t.direct"
        [ -z "$nginx" ] || with_cpu "$t.nginx.cpu" "$nginx" fetch "http://$through/v2/big/blobs/$digest" >> "$t.nginx"
        with_cpu "$t.ours.cpu" "$service" fetch "$url/big/big-v1.raw" >> "$t.ours"
        ! pulls || pull_beside_oras "$t"
    done
    peak=$(memory "$service" VmHWM)
    stop "$service"

    ours=$(rate "$t.ours")
    beside "$label, every byte checked; beside curl from the registry" "$ours" "$(rate "$t.direct")" MiB/s
    if [ -n "$nginx" ]; then
        beside "$label, every byte checked; beside nginx proxy_pass" "$ours" "$(rate "$t.nginx")" MiB/s '>= 0.9'
        ours=$(median_of "$t.ours.cpu" %.2f) other=$(median_of "$t.nginx.cpu" %.2f)
        beside "$label, CPU; beside nginx proxy_pass" "$ours" "$other" s
        beside "$label, CPU; beside SHA-256 and 1.4 times nginx" "$ours" \
            "$(calculate %.2f "$(median < "$t.sha256.cpu") + 1.4 * $other")" s '<= 1'
    else
        missing "$label through nginx" 'nginx is not here'
    fi
    row "$label, peak memory" "$peak" MiB '<= 16'
    if pulls; then
        beside "$label, into a file; beside oras pull" "$(rate "$t.file")" "$(rate "$t.oras")" MiB/s
        beside "$label, into a file, CPU with that of curl; beside oras pull" \
            "$(calculate %.2f "$(median < "$t.service") + $(median < "$t.file.cpu")")" "$(median_of "$t.oras.cpu" %.2f)" s
    elif [ ${#oras_options[@]} != 0 ]; then
        missing "$label by oras pull" 'oras is not here'
    fi
}
# rate FILE - the MiB in a second, from the seconds of each run
rate() { calculate %.0f "$SIZE_MIB / $(median < "$1")"; }

zeros "$SIZE_MIB" v1
from=http://$registry oras_options=(--plain-http)
pass_on plain "http://$registry"
stream near "$SIZE_MIB MiB"
row "SHA-256 of $SIZE_MIB MiB, CPU" "$(median_of "$work/times.stream.near.sha256.cpu" %.2f)" s

if has openssl; then
    certificates "$work/tls"
    docker_registry tls "http: { addr: ADDRESS, tls: { certificate: $work/tls/server.crt, key: $work/tls/server.key } }"
    from=https://$address curl_options=(--cacert "$work/tls/ca.crt") oras_options=()
    trust "$address" "$work/tls/ca.crt"
    settings tls "$address"
    pass_on tls-nginx "$from" "proxy_ssl_protocols TLSv1.2 TLSv1.3; proxy_ssl_verify on; proxy_ssl_name localhost;
    proxy_ssl_trusted_certificate $work/tls/ca.crt;"
    stream tls "$SIZE_MIB MiB over TLS"
else
    missing "$SIZE_MIB MiB over TLS" 'openssl is not here'
fi
