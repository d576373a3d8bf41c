# shellcheck shell=bash disable=SC2164 # a check ends with the first command that fails
# Rollouts and freshness: the commands of docs/rollout.md, each as it stands there but for the host, the arithmetic of
# ConditionFraction=, and what systemd-sysupdate makes of it.

ROLLOUT=$SCRATCH/rollout
ROLLOUT_HOST=localhost:5040
# It serves the same files. registries.conf names it as a mirror.
MIRROR_HOST=127.0.0.7:5041
SYSTEMD=$(systemctl --version | awk 'NR == 1 { print int($2) }')
ANNOTATION=io.github.sysext-oci-proxy.rollout

# serve_rollout NAME ADDRESS - a registry that lets manifests be deleted
serve_rollout() {
    cat >"$ROLLOUT/$1.yml" <<CONF
version: 0.1
storage: { filesystem: { rootdirectory: $ROLLOUT/registry }, delete: { enabled: true } }
http: { addr: "$2" }
CONF
    local unit=rollout-$1-$EPOCHREALTIME.service
    systemd-run --quiet --collect --unit="$unit" docker-registry serve "$ROLLOUT/$1.yml"
    eventually 20 curl --fail --silent "http://$2/v2/"
    # Another server may have the port.
    is "$unit" active
}
rollout_down() { systemctl stop 'rollout-registry-*.service'; }

# types_here LABEL - the commands of the document, with this registry
types_here() { PATH=$PATH:/usr/lib/systemd bash -eux -c "$(block "$1" | sed "s,registry\.example\.com,$ROLLOUT_HOST,")"; }

# content VERSION - systemd 257 takes a file of fewer than six bytes for a broken connection
content() { echo "hello $1"; }

# scheduled VERSION SCHEDULE - pushes hello:VERSION
scheduled() {
    cd "$ROLLOUT"
    content "$1" >hello.raw
    oras push --no-tty "$ROLLOUT_HOST/acme/hello:$1" hello.raw --annotation "$ANNOTATION=$2"
}

# ago SECONDS - that moment, as a schedule begins
ago() { date --utc --date="@$((EPOCHSECONDS - $1))" +%FT%TZ; }

# is_held VERSION REASON - hello:VERSION is not offered, for a reason that begins so
is_held() {
    local reason
    reason=$(sysext-oci-proxy list hello --all | sed --quiet "s/^$1  *//p")
    [[ $reason = "$2"* ]] || fail "$1: $reason"
}

prepare_rollout() {
    mkdir "$ROLLOUT"
    serve_rollout registry "$ROLLOUT_HOST"
    configure 60-rollout <<<"registry = \"$ROLLOUT_HOST/acme\"
listing-ttl-sec = 0.2"
    cd "$ROLLOUT"
    content 1.0 >hello.raw
    oras push --no-tty "$ROLLOUT_HOST/acme/hello:1.0" hello.raw
    transfer hello url-file hello-@v.raw regular-file hello-@v.raw hello.raw
    sysupdate hello update
}
check rollout-prepare prepare_rollout

# The table that the unit tests check, made anew: each share is the smallest that systemd accepts.
fractions() {
    local id tag share less wrong=0
    percent() { printf '%d.%02d%%' $(($1 / 100)) $(($1 % 100)); }
    while read -r id tag share; do
        less=$((share - 1))
        echo "$id" >/run/id
        unshare --mount sh -c 'mount --bind /run/id /etc/machine-id && shift && exec systemd-analyze condition "$@"' sh - \
            "ConditionFraction=$tag $(percent "$share")" "ConditionFraction=!$tag $(percent "$less")" || {
            echo "$id $tag is not at $share"
            wrong=$((wrong + 1))
        }
    done < <(grep --invert-match '^#' /e2e/tests/fractions.txt)
    same "rows that systemd has elsewhere" 0 "$wrong"
}
[ "$SYSTEMD" -lt 261 ] || check rollout-fractions-are-those-of-systemd fractions

# in_fraction TAG PERCENT - by systemd, or where it has no ConditionFraction= by its rule
in_fraction() {
    if [ "$SYSTEMD" -ge 261 ]; then
        systemd-analyze condition "ConditionFraction=$1 $2%"
    else
        python3 - "$1" "$2" <<'END'
import hashlib, hmac, sys
key = bytes.fromhex(open("/etc/machine-id").read().strip())
hash = hmac.new(key, ("systemd-fraction-" + sys.argv[1]).encode(), hashlib.sha256).digest()
sys.exit(int.from_bytes(hash[:4], "little") >= (int(sys.argv[2]) * 100 * (2**32 - 1) + 5000) // 10000)
END
    fi
}

# Ten versions in the middle of their rollouts.
half_way() {
    local n expected found
    expected=1.0
    for n in {0..9}; do
        scheduled "1.0.$n" "$(ago 86400) 48h"
        if in_fraction "$ROLLOUT_HOST/acme/hello:1.0.$n" 50; then expected+=" 1.0.$n"; fi
    done
    sleep 0.5
    found=$(listing hello | cut --characters 67- | sed 's/^hello-//; s/\.raw$//' | sort --version-sort | paste --serial --delimiters ' ')
    same "the versions that have reached this machine" "$expected" "$found"
    # all ten are there
    same "the number of all files" 11 "$(listing hello+all | wc --lines)"
    for n in {0..9}; do oras manifest delete --force "$ROLLOUT_HOST/acme/hello:1.0.$n"; done
}
check rollout-reaches-the-machines-that-systemd-names half_way

from_the_document() {
    local found
    cd "$ROLLOUT"
    content 1.1 >hello.raw
    types_here 'rollout: push'
    sleep 0.5
    found=$(types 'rollout: look')
    grep --quiet "1.1 .*its rollout begins at .*, and this machine's clock says .*; until " <<<"$found"
    listed hello "$(line <(content 1.0) hello-1.0.raw)"
    ! sysupdate hello check-new || fail "there is a newer version"
    [ "$SYSTEMD" -lt 261 ] || types_here 'rollout: fraction' || true # either is right
    sysext-oci-proxy check hello | grep --quiet 'tag 1.1 is held back until '
}
check rollout-by-the-document from_the_document

# Nobody has fetched the file, and it can be had by hand.
by_hand() {
    same "the file" "$(content 1.1)" "$(fetch "$URL/hello+all/hello-1.1.raw")"
    same "the file by its tag" "$(content 1.1)" "$(fetch "$URL/hello:1.1/hello.raw")"
    same "the status here" 404 "$(status "$URL/hello/hello-1.1.raw")"
}
check rollout-is-passed-by-hand by_hand

finished() {
    cd "$ROLLOUT"
    content 1.1 >hello.raw
    types_here 'rollout: finish'
    eventually 10 is_newest hello 1.1
    sysupdate hello update
    same "the file" "$(content 1.1)" "$(cat /opt/extensions/hello/hello-1.1.raw)"
}
check rollout-is-finished-early finished

stopped() {
    cd "$ROLLOUT"
    types_here 'rollout: stop'
    sleep 0.5
    listed hello "$(line <(content 1.0) hello-1.0.raw)"
    versions hello 1.1 1.0
    ! sysupdate hello check-new || fail "there is a newer version"
}
check rollout-is-stopped stopped

# What each setting makes of a rollout that has begun and takes a year, of one that is broken, and of one to come.
settings_count() {
    local rollout expected
    scheduled 1.2 "$(ago 60) 8760h"
    scheduled 1.3 "$(ago -86400) 0h"
    scheduled 1.4 soon
    for rollout in "follow 1.0" "last 1.0" "first 1.2" "ignore 1.4"; do
        read -r rollout expected <<<"$rollout"
        configure 61-hello <<<"[repository.hello]
rollout = \"$rollout\""
        same "the newest version with rollout = $rollout" "$expected" \
            "$(sysext-oci-proxy list hello | awk '/^1\./ { print $1; exit }')"
    done
    configure 61-hello <<<'[repository.hello]
rollout = "last"'
    is_held 1.2 'its rollout has reached 0 % of the machines, and rollout = "last" waits for all others; until '
    is_held 1.3 'its rollout begins at '
    is_held 1.4 "its annotation $ANNOTATION is no schedule: expected "
    unconfigure 61-hello
    for n in 1.2 1.3 1.4; do oras manifest delete --force "$ROLLOUT_HOST/acme/hello:$n"; done
}
check rollout-settings settings_count

# systemd-sysupdate finds the version when the turn has come, and not before.
turn_comes() {
    scheduled 1.5 "$(ago 3592) 1h"
    configure 61-hello <<<'listing-ttl-sec = 600
[repository.hello]
rollout = "last"'
    ! sysupdate hello check-new || fail "there is a newer version"
    # Its listing would be good for ten minutes.
    eventually 15 is_newest hello 1.5
    sysupdate hello update
    same "the file" "$(content 1.5)" "$(cat /opt/extensions/hello/hello-1.5.raw)"
    same "the lines of the turn" 1 "$(journalctl --sync; journalctl --output=cat MESSAGE_ID="$(turn_id)" TAG=1.5 | wc --lines)"
    unconfigure 61-hello
}
turn_id() { awk -F '[|` ]+' '$2 == "TURN" { print $3 }' /e2e/docs/journal.md; }
check rollout-turn-comes turn_comes

without_id() {
    local dropin=/run/systemd/system/$SERVICE.d
    scheduled 1.6 "$(ago 86400) 48h"
    mkdir --parents "$dropin"
    echo uninitialized >/run/no-id
    printf '[Service]\nBindReadOnlyPaths=/run/no-id:/etc/machine-id\n' >"$dropin/id.conf"
    systemctl daemon-reload
    stop_service
    is_held 1.6 'its rollout has reached 50 % of the machines, and this one is among the last, because /etc/machine-id has no ID, but "uninitialized"; until '
    rm "$dropin/id.conf"
    systemctl daemon-reload
    stop_service
    oras manifest delete --force "$ROLLOUT_HOST/acme/hello:1.6"
}
check rollout-without-a-machine-id without_id

# ---- freshness

# answered DAYS - sets the moment of the registry's last answer so many days back in the state
answered() {
    stop_service
    python3 - "$1" "$ROLLOUT_HOST/acme/hello" /var/lib/private/sysext-oci-proxy/promises/* <<'END'
import hashlib, json, sys, time
for path in sys.argv[3:]:
    head, text = open(path).read().split("\n", 1)
    state = json.loads(text)
    if state["source"] == sys.argv[2]:
        state["kept"]["answered"] = int(time.time()) - int(sys.argv[1]) * 86400
        text = json.dumps(state)
        open(path, "w").write(" ".join(head.split()[:3]) + " " + hashlib.sha256(text.encode()).hexdigest() + "\n" + text)
END
}

day() { date --utc --date="$1 days" +%F; }
best_before() { listing hello | grep --only-matching 'BEST-BEFORE-.*'; }

# is_fresh - systemd-sysupdate takes the list, wherever midnight is just now
is_fresh() {
    local zone
    for zone in UTC Pacific/Kiritimati Pacific/Pago_Pago; do TZ=$zone versions hello 1.5 1.1 1.0; done
}

# Since version 260 systemd refuses it. Before, that is the name of a file that no pattern matches.
is_stale() {
    local zone
    [ "$SYSTEMD" -ge 260 ] || { is_fresh; return; }
    for zone in UTC Pacific/Kiritimati Pacific/Pago_Pago; do
        ! TZ=$zone sysupdate hello list || fail "systemd-sysupdate took it in $zone"
    done
}

prepare_freshness() {
    serve_rollout mirror "$MIRROR_HOST"
    configure 61-hello <<<'[repository.hello]
best-before-days = 1'
    mkdir --parents /etc/containers
    mv /etc/containers/registries.conf "$ROLLOUT" || true
    printf '[[registry]]\nlocation = "%s"\n[[registry.mirror]]\nlocation = "%s"\ninsecure = true\n' "$ROLLOUT_HOST" "$MIRROR_HOST" \
        >/etc/containers/registries.conf
    stop_service
    same "the line" "BEST-BEFORE-$(day 2)" "$(best_before)"
    is_fresh
}
check freshness-from-the-registrys-answer prepare_freshness

# A list is stale from the beginning of its date on.
registry_is_frozen() {
    rollout_down
    stop_service
    same "the line" "BEST-BEFORE-$(day 2)" "$(best_before)"
    is_fresh
    answered 1
    same "the line" "BEST-BEFORE-$(day 1)" "$(best_before)"
    is_fresh
    for days in 2 3 400; do
        answered "$days"
        same "the line" "BEST-BEFORE-$(day $((2 - days)))" "$(best_before)"
        is_stale
    done
    [ "$SYSTEMD" -lt 260 ] || { sysupdate hello list || true; } 2>&1 | tail --lines=1
}
check freshness-ends-while-a-mirror-stands-in registry_is_frozen

registry_is_back() {
    serve_rollout registry "$ROLLOUT_HOST"
    stop_service
    same "the line" "BEST-BEFORE-$(day 2)" "$(best_before)"
    is_fresh
}
check freshness-is-back-with-the-registry registry_is_back

rm /etc/containers/registries.conf
mv "$ROLLOUT/registries.conf" /etc/containers/ 2>/dev/null || true
systemctl stop 'rollout-*.service'
rm --recursive --force /etc/sysupdate.hello.d /opt/extensions/hello /var/lib/extensions/hello.raw
unconfigure 61-hello
unconfigure 60-rollout
