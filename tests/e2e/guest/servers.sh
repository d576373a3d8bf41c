# shellcheck shell=bash disable=SC2034 # used by the themes after this
# shellcheck disable=SC2016 # nginx has variables of its own
# More registries, as companies have them. Their names lead to this machine:
#
#   ghcr.io                 TLS by a CA that the system trusts, tokens from ghcr.io/token; strangers may read public/
#   cache.example.com:5000  TLS by a private CA; a pull-through cache of ghcr.io, where it logs in as fleet
#   registry.example.com    TLS by a private CA, and it wants a certificate of its clients
#   plain.example.com:5000  no TLS: it is localhost:5000
#   localhost:5010          Basic
#   localhost:5020          Basic; blobs are elsewhere, where an Authorization is refused as S3 does
#   localhost:5031 …        fronts of localhost:5000, see fronts.sh
#
# Each may be stopped and started: docker-registry@NAME.service, nginx@NAME.service.

FLEET=$SCRATCH/fleet
# Who may read, and who may write. Both passwords are looked for in the journal at the end.
FLEET_PASSWORD=c0rrect-h0rse-battery
PUBLISHER_PASSWORD=tr0ub4dor-and-3-more

# login HOST NAME PASSWORD - an auth.json
login() {
    jq --null-input --arg host "$1" --arg auth "$(printf '%s:%s' "$2" "$3" | base64)" '{auths: {($host): {$auth}}}'
}

# authority NAME - a CA
authority() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=$1" \
        -keyout "$FLEET/$1.key" -out "$FLEET/$1.crt"
}

# certify NAME AUTHORITY [EXTENSION]
certify() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" \
        -keyout "$FLEET/$1.key" -out "$FLEET/$1.csr"
    openssl x509 -req -in "$FLEET/$1.csr" -CA "$FLEET/$2.crt" -CAkey "$FLEET/$2.key" -CAcreateserial -days 30 \
        -out "$FLEET/$1.crt" -extfile <(echo "${3:-}")
}

# up UNIT ADDRESS… - starts it and waits until it listens
up() {
    local address
    systemctl start "$1"
    shift
    for address; do eventually 20 listens "$address"; done
}
listens() { : <>"/dev/tcp/${1%:*}/${1#*:}"; }
down() { systemctl stop "$1"; }

# registry NAME ADDRESS - a docker-registry; standard input is what is special about it
registry() {
    {
        echo "version: 0.1"
        echo "log: { accesslog: { disabled: true } }"
        echo "storage: { filesystem: { rootdirectory: $FLEET/$1 } }"
        cat
    } >"$FLEET/$1.yml"
    up "docker-registry@$1" "$2"
}

# front NAME ADDRESS… - an nginx with the servers in standard input
front() {
    local name=$1
    shift
    {
        echo "daemon off; worker_processes 1; user root; pid /run/nginx-$name.pid; error_log stderr;"
        echo 'events {}'
        echo 'http { client_max_body_size 0; proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme;'
        echo 'log_format line "$status $request auth=$http_authorization by=$http_user_agent";'
        echo "access_log $FLEET/$name.log line;"
        cat
        echo '}'
    } >"$FLEET/$name.nginx"
    up "nginx@$name" "$@"
}

prepare() {
    mkdir --parents "$FLEET/tokens" /run/systemd/system
    cat >>/etc/hosts <<HOSTS
127.0.0.1 plain.example.com
127.0.0.2 registry.example.com
127.0.0.3 ghcr.io
127.0.0.4 cache.example.com
HOSTS
    printf '[Service]\nExecStart=%s\n' "docker-registry serve $FLEET/%i.yml" >/run/systemd/system/docker-registry@.service
    printf '[Service]\nExecStart=%s\n' "nginx -e stderr -c $FLEET/%i.nginx" >/run/systemd/system/nginx@.service
    systemctl daemon-reload

    authority public
    # else nothing can be written below /usr
    systemd-sysext unmerge
    cp "$FLEET/public.crt" /usr/local/share/ca-certificates/
    update-ca-certificates
    authority private
    certify ghcr.io public subjectAltName=DNS:ghcr.io
    certify cache.example.com private subjectAltName=DNS:cache.example.com
    certify registry.example.com private subjectAltName=DNS:registry.example.com
    certify client private extendedKeyUsage=clientAuth

    # the registries and the token server let the same people in
    htpasswd -Bbc "$FLEET/htpasswd" fleet "$FLEET_PASSWORD"
    htpasswd -Bb "$FLEET/htpasswd" publisher "$PUBLISHER_PASSWORD"
    cat >"$FLEET/tokens/users" <<USERS
fleet:$FLEET_PASSWORD:pull
publisher:$PUBLISHER_PASSWORD:pull,push
nobody:n0t-a-thing-to-see:none
former:l0ng-gone-passw0rd:pull:token has expired
USERS
    for host in ghcr.io localhost:5010 localhost:5020; do
        login "$host" publisher "$PUBLISHER_PASSWORD"
    done | jq --slurp 'reduce .[] as $one ({}; . * $one)' >"$FLEET/publisher.json"
}
check prepare-registries prepare

starts() {
    systemd-run --quiet --unit=token-server /e2e/tests/token-server 127.0.0.1:5101 "$FLEET/tokens"
    eventually 20 listens 127.0.0.1:5101
    registry ghcr 127.0.0.1:5100 <<CONF
http: { addr: "127.0.0.1:5100" }
auth:
  token: { realm: "https://ghcr.io/token", service: e2e, issuer: e2e, rootcertbundle: $FLEET/tokens/cert.pem }
CONF
    front ghcr 127.0.0.3:443 <<CONF
server {
    listen 127.0.0.3:443 ssl;
    ssl_certificate $FLEET/ghcr.io.crt;
    ssl_certificate_key $FLEET/ghcr.io.key;
    location = /token { proxy_pass http://127.0.0.1:5101; }
    location / { proxy_pass http://127.0.0.1:5100; }
}
CONF
    # it asks its upstream when it starts
    registry cache 127.0.0.4:5000 <<CONF
http:
  addr: "127.0.0.4:5000"
  tls: { certificate: $FLEET/cache.example.com.crt, key: $FLEET/cache.example.com.key }
proxy: { remoteurl: "https://ghcr.io", username: fleet, password: $FLEET_PASSWORD }
CONF
    registry mutual 127.0.0.2:443 <<CONF
http:
  addr: "127.0.0.2:443"
  tls:
    certificate: $FLEET/registry.example.com.crt
    key: $FLEET/registry.example.com.key
    clientcas: [ $FLEET/private.crt ]
CONF
    registry basic 127.0.0.1:5010 <<CONF
http: { addr: "127.0.0.1:5010" }
auth: { htpasswd: { realm: e2e, path: $FLEET/htpasswd } }
CONF
}
check start-registries starts

# publish REFERENCE FILE [OPTION…] - by oras, as the publisher
publish() {
    (cd "$(dirname "$2")" && oras push --no-tty --registry-config "$FLEET/publisher.json" "${@:3}" "$1" "$(basename "$2")")
}

# publish_container REFERENCE LAYER.tar.gz [OPTION…] - by skopeo, as the publisher
publish_container() {
    rm --recursive --force "$FLEET/layout"
    container "$FLEET/layout" latest "$2"
    skopeo --insecure-policy copy --quiet --dest-authfile "$FLEET/publisher.json" "${@:3}" "oci:$FLEET/layout:latest" "docker://$1"
}

fleet_image() { echo "$FLEET/fleet-v$1.raw"; }
FLEET_LAYER=$FLEET/layer.tar.gz

publishes() {
    local n reference
    for n in 1 2 3; do image "$(fleet_image $n)" squashfs fleet "$n"; done
    tree "$FLEET/tree" layer 1
    tar --directory="$FLEET/tree" --create --owner=0 --group=0 --gzip --file="$FLEET_LAYER" .

    publish ghcr.io/acme/fleet:v1 "$(fleet_image 1)"
    publish_container ghcr.io/acme/layer:v1 "$FLEET_LAYER"
    publish ghcr.io/public/fleet:v1 "$(fleet_image 1)"
    publish localhost:5010/acme/fleet:v1 "$(fleet_image 1)" --plain-http
    publish_container localhost:5010/acme/layer:v1 "$FLEET_LAYER" --dest-tls-verify=false
}
check publish-with-oras-and-skopeo publishes

# serves REPOSITORY NAME FILE - it is listed, alone, and delivered
serves() {
    listed "$1" "$(line "$3" "$2")"
    delivers "$1/$2" "$3"
}

# complains STATUS REPOSITORY TEXT… - it is not listed, and the one line in the journal that says why has all of this
complains() {
    news >/dev/null
    refuses "$1" "$2/SHA256SUMS"
    one_line "$(news --priority=warning)" "${@:3}"
}

# one_line FOUND TEXT…
one_line() {
    local text
    [[ -n $1 && $1 != *$'\n'* ]] || fail "it should be one line, and is '${1//$'\n'/ | }'"
    for text in "${@:2}"; do
        [[ $1 = *"$text"* ]] || fail "it should say '$text', and says '$1'"
    done
}

# drop_in NAME LINE… - for the service, as an administrator writes it; counts when it starts again
drop_in() {
    mkdir --parents "/etc/systemd/system/$SERVICE.d"
    printf '%s\n' '[Service]' "${@:2}" >"/etc/systemd/system/$SERVICE.d/$1.conf"
    systemctl daemon-reload
    stop_service
}

# All that is ever said is said from here on, for secrets.sh. None of it may be lost.
drop_in 10-trace Environment=RUST_LOG=trace LogRateLimitIntervalSec=0

configure 20-fleet <<CONF
allow = [
    "ghcr.io", "registry.example.com", "cache.example.com:5000", "plain.example.com:5000",
    "127.0.0.2:443", "localhost:5010", "localhost:5020",
    "localhost:5031", "localhost:5032", "localhost:5033", "localhost:5034",
]
[repository.fleet]
source = "ghcr.io/acme/fleet"
CONF
