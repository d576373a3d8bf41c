# shellcheck shell=bash
# TLS: private CAs, clients' certificates, and who may read their keys.

CERTIFICATES=/etc/containers/certs.d

unknown_ca() {
    complains 502 cache.example.com:5000/acme/fleet 'certificate of cache.example.com:5000 is not trusted' \
        "$CERTIFICATES/cache.example.com:5000/ca.crt"
}
check unknown-ca-is-explained unknown_ca

private_ca() {
    mkdir --parents "$CERTIFICATES/cache.example.com:5000"
    cp "$FLEET/private.crt" "$CERTIFICATES/cache.example.com:5000/ca.crt"
    stop_service
    offers cache.example.com:5000/acme/fleet "$(line "$(fleet_image 2)" fleet-v2.raw)"
    delivers cache.example.com:5000/acme/fleet/fleet-v2.raw "$(fleet_image 2)"
}
check private-ca private_ca

wrong_protocol() {
    complains 502 127.0.0.2:443/acme/fleet '127.0.0.2:443 requires TLS' "$CERTIFICATES/127.0.0.2:443/ca.crt"
    complains 502 plain.example.com:5000/first 'plain.example.com:5000 does not speak TLS' 'insecure = true'
}
check tls-or-not-is-explained wrong_protocol

insecure() {
    cat >/etc/containers/registries.conf <<CONF
[[registry]]
location = "plain.example.com:5000"
insecure = true
CONF
    stop_service
    serves plain.example.com:5000/first first-v1.raw "$SCRATCH/first.raw"
    rm /etc/containers/registries.conf
    stop_service
}
check insecure-registry insecure

# ---- a registry that wants a certificate

MUTUAL=$CERTIFICATES/registry.example.com

publishes_mutual() {
    mkdir --parents "$MUTUAL"
    cp "$FLEET/private.crt" "$MUTUAL/ca.crt"
    # skopeo finds them here
    cp "$FLEET/client.crt" "$MUTUAL/client.cert"
    cp "$FLEET/client.key" "$MUTUAL/client.key"
    publish_container registry.example.com/acme/layer:v1 "$FLEET_LAYER"
    publish registry.example.com/acme/fleet:v1 "$(fleet_image 1)" \
        --ca-file "$FLEET/private.crt" --cert-file "$FLEET/client.crt" --key-file "$FLEET/client.key"
}
check publish-with-a-certificate publishes_mutual

no_certificate() {
    rm "$MUTUAL"/client.*
    stop_service
    complains 502 registry.example.com/acme/fleet "registry.example.com requires" certificate "$MUTUAL"
}
check no-certificate-is-explained no_certificate

half_a_pair() {
    cp "$FLEET/client.crt" "$MUTUAL/client.cert"
    stop_service
    complains 500 registry.example.com/acme/fleet "$MUTUAL/client.cert: its other half $MUTUAL/client.key is missing"
}
check half-a-pair-is-explained half_a_pair

unreadable_key() {
    cp "$FLEET/client.key" "$MUTUAL/client.key"
    chmod 600 "$MUTUAL/client.key"
    stop_service
    complains 500 registry.example.com/acme/fleet "$MUTUAL/client.key" 'not readable by the service, which runs as a user of its own; let a group read it'
}
check unreadable-key-is-explained unreadable_key

readme_key() {
    types 'certificates: client key'
    stop_service
    same "who may read the key" "640 root registry-key" "$(stat --format='%a %U %G' "$MUTUAL/client.key")"
    serves registry.example.com/acme/fleet fleet-v1.raw "$(fleet_image 1)"
    serves registry.example.com/acme/layer layer-v1.tar.gz "$FLEET_LAYER"
}
check readme-client-key readme_key
