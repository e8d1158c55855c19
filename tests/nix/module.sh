#!/usr/bin/env bash
# Evaluates the NixOS module: what it refuses and warns about, and that the files it writes (the manifest, units, nginx.conf) are valid
# and match those in the repository. UPDATE_DOCS=1 rewrites docs/options.md, tests/nix/written and vm-tests/guest/written.
# CSM_NIXOS_TREE is the module tree; CSM a prefix with bin/csm and share/code-server-multi (target/debug's by default).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/nix/lib
. tests/nix/lib

csm=${CSM:-$work/csm}
if [ -z "${CSM:-}" ]; then
  cargo build --quiet --locked
  mkdir -p "$csm/bin" "$csm/share/code-server-multi"
  cp target/debug/csm "$csm/bin/"
  cp -r share/nginx share/workspace "$csm/share/code-server-multi/"
fi

evaluate="with import ./tests/nix/evaluate.nix { tree = \"$CSM_NIXOS_TREE\"; csm = \"$csm\"; };"

# ask ATTRIBUTE: its value as JSON, or with --raw as text.
ask() { nix eval --impure "${2:---json}" --expr "$evaluate $1"; }

# make ATTRIBUTE: builds it and prints its path.
make() { nix build --impure --no-link --json --expr "$evaluate $1" | jq -r '.[0].outputs.out'; }

# --- refusals and warnings ---

ask said >"$work/said.json"
ask expected >"$work/expected.json"
while IFS=$'\t' read -r name verdict what; do
  # shellcheck disable=SC2016 # $1 is the inner shell's
  holds "$name" sh -c '[ "$1" = ok ] || { echo "$2"; exit 1; }' said "$verdict" "$what"
done < <(jq -r --slurpfile expected "$work/expected.json" '
  to_entries[] | .key as $name | $expected[0][$name] as $want | .value as $got
  | def fits($want; $got; $more): if $want == null then $got == []
      else ([$got[] | select(contains($want))] | length) == 1 and ($more or ($got | length) == 1) end;
    (($want.absent == null or ([$got.refused[] | select(contains($want.absent))] | length) == 0)
      and ($want.absent != null or fits($want.refused; $got.refused; $want.more))
      and (($want.refused != null and $want.warned == null) or fits($want.warned; $got.warned; $want.more))) as $ok
  | [$name, (if $ok then "ok" else "bad" end), ($got | tostring)] | @tsv' "$work/said.json")

# --- the configurations, and what they generate ---

nothing_refused() { ask "($1).failedAssertions" | tee "$work/refused" | grep -qxF '[]' || { cat "$work/refused"; return 1; }; }
for name in as-given minimal full sops "users 600"; do
  holds "$name is accepted" nothing_refused "$name"
done

warns_of_paths() { ask as-given.warnings | jq -e '[.[] | select(test("environment\\.(ANTHROPIC|OPENAI)_API_KEY is the path"))] | length == 2'; }
holds "as-given: the module warns about paths as values, and names the option that takes them" warns_of_paths

accounts() { ask full.users | jq -e '[."csm-anna", ."csm-anna-lena"] | all(.isSystemUser and .autoSubUidGidRange)'; }
holds "full: each user has an account with separate subordinate ids" accounts

apart() { ask 'unitsOf full' | jq -e 'has("code-server-anna.slice") and has("code-server-anna\\x2dlena.slice") and (has("code-server-anna-lena.slice") | not)'; }
holds "full: anna-lena's slice is not inside anna's" apart

untouched() { ask 'unitsOf full' | jq -e '[."code-server-anna@.service", ."code-server-anna-lena@.service"] | all(contains("X-RestartIfChanged=false"))'; }
holds "full: a switch restarts no workspace" untouched

# As NixOS combines units: a user's unit from the package, with the configuration's additions as a drop-in. The drop-in sets another PATH,
# and the launcher must not depend on it.
added_to() {
  local units
  units=$(make added.unitsInstalled)
  (cd "$units" && cat 'code-server-anna@.service' && cat 'code-server-anna@.service.d/overrides.conf' && cat 'code-server-anna\x2dlena.slice.d/overrides.conf') >"$work/added"
  grep -qx 'Nice=5' "$work/added" && grep -qx 'IOWeight=50' "$work/added" && grep -q '^Environment="PATH=' "$work/added" &&
    grep -qx 'ExecStart=/nix/store/[^ ]*/bin/env PATH=/nix/store/[^ ]*podman/bin:/run/wrappers/bin /nix/store/[^ ]*/bin/csm launch [^ ]* %n' "$work/added" &&
    [ "$(grep -c ^ExecStart= "$work/added")" = 1 ]
}
holds "added: a configuration's options for a user's unit and slice add to them" added_to

# The origin in the manifest, nginx's ports and the firewall must agree.
front() {
  ask "let found = $1; c = found.config; in { inherit (manifestOf found) frontDoor;
    open = c.networking.firewall.allowedTCPPorts; forced = c.services.nginx.virtualHosts.\"code.example.org\".forceSSL;
    rejects = c.services.nginx.virtualHosts.code-server-multi-rejected.default; }" | jq -e "$2"
}
holds "full: browsers' port is 443, and plain HTTP redirects to it" \
  front full '.frontDoor.listen == "0.0.0.0:443" and [.open, .forced, .rejects] == [[80, 443], true, true]'
holds "nginx on another port: the origin and the firewall have that port, and plain HTTP does not redirect" \
  front 'also { services.nginx.defaultSSLListenPort = 8443; }' '.frontDoor.listen == "0.0.0.0:8443" and [.open, .forced, .rejects] == [[8443], false, true]'
holds "nginx with defaultListen: the origin has that port" \
  front 'also { services.nginx.defaultListen = [ { addr = "0.0.0.0"; port = 9443; ssl = true; } { addr = "[::]"; port = 9443; ssl = true; } ]; }' \
  '.frontDoor.listen == "0.0.0.0:9443" and [.open, .forced, .rejects] == [[9443], false, true]'
holds "a router forwards port 443: the origin has port 443" \
  front 'also { services.nginx.defaultSSLListenPort = 8443; services.nginx.defaultHTTPListenPort = 8080; services.code-server-multi.httpsPort = 443; }' \
  '.frontDoor.listen == "0.0.0.0:443" and [.open, .forced, .rejects] == [[8080, 8443], true, true]'
holds "other server blocks: the default server stays theirs" \
  front 'also { services.nginx.virtualHosts."other.example.org" = { }; }' '.rejects == false'
strict() { ask full.nginxConf --raw | grep -F 'add_header Strict-Transport-Security "max-age=31536000; includeSubDomains" always;' && ! ask minimal.nginxConf --raw | grep -F Strict-Transport; }
holds "full: nginx sends HSTS; without a certificate it does not" strict

freeform() { ask '(manifestOf (also { services.code-server-multi.settings.users.anna.newField = 99; })).users.anna' | jq -e '.newField == 99 and .cpuLimit == "2.5"'; }
holds "settings add fields to the manifest" freeform

# The first subordinate id of the last range that the kernel accepts.
sub_ids_end() {
  local start='also { services.code-server-multi.users.anna.subIdStart = START; }'
  nothing_refused "${start/START/4294901759}" && ! ask "(${start/START/4294901760}).failedAssertions"
}
holds "subIdStart: its last range ends before the id that stands for none" sub_ids_end

acme_defaults() {
  ask 'let found = also {
      services.code-server-multi.acme.environmentFile = lib.mkForce null;
      security.acme.defaults = { environmentFile = "/run/secrets/default"; webroot = "/var/www"; };
    }; in { inherit (found) failedAssertions; inherit (found.config.security.acme.certs."code.example.org") environmentFile webroot; }' |
    jq -e '. == {failedAssertions: [], environmentFile: "/run/secrets/default", webroot: null}'
}
holds "acme: what is not set is that of security.acme.defaults, and no other challenge is" acme_defaults

own_secret_file() {
  ask '(manifestOf (check [ ./tests/nix/configurations/minimal.nix { services.code-server-multi = {
      defaults.secretFiles.".netrc".source = "/run/all"; users.dan.secretFiles."~/.netrc".source = "/run/dan"; }; } ])).users.dan.secretFiles' |
    jq -e '. == {".netrc": {source: "/run/dan", mode: "0400"}}'
}
holds "a user's secret file replaces that of defaults, however its path is written" own_secret_file

# Units and tmpfiles read a percent sign as the start of a specifier.
percent() {
  ask 'rec { units = unitsOf odd; passwords = units."code-server-multi-passwords.service.d/credentials.conf"; path = units."code-server-multi-passwords.path"; }' >"$work/odd.json"
  jq -e '(.units."code-server-dan@.service" | contains("LoadCredential=environment.TOKEN:/run/secrets/a%%h\n")) and
    (.passwords | contains("LoadCredential=dan:/run/secrets/100%%dan\n")) and (.path | contains("PathChanged=/run/secrets/100%%dan\n"))' "$work/odd.json"
}
holds "a percent sign in a secret's path stays part of the path" percent

homes() {
  ask 'manifestOf home' | jq -e '(.users.dan.image | startswith("docker-archive:/nix/store/")) and (.users.bob | has("image") | not)' &&
    ask homeImage.root.drvPath
}
holds "homeModules: only that user has another image" homes

elsewhere() {
  ask '{ units = unitsOf state; daemon = state.units."code-server-multi.service"; tmpfiles = lib.concatMap (lib.splitString "\n") state.tmpfiles; }' >"$work/state.json"
  jq -e '(.units."code-server-dan@.service" | contains("HOME=/persist/state/code-server-workspaces/dan/%i\n") and contains("RequiresMountsFor=/var/lib/vscode /persist/state/code-server-workspaces/dan\n")) and
    (.daemon | contains("STATE_DIRECTORY=/persist/state/code-server-multi\"") and contains("ReadWritePaths=/persist/state/code-server-multi\n") and contains("RequiresMountsFor=/persist/state/code-server-multi\n")) and
    (.tmpfiles | contains(["d /persist/state/code-server-workspaces/dan 0700 csm-dan csm-dan -", "d /persist/state/code-server-multi 0700 code-server-multi code-server-multi -"])) and
    (tostring | contains("/var/lib/code-server") | not)' "$work/state.json"
}
holds "stateBase: it contains sessions and Podman's storage, and /var/lib contains neither" elsewhere

sops_wiring() { ask 'sops.config.sops.secrets' | jq -e '."code-server-dan".restartUnits == ["code-server-multi-passwords.service"]'; }
holds "sops: a new password restarts only the unit that passes it to the daemon" sops_wiring

for name in minimal full as-given; do
  holds "$name: csm accepts the manifest" make "$name.config.services.code-server-multi.internal.manifestFile"
done

# The configuration with a generated certificate instead of the missing one, with nginx's directories below $work, and without "http2 on",
# which Debian 12's nginx does not support (1.25.1 does).
nginx_takes() {
  local conf
  conf=$(make "$1.nginxConfig")
  mkdir -p "$work/acme" "$work/cache"
  [ -e "$work/acme/key.pem" ] || openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=test -keyout "$work/acme/key.pem" -out "$work/acme/fullchain.pem"
  sed -E "s#/var/cache/nginx#$work/cache#g; s#/run/nginx/#$work/#g; s#/var/lib/acme/[^/]*/(chain|fullchain).pem#$work/acme/fullchain.pem#g
    s#/var/lib/acme/[^/]*/key.pem#$work/acme/key.pem#g; s/^[[:space:]]*http2 on;//" "$conf" >"$work/nginx.conf"
  nginx -t -e stderr -c "$work/nginx.conf"
}
if command -v nginx >/dev/null; then
  for name in minimal full as-given; do holds "$name: nginx accepts its configuration" nginx_takes "$name"; done
  holds "the dashboard as the default server: nginx accepts it" nginx_takes '(also { services.nginx.virtualHosts."code.example.org".default = true; })'
  holds "another default server on the same port: nginx accepts it" nginx_takes '(check [ ./tests/nix/configurations/minimal.nix {
    services.nginx.virtualHosts."x.example.org" = { default = true; listen = [ { addr = "127.0.0.1"; port = 7080; } ]; }; } ])'
else
  echo "skipped: nginx's own test of its configuration: nginx is not installed"
fi

# Without the hashes of store paths, which differ from host to host.
ask written | sed -E 's#/nix/store/[a-z0-9]{32}-#/nix/store/…-#g' >"$work/written.json"

units_are_sound() {
  local units unit
  units=$(make 'full.config.environment.etc."systemd/system".source')
  mkdir -p "$work/units"
  cp -rL "$units/code-server-"* "$work/units/"
  # systemd-analyze verifies a template only as an instance.
  cp "$work/units/code-server-anna@.service" "$work/units/code-server-anna@main.service"
  for unit in code-server-multi.service code-server-multi-passwords.service code-server-multi-passwords.path code-server-anna@main.service; do
    # It also fails if programs that a unit names are missing on this host, so the test reads only its messages about these units.
    systemd-analyze verify --man=no --recursive-errors=no "$work/units/$unit" >>"$work/verified" 2>&1 || true
  done
  ! grep -F "$work/units" "$work/verified"
}
# Creates the directories as at boot, with a different id for each account.
directories_are_made() {
  local root=$work/machine id=990 name
  mkdir -p "$root/etc" "$root/run" "$root/var/lib"
  for name in code-server-multi nginx csm-dan; do
    echo "$name:x:$id:$id::/:/bin/false" >>"$root/etc/passwd"
    echo "$name:x:$id:" >>"$root/etc/group"
    id=$((id + 1))
  done
  jq -r .tmpfiles "$work/written.json" >"$work/tmpfiles.conf"
  systemd-tmpfiles --create --root="$root" "$work/tmpfiles.conf" || return 1
  [ "$(stat -c '%u:%g %a' "$root/run/code-server-multi/ws/dan")" = '992:991 710' ] &&
    [ "$(stat -c '%u:%g %a' "$root/run/code-server-multi/secrets/dan")" = '992:992 700' ] &&
    [ "$(stat -c '%u:%g %a' "$root/var/lib/vscode/dan/home")" = '992:992 700' ]
}
little_exposed() {
  local units unit
  units=$(make 'full.unitTree [ "code-server-multi.service" "code-server-multi-passwords.service" ]')
  for unit in code-server-multi code-server-multi-passwords; do
    systemd-analyze security --offline=true --threshold=10 --no-pager "$units/systemd/system/$unit.service" >"$work/exposure" || { tail -n 3 "$work/exposure"; return 1; }
  done
}
if command -v systemd-analyze >/dev/null; then
  holds "full: systemd accepts the units" units_are_sound
  holds "minimal: systemd creates the directories" directories_are_made
  holds "full: the exposure of the daemon and of its password unit is at most 1.0" little_exposed
else
  echo "skipped: systemd's own test of units: systemd-analyze is not installed"
fi

# --- the documents' examples ---

mkdir "$work/examples"
# An example that does not begin with a brace is a part of a configuration.
awk -v to="$work/examples" '
  /^ *```/ && file { if (part) print "}" > file; close(file); file = ""; next }
  /^ *```nix/ { name = FILENAME; gsub("[/.]", "-", name); file = to "/" ($2 == "flake" ? "flake-" : "module-") name "-" FNR ".nix"; begun = part = 0; next }
  file && !begun && NF { begun = 1; if ($1 !~ /^[{]/) { part = 1; print "{ config, lib, pkgs, ... }:\n{" > file } }
  file { print > file }' README.md docs/howto/*.md
parses() { nix-instantiate --parse "$1" >/dev/null; }
for file in "$work"/examples/flake-*.nix; do
  [ ! -e "$file" ] || holds "the example $(basename "$file" .nix) parses" parses "$file"
done
for file in "$work"/examples/module-*.nix; do
  holds "the example $(basename "$file" .nix) is accepted" nothing_refused "example $file"
done

# --- generated files in the repository ---

# kept THERE FOUND: succeeds if both are the same.
kept() {
  [ -z "${UPDATE_DOCS:-}" ] || cp -rT "$2" "$1"
  diff -ru "$1" "$2" || { echo "$1 has drifted; run UPDATE_DOCS=1 tests/nix/run"; return 1; }
}

ask optionsReference --raw >"$work/options.md"
holds "docs/options.md matches the options" kept docs/options.md "$work/options.md"

# nginx.conf without its many empty lines.
written() {
  local name
  mkdir -p "$work/written"
  for name in $(jq -r 'keys[]' "$work/written.json"); do
    mkdir -p "$(dirname "$work/written/$name")"
    jq -r --arg name "$name" '.[$name]' "$work/written.json" | sed -E '/^[[:space:]]*$/d' >"$work/written/$name"
    case $name in *.json) jq . "$work/written/$name" >"$work/sorted" && mv "$work/sorted" "$work/written/$name" ;; esac
  done
}
written
[ -z "${UPDATE_DOCS:-}" ] || rm -rf tests/nix/written
holds "minimal: the written files match tests/nix/written" kept tests/nix/written "$work/written"

vm-tests/guest/write "$work/guest" <"$(make guest)"
[ -z "${UPDATE_DOCS:-}" ] || rm -rf vm-tests/guest/written
holds "vm-tests: each scenario's written files match vm-tests/guest/written" kept vm-tests/guest/written "$work/guest"

closing module
