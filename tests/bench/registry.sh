# shellcheck shell=bash disable=SC2034,SC2154 # variables are shared with tests/bench/run and the other parts
# The registry, what is in it, and the servers that stand before it.

# A registry without TLS, for `docker_registry`.
PLAIN='http: { addr: ADDRESS }'

# docker_registry NAME LINE... - starts docker-registry on the storage that all share, with these lines in its settings;
# $address, and ADDRESS in the lines, is where
docker_registry() {
    local name=$1
    shift
    free_port; address=127.0.0.1:$port
    cat > "$work/$name.yml" <<YML
version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: $work/registry }, cache: { blobdescriptor: inmemory } }
YML
    printf '%s\n' "${@//ADDRESS/$address}" >> "$work/$name.yml"
    background "$port" docker-registry serve "$work/$name.yml"
}

# relay ADDRESS TARGET MILLISECONDS [MEGABYTES] - see tests/tools/measure.rs
relay() { background "${1##*:}" "$measure" relay "$@"; }

# settings NAME ADDRESS [LINE...] - writes $work/NAME.toml for this registry
settings() {
    local name=$1 registry=$2
    shift 2
    printf '%s\n' "registry = \"$registry\"" "$@" > "$work/$name.toml"
}

# nginx_server NAME < DIRECTIVES - starts nginx with these directives of its `http` block; ADDRESS in them, and $address, is
# where it listens, and $nginx its process
nginx_server() {
    free_port; address=127.0.0.1:$port
    mkdir -p "$work/nginx"
    cat > "$work/$1.nginx" <<CONF
daemon off; worker_processes 1; pid $work/$1.pid; error_log $work/nginx.log;
events {}
http {
    client_body_temp_path $work/nginx; proxy_temp_path $work/nginx; fastcgi_temp_path $work/nginx;
    uwsgi_temp_path $work/nginx; scgi_temp_path $work/nginx;
$(sed "s/ADDRESS/$address/")
}
CONF
    background "$port" nginx -e "$work/nginx.log" -c "$work/$1.nginx"
    nginx=$!
}

# front NAME REGISTRY PORT [TOKENS] - nginx before the registry and its token server counts requests in $work/NAME.access.
# The round trip is before nginx, so that both are at one address, as with ghcr.io: 127.0.0.1:PORT, for which
# $work/NAME.toml is.
front() {
    nginx_server "$1" <<CONF
    access_log $work/$1.access; keepalive_requests 10000;
    upstream registry { server $2; keepalive 32; }
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host \$http_host;
    server { listen ADDRESS; location /token { proxy_pass http://${4:-$2}; } location / { proxy_pass http://registry; } }
CONF
    relay "127.0.0.1:$3" "$address" "$ROUND_TRIP_MS"
    settings "$1" "127.0.0.1:$3"
}

# push REPOSITORY FILE DIGEST - as a blob
push() {
    local upload
    upload=$(curl -fsS -X POST -o /dev/null -D - "http://$registry/v2/$1/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
    curl -fsS -X PUT -H 'Content-Type: application/octet-stream' -T "$2" "$upload&digest=$3" -o /dev/null
}
# artifact REPOSITORY FILE TAG - pushes it as `oras push` does, and sets $digest
artifact() {
    local config
    printf '{}' > "$work/config.json"
    config=sha256:$(sha256sum "$work/config.json" | cut -d' ' -f1)
    push "$1" "$work/config.json" "$config"
    digest=sha256:$(sha256sum "$2" | cut -d' ' -f1)
    push "$1" "$2" "$digest"
    curl -fsS -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' -o /dev/null -d @- \
        "http://$registry/v2/$1/manifests/$3" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
 "config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"$config","size":2},
 "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"$digest","size":$(stat -c %s "$2"),
            "annotations":{"org.opencontainers.image.title":"$1.raw"}}]}
JSON
}
# zeros MIB TAG - pushes an artifact of this size to the repository `big`, which offers it as big-TAG.raw. Sets $digest
zeros() {
    truncate -s "${1}M" "$work/zeros"
    artifact big "$work/zeros" "$2"
    rm "$work/zeros"
}

# certificates DIRECTORY - ca.crt, and server.crt with server.key that it has signed for this machine
certificates() {
    mkdir "$1"
    local new=(openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
    "${new[@]}" -x509 -days 2 -subj /CN=bench -keyout "$1/ca.key" -out "$1/ca.crt" 2>> "$work/log"
    "${new[@]}" -subj /CN=localhost -keyout "$1/server.key" -out "$1/server.csr" 2>> "$work/log"
    printf 'subjectAltName = IP:127.0.0.1, DNS:localhost\n' > "$1/names"
    openssl x509 -req -days 2 -in "$1/server.csr" -CA "$1/ca.crt" -CAkey "$1/ca.key" -CAcreateserial \
        -extfile "$1/names" -out "$1/server.crt" 2>> "$work/log"
}
# trust ADDRESS CERTIFICATE - the service speaks TLS to the registry there, and trusts this authority
trust() {
    local directory=$work/config/containers/certs.d/$1
    mkdir -p "$directory"
    cp "$2" "$directory/"
}
