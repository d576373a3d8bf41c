# shellcheck shell=bash disable=SC2034 # used where this is sourced
# How each script begins that a container boots into. Sourced.

LOG=/e2e/log/log
exec >/e2e/log/checks 2>>"$LOG"
export HOME=/root LC_ALL=C.UTF-8 SYSTEMD_COLORS=0 SYSTEMD_PAGER=
trap 'journalctl --boot --output=short-precise >/e2e/log/journal' EXIT

here=$(dirname "$0")
# shellcheck source=tests/e2e/check.sh
. "$here/../check.sh"
# shellcheck source=tests/e2e/guest/lib.sh
. "$here/lib.sh"

# systemd-run-generator starts nothing but this; the clients want D-Bus.
systemctl start multi-user.target

# systemd 262 may find a loop device busy that was let go of a moment before; another try gets it.
cat >/usr/local/bin/systemd-sysext <<'END'
#!/bin/bash
# As a Varlink service it is handed a socket, which is meant for this process.
[ -z "${LISTEN_FDS:-}" ] || exec /usr/bin/systemd-sysext "$@"
for _ in {1..20}; do
    status=0
    output=$(/usr/bin/systemd-sysext "$@" 2>&1) || status=$?
    [[ $status != 0 && $output = *"Device or resource busy"* ]] || break
    sleep 0.5
done
[ -z "$output" ] || echo "$output"
exit "$status"
END
chmod 755 /usr/local/bin/systemd-sysext

# oras pushes files by the name they are given, and wants a relative one.
cd "$SCRATCH"
