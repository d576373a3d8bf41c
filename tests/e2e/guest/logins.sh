# shellcheck shell=bash disable=SC2317 # skopeo is called by the documents' commands
# Logins: where they are kept, what is sent where, and what an administrator reads when one is refused.

AUTH=/etc/containers/auth.json
CREDENTIAL=/etc/credstore/sysext-oci-proxy.auth
ENCRYPTED=/etc/credstore.encrypted/sysext-oci-proxy.auth
mkdir --parents /etc/containers /etc/credstore

# asked_for_tokens - what the token server was asked for since the last time
asked_for_tokens() {
    cat "$FLEET/tokens/log"
    : >"$FLEET/tokens/log"
}

no_login() {
    rm --force "$AUTH"
    complains 403 localhost:5010/acme/fleet 'wants a login for localhost:5010/acme/fleet' "$AUTH"
    complains 403 ghcr.io/acme/fleet 'wants a login for ghcr.io/acme/fleet'
}
check no-login-is-explained no_login

strangers_read() { serves ghcr.io/public/fleet fleet-v1.raw "$(fleet_image 1)"; }
check token-for-strangers strangers_read

basic() {
    login localhost:5010 fleet "$FLEET_PASSWORD" >"$AUTH"
    serves localhost:5010/acme/fleet fleet-v1.raw "$(fleet_image 1)"
    serves localhost:5010/acme/layer layer-v1.tar.gz "$FLEET_LAYER"
}
check basic-login basic

wrong_password() {
    login localhost:5010 fleet wr0ng-passw0rd >"$AUTH"
    # what worked goes on to work until the registry thinks otherwise
    listing localhost:5010/acme/fleet
    stop_service
    complains 403 localhost:5010/acme/fleet "refuses the login from $AUTH" '"localhost:5010"' 401
    login ghcr.io fleet wr0ng-passw0rd >"$AUTH"
    complains 403 ghcr.io/acme/fleet "refuses the login from $AUTH" '"ghcr.io"' 'incorrect username or password'
}
check wrong-password-is-explained wrong_password

expired() {
    login ghcr.io former l0ng-gone-passw0rd >"$AUTH"
    complains 403 ghcr.io/acme/fleet "refuses the login from $AUTH" '"ghcr.io"' 'token has expired'
}
check expired-login-is-explained expired

not_permitted() {
    login ghcr.io nobody n0t-a-thing-to-see >"$AUTH"
    complains 403 ghcr.io/acme/fleet "refuses the login from $AUTH" '"ghcr.io"' 'may it read this'
}
check login-without-a-right-is-explained not_permitted

# The service runs on, while the password changes at the registry and then here.
changed() {
    local pid
    login localhost:5010 fleet "$FLEET_PASSWORD" >"$AUTH"
    stop_service
    serves localhost:5010/acme/fleet fleet-v1.raw "$(fleet_image 1)"
    pid=$(main_pid)
    htpasswd -Bb "$FLEET/htpasswd" fleet an0ther-passw0rd
    sleep 0.5 # no listing is that old
    complains 403 localhost:5010/acme/fleet "refuses the login from $AUTH" 401
    login localhost:5010 fleet an0ther-passw0rd >"$AUTH"
    serves localhost:5010/acme/fleet fleet-v1.raw "$(fleet_image 1)"
    same "the process" "$pid" "$(main_pid)"
    htpasswd -Bb "$FLEET/htpasswd" fleet "$FLEET_PASSWORD"
}
check login-changed-while-it-runs changed

# As docs/logins.md has it, but for what skopeo asks on the terminal.
encrypted_credential() {
    local commands
    commands=$(block 'logins: credential')
    rm "$AUTH"
    skopeo() { command skopeo "$@" --username fleet --password-stdin <<<"$FLEET_PASSWORD"; }
    export FLEET_PASSWORD
    export -f skopeo
    (cd "$FLEET" && bash -eux -c "$commands")
    ! grep --quiet "$(login ghcr.io fleet "$FLEET_PASSWORD" | jq --raw-output '.auths[].auth')" "$ENCRYPTED"
    asked_for_tokens >/dev/null
    serves ghcr.io/acme/fleet fleet-v1.raw "$(fleet_image 1)"
    serves ghcr.io/acme/layer layer-v1.tar.gz "$FLEET_LAYER"
}
check readme-encrypted-credential encrypted_credential

one_token_each() {
    same "what the token server was asked for" "fleet repository:acme/fleet:pull 200
fleet repository:acme/layer:pull 200" "$(asked_for_tokens | sort)"
}
check one-token-for-each-repository one_token_each

# From here on it is the component "fleet", by TLS, a token, and an encrypted credential.
transfer fleet url-file fleet-@v.raw regular-file fleet-@v.raw fleet.raw

updates_with_login() {
    versions fleet v1
    sysupdate fleet update
    cmp /opt/extensions/fleet/fleet-v1.raw "$(fleet_image 1)"
    merged fleet 1
}
check sysupdate-with-an-encrypted-credential updates_with_login

next_version() {
    publish ghcr.io/acme/fleet:v2 "$(fleet_image 2)"
    stop_service
    newest fleet v2
    sysupdate fleet update
    merged fleet 2
}
check sysupdate-with-login-to-the-next-version next_version

# docker-registry takes a token for one more minute than it says.
token_dies() {
    local pid
    echo -58 >"$FLEET/tokens/life"
    stop_service
    asked_for_tokens >/dev/null
    listing fleet
    pid=$(main_pid)
    sleep 3
    listing fleet
    rm "$FLEET/tokens/life"
    same "the process" "$pid" "$(main_pid)"
    same "tokens" 2 "$(asked_for_tokens | grep --count '^fleet repository:acme/fleet:pull 200$')"
}
check token-that-died-is-renewed token_dies

plain_credential() {
    rm "$ENCRYPTED"
    stop_service
    complains 403 fleet 'wants a login for ghcr.io/acme/fleet'
    login ghcr.io fleet "$FLEET_PASSWORD" >"$CREDENTIAL"
    chmod 600 "$CREDENTIAL"
    stop_service
    offers fleet "$(line "$(fleet_image 2)" fleet-v2.raw)"
}
check plain-credential plain_credential

# The credential comes first, but only for what it has a login for.
order_of_places() {
    {
        login ghcr.io fleet wr0ng-passw0rd
        login localhost:5010 fleet "$FLEET_PASSWORD"
    } | jq --slurp 'reduce .[] as $one ({}; . * $one)' >"$AUTH"
    stop_service
    offers fleet "$(line "$(fleet_image 2)" fleet-v2.raw)"
    serves localhost:5010/acme/fleet fleet-v1.raw "$(fleet_image 1)"
    rm "$CREDENTIAL"
    stop_service
    complains 403 fleet "refuses the login from $AUTH"

    # this one alone, if there is no credential
    login ghcr.io fleet "$FLEET_PASSWORD" >/etc/another.json
    drop_in 20-auth-file Environment=REGISTRY_AUTH_FILE=/etc/another.json
    offers fleet "$(line "$(fleet_image 2)" fleet-v2.raw)"
    complains 403 localhost:5010/acme/fleet 'wants a login' /etc/another.json
    rm "/etc/systemd/system/$SERVICE.d/20-auth-file.conf"
    systemctl daemon-reload
}
check order-of-places order_of_places

# A file that only root may read, and what to do about it.
unreadable() {
    login ghcr.io fleet "$FLEET_PASSWORD" >"$AUTH"
    chmod 600 "$AUTH"
    stop_service
    complains 403 fleet "login in $AUTH" 'not readable by the service, which runs as a user of its own; let a group read it'
    groupadd --system registry-login
    chgrp registry-login "$AUTH"
    chmod 640 "$AUTH"
    drop_in 20-login SupplementaryGroups=registry-login
    offers fleet "$(line "$(fleet_image 2)" fleet-v2.raw)"
    rm "/etc/systemd/system/$SERVICE.d/20-login.conf"
    systemctl daemon-reload
}
check auth-file-for-a-group unreadable

nonsense_login() {
    jq --null-input '{auths: {"ghcr.io": {auth: "bm8gY29sb24="}}}' >"$AUTH"
    chmod 644 "$AUTH"
    stop_service
    complains 403 fleet "login in $AUTH" '"ghcr.io"' "no ':' between user and password"
    echo '{"auths": {' >"$AUTH"
    complains 403 fleet "login in $AUTH" 'not JSON, line '
}
check nonsense-login-is-explained nonsense_login

# A program that the sandbox has to let run.
helper() {
    jq --null-input '{credHelpers: {"ghcr.io": "e2e"}}' >"$AUTH"
    stop_service
    complains 403 fleet "$AUTH, helper \"e2e\"" 'docker-credential-e2e is in none of'
    systemd-sysext unmerge
    cat >/usr/local/bin/docker-credential-e2e <<HELPER
#!/bin/bash
[ "\$1 \$(cat)" = "get ghcr.io" ] || { echo "credentials not found in native keychain"; exit 1; }
echo '{"Username": "fleet", "Secret": "$FLEET_PASSWORD"}'
HELPER
    chmod 755 /usr/local/bin/docker-credential-e2e
    offers fleet "$(line "$(fleet_image 2)" fleet-v2.raw)"
}
check credential-helper helper

# For the themes after this.
rm "$AUTH"
login ghcr.io fleet "$FLEET_PASSWORD" >"$CREDENTIAL"
stop_service
