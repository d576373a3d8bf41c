# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# The same listing with a token login, and without one.

if ! { has nginx && has python3 && has openssl; }; then
    missing 'a token login' 'nginx, python3 or openssl is not here'
    return
fi
mkdir "$work/tokens"
echo 'bench:bench-password:pull' > "$work/tokens/users"
free_port; tokens=127.0.0.1:$port
background "$port" tests/e2e/token-server "$tokens" "$work/tokens"
free_port; front open "$registry" "$port"
free_port; guarded_port=$port
docker_registry guarded "$PLAIN" \
    "auth: { token: { realm: 'http://127.0.0.1:$guarded_port/token', service: bench, issuer: e2e, rootcertbundle: $work/tokens/cert.pem } }"
front guarded "$address" "$guarded_port" "$tokens"
printf '{"auths": {"127.0.0.1:%s": {"auth": "%s"}}}' "$guarded_port" "$(printf bench:bench-password | base64)" > "$work/auth.json"
export REGISTRY_AUTH_FILE=$work/auth.json
: > "$work/times.open"; : > "$work/times.guarded"
for _ in $(seq "$RUNS"); do
    for name in open guarded; do
        forget
        : > "$work/$name.access"
        serve "$name"
        curl -fsS -o "$work/listing" -w '%{time_total}\n' "$url/hello/SHA256SUMS" >> "$work/times.$name"
        [ "$(wc -l < "$work/listing")" = "$TAGS" ] || { echo 'wrong listing' >&2; exit 1; }
        stop "$service"
        wc -l < "$work/$name.access" > "$work/requests.$name"
    done
done
unset REGISTRY_AUTH_FILE
beside "listing of $TAGS tags at $ROUND_TRIP_MS ms with a token login, beside none" \
    "$(median_of "$work/times.guarded" %.2f)" "$(median_of "$work/times.open" %.2f)" s
row 'a token login: more requests' "$(($(< "$work/requests.guarded") - $(< "$work/requests.open")))" requests '<= 2'
