# shellcheck shell=bash
# What a drop-in forbids the service, and a login that it was not given: one line tells what, and what to do.

FAR=far.example.com:5000
CACHE=/var/cache/private/sysext-oci-proxy

# forbid LINE… - by a drop-in, instead of what the last one forbade
forbid() { drop_in 50-forbid "$@"; }

# is_denied STATUS REPOSITORY TEXT… - it is not listed; the one line in the journal has all of this, and so has the client's
is_denied() {
    complains "$@"
    one_line "$(sed --quiet 's/\r$//; s/^x-reason: //Ip' /tmp/header)" "${@:3}"
}

# The registry, by an address that is not on loopback. It is reserved for documentation (RFC 5737).
starts_far() {
    ip address add 192.0.2.1/32 dev lo
    echo "192.0.2.1 ${FAR%:*}" >>/etc/hosts
    front far 192.0.2.1:5000 <<CONF
server { listen 192.0.2.1:5000; location / { proxy_pass http://127.0.0.1:5000; } }
CONF
    printf '[[registry]]\nlocation = "%s"\ninsecure = true\n' $FAR >"$REGISTRIES"
    configure far <<CONF
[repository.far]
source = "$FAR/first"
CONF
    serves far far-v1.raw "$SCRATCH/first.raw"
}
check start-registry-not-on-loopback starts_far

# Is IPAddressDeny= heeded here? Without BPF systemd goes on without it.
filters_addresses() {
    ! systemd-run --quiet --wait --pipe --property=IPAddressDeny=any \
        curl --silent --max-time 2 "http://$FAR/v2/" &>>"$LOG"
}

forbidden_address() {
    forbid IPAddressDeny=any IPAddressAllow=localhost
    # With insecure = true it is asked first whether it speaks TLS.
    is_denied 502 far "cannot connect to https://$FAR/v2/" 'IPAddressDeny= of sysext-oci-proxy.service'
    # it is this address alone
    calm offers first "$(line "$SCRATCH/first.raw" first-v1.raw)"
    forbid IPAddressDeny=any IPAddressAllow=localhost IPAddressAllow=192.0.2.0/24
    calm serves far far-v1.raw "$SCRATCH/first.raw"
}
if filters_addresses; then
    check forbidden-address-is-explained forbidden_address
else
    echo "left out: IPAddressDeny=: systemd cannot filter addresses here, there is no BPF"
fi

# Then systemd does not hear either that the service is ready.
forbidden_call() {
    forbid SystemCallFilter=~connect
    news >/dev/null
    same "the status" 200 "$(status "$URL/")"
    one_line "$(news --priority=warning)" 'systemd cannot be told that the service is ready' 'Operation not permitted'
    is_denied 502 first "this machine does not permit a connection to http://$REGISTRY/v2/first/" \
        SystemCallFilter= sysext-oci-proxy.service 'Operation not permitted'
}
check forbidden-system-call-is-explained forbidden_call

forbidden_family() {
    forbid RestrictAddressFamilies= RestrictAddressFamilies=AF_UNIX
    is_denied 502 first "this machine does not permit a connection to http://$REGISTRY/v2/first/" \
        RestrictAddressFamilies= sysext-oci-proxy.service 'Address family not supported'
}
check forbidden-address-family-is-explained forbidden_family

# has_said SINCE TEXT - the service, or systemd about it
has_said() { grep --fixed-strings "$2" <<<"$(journalctl --since="@$1" --unit="$SERVICE" --output=cat)"; }

# As docs/troubleshooting.md has it, to find out which call it is: the kernel's own line, which no container sees, names it.
fatal_call() {
    local begun=$EPOCHREALTIME
    forbid SystemCallFilter=~connect SystemCallErrorNumber=kill
    same "the status" 000 "$(status --max-time 3 "$URL/first/SHA256SUMS")"
    eventually 20 has_said "$begun" 'code=killed, status=31/SYS'
    # That client is answered, too.
    forbid
    listing first
}
check forbidden-system-call-may-be-fatal fatal_call

# A cache that cannot be used is no reason to stop.
forbidden_rename() {
    rm --recursive "${CACHE:?}"/*
    forbid 'SystemCallFilter=~rename renameat renameat2'
    warns 'cache /var/cache/sysext-oci-proxy cannot be written, going on without it: Operation not permitted' \
        serves first first-v1.raw "$SCRATCH/first.raw"
    calm serves first first-v1.raw "$SCRATCH/first.raw"
}
check cache-forbidden-by-a-filter forbidden_rename

forbidden_lock() {
    rm --recursive --force "${CACHE:?}"/*
    forbid SystemCallFilter=~flock
    news >/dev/null
    listing built | grep --quiet BEST-BEFORE || fail "something is listed"
    same "versions skipped" 2 "$(news | grep --count \
        '^built: tag v.* skipped: /var/cache/sysext-oci-proxy cannot be read or written: Operation not permitted')"
}
check flattening-forbidden-by-a-filter forbidden_lock

rm "/etc/systemd/system/$SERVICE.d/50-forbid.conf" "$REGISTRIES"
systemctl daemon-reload
unconfigure far

no_credential() {
    rm "$CREDENTIAL"
    stop_service
    is_denied 403 fleet 'wants a login for ghcr.io/acme/fleet' \
        'the systemd credential sysext-oci-proxy.auth (the service was given none)' "$AUTH" 'skopeo login --authfile'
}
check missing-credential-is-explained no_credential

# It was given one, with somebody else's login.
other_credential() {
    login localhost:5010 fleet "$FLEET_PASSWORD" >"$CREDENTIAL"
    stop_service
    is_denied 403 fleet 'wants a login for ghcr.io/acme/fleet' \
        'there is none for it in the systemd credential sysext-oci-proxy.auth, ' "$AUTH"
}
check credential-without-the-login-is-explained other_credential

# One that cannot be decrypted, as on another machine. systemd says so; 262 goes on without it, 257 starts nothing.
undecryptable_credential() {
    local found
    rm "$CREDENTIAL"
    echo nonsense >"$ENCRYPTED"
    stop_service
    news >/dev/null
    found=$(status --max-time 10 "$URL/fleet/SHA256SUMS")
    news >/tmp/journal
    case $found in
        000) grep --quiet 'Failed to set up credentials' /tmp/journal ;;
        403)
            grep --quiet "Unable to decrypt credential 'sysext-oci-proxy.auth'" /tmp/journal
            grep --quiet 'sysext-oci-proxy.auth (the service was given none)' /tmp/journal
            ;;
        *) fail "status $found" ;;
    esac
    rm "$ENCRYPTED"
    login ghcr.io fleet "$FLEET_PASSWORD" >"$CREDENTIAL"
    stop_service
    # That client is answered, too.
    listing fleet
}
check credential-that-cannot-be-decrypted undecryptable_credential

# For the themes after this.
rm --force "$ENCRYPTED"
login ghcr.io fleet "$FLEET_PASSWORD" >"$CREDENTIAL"
stop_service
