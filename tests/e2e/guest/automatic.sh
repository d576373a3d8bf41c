# shellcheck shell=bash disable=SC2164 # a check ends with the first command that fails
# shellcheck disable=SC2317 # skopeo is called by the documents' commands
# Updates without anybody: the documents' commands until the timer has updated by itself, what --undo leaves, and the recipes.

NIGHT=$SCRATCH/night
NIGHT_HOST=registry.example.com
NIGHT_PASSWORD=g00d-n1ght-all
TIMER=sysext-oci-proxy-update@strace.timer
UPDATE=sysext-oci-proxy-update@strace.service
VERSIONS=/var/lib/extensions/strace.raw.v

# publish_strace VERSION
publish_strace() {
    image "$NIGHT/strace.raw" squashfs strace "$1"
    (cd "$NIGHT" && oras push --no-tty --ca-file acme-ca.crt --username fleet --password "$NIGHT_PASSWORD" \
        "$NIGHT_HOST/acme/strace:v$1-$ARCH" strace.raw)
    rm "$NIGHT/strace.raw"
}

start_night_registry() {
    systemd-run --quiet --collect --unit="night-registry-$EPOCHREALTIME" docker-registry serve "$NIGHT/registry.yml"
    eventually 20 bash -c ': <>/dev/tcp/127.0.0.5/443'
}
# update_now - more often than systemd would start a unit within ten seconds
update_now() {
    systemctl reset-failed "$UPDATE" 2>/dev/null || true
    systemctl start "$UPDATE"
}

stop_night_registry() { systemctl stop 'night-registry-*.service'; }

# A registry of a company: TLS by its own CA, and a login.
prepare_night() {
    mkdir --parents "$NIGHT"
    cd "$NIGHT"
    echo "127.0.0.5 $NIGHT_HOST" >>/etc/hosts
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=acme -keyout ca.key -out acme-ca.crt
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$NIGHT_HOST" -keyout host.key -out host.csr
    openssl x509 -req -in host.csr -CA acme-ca.crt -CAkey ca.key -CAcreateserial -days 30 -out host.crt \
        -extfile <(echo "subjectAltName=DNS:$NIGHT_HOST")
    htpasswd -Bbc htpasswd fleet "$NIGHT_PASSWORD"
    cat >registry.yml <<CONF
version: 0.1
storage: { filesystem: { rootdirectory: $NIGHT/registry } }
http:
  addr: "127.0.0.5:443"
  tls: { certificate: $NIGHT/host.crt, key: $NIGHT/host.key }
auth: { htpasswd: { realm: e2e, path: $NIGHT/htpasswd } }
CONF
    start_night_registry
    publish_strace 1.31.3
    systemctl disable --now "$SOCKET"
    stop_service
}
check automatic-prepare prepare_night

# What docs/updates.md has typed, but for what skopeo asks on the terminal.
skopeo() { command skopeo "$@" --username fleet --password-stdin <<<"$NIGHT_PASSWORD"; }
export NIGHT_PASSWORD
export -f skopeo
night_commands() { block 'night: commands'; }
type_line() { (cd "$NIGHT" && bash -eux -c "$1"); }

at_most_seven() {
    local commands
    commands=$(night_commands)
    [ "$(wc --lines <<<"$commands")" -le 7 ] || fail "these are too many: $commands"
    ! grep --extended-regexp ';|&&|\|' <<<"$commands" || fail "a line has more than one command"
}
check automatic-seven-commands at_most_seven

types_all_but_transfer() {
    local line
    while read -r line <&3; do
        [[ $line = *" transfer "* ]] && break
        type_line "$line"
    done 3<<<"$(night_commands)"
    # It is the timer of this theme alone that elapses soon.
    is "$SOCKET" active
}
check automatic-the-commands-before-transfer types_all_but_transfer

transfer_command() { night_commands | grep --fixed-strings ' transfer '; }

# machine - all that --write and --automatic may touch, file by file
machine() {
    # systemd has lock files beside images while it merges them.
    find /etc /var/lib '(' -path /var/lib/private -o -path /var/lib/systemd -o -name '.#*.lck' ')' -prune -o \
        -printf '%y %m %u %g %p %l\n' | sort
    find /etc -type f -exec sha256sum {} + | sort
    find /var/lib/systemd -name '*sysext-oci-proxy*'
}

undoes() {
    local said
    # Its directories appear when it starts.
    fetch "$URL/"
    machine >/run/before
    type_line "$(transfer_command)"
    is "$TIMER" active
    same "the timer at boot" enabled "$(systemctl is-enabled "$TIMER")"
    said=$(sysext-oci-proxy transfer strace --undo)
    echo "$said"
    machine >/run/after
    diff /run/before /run/after
    is "$TIMER" inactive
    said=$(sysext-oci-proxy transfer strace --undo)
    [[ $said = *"nothing to undo"* ]] || fail "it says '$said'"
}
check automatic-undo-leaves-the-machine-as-it-was undoes

# A timer fails when it is started too often, and when its service vanishes, as that of an extension does when it is unmerged.
undoes_what_failed() {
    type_line "$(transfer_command)"
    for _ in {1..10}; do systemctl restart "$TIMER" || break; done
    is "$TIMER" failed
    sysext-oci-proxy transfer strace --undo
    is "$TIMER" inactive
    machine >/run/after
    diff /run/before /run/after
}
check automatic-undo-of-a-failed-timer undoes_what_failed

undo_keeps_changed() {
    type_line "$(transfer_command)"
    echo '# mine' >>/etc/sysupdate.strace.d/strace.transfer
    sysext-oci-proxy transfer strace --undo | grep --fixed-strings 'it was changed'
    [ -e /etc/sysupdate.strace.d/strace.transfer ] || fail "what was changed is gone"
    rm -r /etc/sysupdate.strace.d
}
check automatic-undo-keeps-what-was-changed undo_keeps_changed

# The night comes every five seconds.
nights() {
    mkdir --parents "/etc/systemd/system/$TIMER.d"
    printf '[Timer]\nOnCalendar=\nOnCalendar=*:*:0/5\nRandomizedDelaySec=0\nAccuracySec=100ms\n' \
        >"/etc/systemd/system/$TIMER.d/e2e.conf"
    systemctl daemon-reload
}
has_merged() { [ "$(cat /usr/share/strace/version)" = "$1" ]; }
elapsed() { systemctl show --property=LastTriggerUSecMonotonic --value "$TIMER"; }
has_elapsed_since() { [ "$(elapsed)" != "$1" ]; }

first_night() {
    local line is_after=
    nights
    while read -r line <&3; do
        if [[ $is_after = yes || $line = *" transfer "* ]]; then
            is_after=yes
            type_line "$line"
        fi
    done 3<<<"$(night_commands)"
    eventually 60 has_merged 1.31.3
    same "what has started the update" "$TIMER" "$(systemctl show --property=TriggeredBy --value "$UPDATE")"
}
check automatic-the-timer-merges-an-extension first_night

next_version_by_night() {
    publish_strace 1.32.0
    eventually 60 has_merged 1.32.0
}
check automatic-the-timer-merges-the-next-version next_version_by_night

# On systemd 257 a refresh without a change would mount it anew.
quiet_night() {
    local mount n last
    eventually 30 is "$UPDATE" inactive
    mount=$(findmnt --noheadings --output ID /usr)
    for n in 1 2; do
        last=$(elapsed)
        eventually 20 has_elapsed_since "$last"
        eventually 30 is "$UPDATE" inactive
    done
    same "the mount of /usr after $n more nights" "$mount" "$(findmnt --noheadings --output ID /usr)"
}
check automatic-nothing-new-mounts-nothing quiet_night

# Of an interrupted download systemd 262 keeps a file, and refuses every later update.
interrupted_night() {
    echo 'a part of it' >"$VERSIONS/.sysupdate.partial.strace_1.33.0.raw"
    publish_strace 1.33.0
    eventually 60 has_merged 1.33.0
}
check automatic-an-interrupted-download-is-forgotten interrupted_night

failed_night() {
    stop_night_registry
    stop_service
    eventually 60 is "$UPDATE" failed
    journalctl --unit="$UPDATE" --output=cat | grep --fixed-strings 'systemd-sysupdate -C strace update: exit status: 1'
    start_night_registry
    eventually 60 is "$UPDATE" inactive
    has_merged 1.33.0
}
check automatic-a-failed-update-fails-the-unit failed_night

end_nights() {
    rm -r "/etc/systemd/system/$TIMER.d"
    systemctl daemon-reload
    systemctl restart "$TIMER"
    eventually 30 is "$UPDATE" inactive
    # The recipes have one newer version.
    rm "$VERSIONS/strace_1.33.0.raw"
    systemd-sysext refresh
    has_merged 1.32.0
}
check automatic-end-of-the-nights end_nights

goes_back_by_recipe() {
    writes 'before: /etc/sysext-oci-proxy/config.d/strace.toml'
    types 'before: commands'
    has_merged 1.31.3
    update_now
    has_merged 1.31.3
}
check recipe-the-version-before goes_back_by_recipe

# The same with a link: without the recipe's command it leads nowhere.
goes_back_by_link() {
    local link=/var/lib/extensions/strace.raw
    mkdir --parents /var/lib/extensions.d/strace
    mv "$VERSIONS/strace_1.31.3.raw" /var/lib/extensions.d/strace
    mv "$VERSIONS" "$SCRATCH/strace.v"
    ln --symbolic ../extensions.d/strace/strace_1.32.0.raw "$link"
    systemd-sysext refresh
    [ ! -e /usr/share/strace ] || fail "a link to nowhere is merged"
    types 'before: link'
    systemd-sysext refresh
    has_merged 1.31.3
    rm "$link"
    mv "$SCRATCH/strace.v" "$VERSIONS"
    mv /var/lib/extensions.d/strace/strace_1.31.3.raw "$VERSIONS"
    rmdir --parents --ignore-fail-on-non-empty /var/lib/extensions.d/strace
}
check recipe-the-version-before-with-a-link goes_back_by_link

stays_by_recipe() {
    writes 'stay: /etc/sysext-oci-proxy/config.d/strace.toml'
    types 'stay: commands'
    publish_strace 1.31.4
    stop_service
    update_now
    has_merged 1.31.4
    update_now
    has_merged 1.31.4
}
check recipe-staying-on-one-series stays_by_recipe

# Until systemd 262 a drop-in restarts the services of an extension.
restarts_by_recipe() {
    local pid
    printf '[Service]\nExecStart=sleep infinity\n' >/run/systemd/system/strace.service
    writes 'services: /etc/systemd/system/systemd-sysext.service.d/strace.conf'
    types 'services: commands'
    systemctl start strace.service
    pid=$(systemctl show --property=MainPID --value strace.service)
    update_now
    sleep 1
    same "its process after an update without a change" "$pid" "$(systemctl show --property=MainPID --value strace.service)"
    publish_strace 1.31.5
    stop_service
    update_now
    has_merged 1.31.5
    eventually 10 is_another_process "$pid"
}
is_another_process() {
    local pid
    pid=$(systemctl show --property=MainPID --value strace.service)
    [[ $pid != 0 && $pid != "$1" ]]
}
if [ "$(systemctl --version | awk 'NR == 1 { print int($2) }')" -lt 262 ]; then
    check recipe-restarting-services restarts_by_recipe
    systemctl stop strace.service
    rm -rf /run/systemd/system/strace.service /etc/systemd/system/systemd-sysext.service.d
    systemctl daemon-reload
fi

removes_by_recipe() {
    types 'remove: commands'
    [ ! -e /usr/share/strace ] || fail "it is still merged"
    [ ! -e /etc/sysupdate.strace.d ] || fail "there is still a transfer file"
    same "the timer" disabled "$(systemctl is-enabled "$TIMER")"
}
check recipe-removing-an-extension removes_by_recipe

removes_proxy() {
    types 'proxy: commands'
    same "listeners" '' "$(ss --no-header --listening --tcp 'sport = :5001')"
    same "what is left" '' "$(find /etc /var/cache /var/lib -path '*sysext-oci-proxy*' ! -path '/etc/systemd/system/*')"
}
check recipe-removing-the-proxy removes_proxy

# As it was before.
leaves() {
    stop_night_registry
    sed "/$NIGHT_HOST/d" /etc/hosts >"$NIGHT/hosts"
    cat "$NIGHT/hosts" >/etc/hosts
    rm -r "/etc/containers/certs.d/$NIGHT_HOST"
    ! systemctl --quiet is-active systemd-sysupdate-notify-sysext.socket || fail "the socket that merges extensions still runs"
    systemctl enable --now "$SOCKET"
    # The settings of all themes were removed with the proxy.
    configure 10-e2e <<<'listing-ttl-sec = 0.2'
    fetch "$URL/"
}
check automatic-leaves-the-machine leaves
unset -f skopeo
