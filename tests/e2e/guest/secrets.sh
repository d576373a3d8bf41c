# shellcheck shell=bash
# None of the passwords and tokens of all the themes before this is in the journal, where RUST_LOG=trace had all
# there is to say.

SECRETS=$FLEET/secrets

no_leaks() {
    {
        printf '%s\n' "$FLEET_PASSWORD" "$PUBLISHER_PASSWORD" wr0ng-passw0rd an0ther-passw0rd
        cut --delimiter=: --fields=2 "$FLEET/tokens/users"
        # what is before the last dot says who somebody is, and proves nothing
        sed 's/.*\.//' "$FLEET/tokens/tokens"
    } >"$SECRETS"
    journalctl --sync
    journalctl --boot --unit="$SERVICE" --output=cat >"$FLEET/journal"
    # it was asked for, and it was there: requests, and what TLS does
    grep --quiet 'GET https://ghcr.io/token: 200' "$FLEET/journal"
    grep --quiet 'ClientHello' "$FLEET/journal"
    /e2e/tests/leaks "$SECRETS" <"$FLEET/journal"
}
check no-secret-in-the-journal no_leaks

# The search finds what it is for.
finds() {
    local form
    for form in "$FLEET_PASSWORD" \
        "x$(printf 'fleet:%s' "$FLEET_PASSWORD" | base64)" \
        "$(printf '%s' "ab:$FLEET_PASSWORD" | base64)" \
        "$(printf '%s' "$FLEET_PASSWORD" | od --address-radix=x --format=x1z)" \
        "$(printf '%s' "$FLEET_PASSWORD" | od --address-radix=n --format=x1 | tr -d ' \n' | tr a-f A-F)" \
        "[$(printf '%s' "$FLEET_PASSWORD" | od --address-radix=n --format=u1 | tr --squeeze-repeats ' \n' ',')]"; do
        ! /e2e/tests/leaks "$SECRETS" <<<"… $form …" || fail "not found: $form"
    done
}
check leaks-are-found finds

rm "/etc/systemd/system/$SERVICE.d/10-trace.conf"
systemctl daemon-reload
unconfigure 20-fleet
