#!/usr/bin/env bash
# Evaluates flake.nix, package.nix and images/ against a prepared NixOS module tree, without a binary cache or network, and runs
# what can run here: it builds the tree of an image and runs its entrypoint.
# usage: CSM_NIXOS_TREE=DIR tests/nix/images.sh
#   DIR/nixpkgs is a flake with nixpkgs' lib, its NixOS modules and stubs for packages. Root, nix, jq and shellcheck are needed.
# Prints one line for each check; the exit status is 1 if any fails.
# shellcheck disable=SC2016 # Nix, and scripts for other shells
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=tests/nix/lib
. tests/nix/lib
readonly repo=$PWD tree=${CSM_NIXOS_TREE:?is not set: the directory of a prepared NixOS module tree}/nixpkgs system=x86_64-linux

# same WHAT FOUND EXPECTED
same() {
  if [ "$2" = "$3" ]; then pass "$1"; else fail "$1: found '$2' instead of '$3'"; fi
}

# says WHAT FILE LINE: the file has this line.
says() { holds "$1" grep -qxF -e "$3" "$2"; }

# --- the flake, in a copy with stand-ins for inputs that need the network ---

mkdir -p "$work/flake" "$work/home-manager" "$work/sops-nix"
(cd "$repo" && tar --exclude=./target --exclude=./.git --exclude=node_modules -c .) | tar -x -C "$work/flake"
cat >"$work/home-manager/flake.nix" <<'END'
{
  outputs = _: {
    lib.homeManagerConfiguration = { pkgs, modules }: {
      activationPackage = pkgs.runCommand "home-manager-generation" { } "mkdir $out";
    };
  };
}
END
cat >"$work/sops-nix/flake.nix" <<'END'
{
  outputs = _: {
    nixosModules.sops = { lib, ... }: {
      options.sops = lib.mkOption {
        default = { };
        type = lib.types.submodule {
          freeformType = lib.types.attrsOf lib.types.anything;
          options.secrets = lib.mkOption {
            default = { };
            type = lib.types.attrsOf (lib.types.submodule ({ name, ... }: {
              freeformType = lib.types.attrsOf lib.types.anything;
              options.path = lib.mkOption { default = "/run/secrets/${name}"; };
            }));
          };
        };
      };
    };
  };
}
END

inputs=(--impure --offline --no-write-lock-file --override-input nixpkgs "path:$tree")
for name in home-manager sops-nix; do inputs+=(--override-input "$name" "path:$work/$name"); done

# value ATTRIBUTE [--apply FUNCTION]: as JSON.
value() {
  local attribute=$1
  shift
  nix eval "${inputs[@]}" --json "path:$work/flake#$attribute" "$@" 2>"$work/errors" || {
    grep -v '^warning: ' "$work/errors" | grep -A 5 '^error' >&2
    return 1
  }
}

same "the lock file pins exactly the inputs" \
  "$(jq -c '[(.nodes.root.inputs | keys), .version]' "$repo/flake.lock")" '[["home-manager","nixpkgs","sops-nix"],7]'
same "the other inputs follow nixpkgs" \
  "$(jq -c '[.nodes["home-manager", "sops-nix"].inputs.nixpkgs]' "$repo/flake.lock")" '[["nixpkgs"],["nixpkgs"]]'
same "nixpkgs is that of the release" "$(jq -r .nodes.nixpkgs.original.ref "$repo/flake.lock")" nixos-26.05

same "both systems have all packages" \
  "$(value packages --apply 'p: map (s: builtins.attrNames p.${s}) [ "x86_64-linux" "aarch64-linux" ]')" \
  "$(jq -nc '["code-server-multi","default","image-base","image-base-oci"] | [., .]')"
same "every package is a check" "$(value "checks.$system" --apply 'builtins.attrNames' |
  jq -c '. - (. - ["code-server-multi","default","image-base","image-base-oci"])')" \
  '["code-server-multi","default","image-base","image-base-oci"]'
# The virtual machine needs a kernel, which the tree does not have.
mapfile -t checks < <(value checks.$system --apply builtins.attrNames | jq -r '.[] | select(. != "demo")')
[ "${#checks[@]}" -gt 8 ] || fail "found only the checks ${checks[*]}"
for name in "${checks[@]}"; do
  holds "the check $name evaluates" value "checks.$system.$name.drvPath"
done
same "the overlay gives the package" \
  "$(value overlays.default --apply "overlay: ((import $tree { }).extend overlay).code-server-multi.meta.mainProgram")" '"csm"'

# --- the package ---

value "packages.$system.default" --apply 'p: {
  inherit (p.recordedArgs) pname version meta dontPatchShebangs;
  base = "${p.imageBase}" == "${p.images.image-base}";
}' >"$work/package.json"
package() { jq -r "$1" "$work/package.json"; }
same "the package is named as in Cargo.toml" "$(package .pname)" "$(sed -n 's/^name = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1)"
same "its version is that of Cargo.toml" "$(package .version)" "$(sed -n 's/^version = "\(.*\)"/\1/p' "$repo/Cargo.toml" | head -n 1)"
same "its program is csm" "$(package .meta.mainProgram)" csm
same "its licences are those of Cargo.toml" "$(package '[.meta.license[].spdxId] | join(" OR ")')" \
  "$(sed -n 's/^license = "\(.*\)"/\1/p' "$repo/Cargo.toml")"
same "the workspace's scripts keep #!/bin/sh" "$(package .dontPatchShebangs)" true
same "it carries the image for the module" "$(package .base)" true

# skopeo reads an archive twice, so it can't be a pipe.
holds "the publishing workflow hands skopeo a file" sh -c 'f=$1/.github/workflows/images.yml; grep -q "docker-archive:" "$f" && ! grep -qE "docker-archive:(/dev/stdin|/proc|-)" "$f"' sh "$repo"

# --- the images' configuration ---

for name in image-base image-base-oci; do
  value "packages.$system.$name" --apply 'i: i.recordedArgs // { inherit (i) tags; }' >"$work/$name.json"
done
base() { jq -r "$1" "$work/image-base.json"; }
oci() { jq -r "$1" "$work/image-base-oci.json"; }
same "image-base has none of the store in it" "$(base .includeStorePaths)" false
same "image-base is not compressed, so that Nix sees the store paths it needs" "$(base .compressor)" none
same "image-base-oci is complete" "$(oci '.includeStorePaths // true')" true
same "image-base depends on its contents alone" "$(base '.tag + (.config.Labels // "" | tostring)')" latest
same "image-base-oci's tags are the revision and latest" "$(oci '.tags | join(" ")')" "$(oci .tag) latest"
same "image-base-oci says its revision" "$(oci '.config.Labels["org.opencontainers.image.revision"]')" "$(oci .tag)"
same "both are the same otherwise" "$(jq -S 'del(.tag, .name, .compressor, .includeStorePaths, .config.Labels)' "$work/image-base.json")" \
  "$(jq -S 'del(.tag, .name, .config.Labels)' "$work/image-base-oci.json")"
same "the user is 1000:1000" "$(base .config.User)" 1000:1000
same "it starts in the home" "$(base .config.WorkingDir)" /home/coder
same "the entrypoint is our own" "$(base '.config.Entrypoint | join(" ")')" /opt/code-server-multi/entrypoint
base '.config.Env[]' >"$work/environment"
says "HOME is the home" "$work/environment" HOME=/home/coder
says "nix-ld has its loader" "$work/environment" NIX_LD=/usr/lib/nix-ld.so
says "the certificates are known" "$work/environment" SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt
same "the environment names nothing in the store" "$(grep -c /nix/store "$work/environment" || true)" 0

nix-store --query --references "$(value "packages.$system.image-base.environment.drvPath" | jq -r .)" >"$work/contents"
for package in bashInteractive code-server coreutils curl git nodejs opencode python3 tmux tzdata; do
  holds "$package is in it" grep -q -e "-$package.drv\$" "$work/contents"
done

# --- the images' tree, made by the commands that make it ---

# make NAME ATTRIBUTE [OVERRIDE]: the tree of an image, in $work/NAME.
make() {
  local commands
  nix build "${inputs[@]}" --no-link "path:$work/flake#$2.root" 2>"$work/errors" || {
    tail -n 5 "$work/errors" >&2
    return 1
  }
  commands=$(value "$2.recordedArgs.fakeRootCommands" | jq -r .)
  mkdir "$work/$1"
  (cd "$work/$1" && bash -euc "$commands")
}
make root "packages.$system.image-base"
cd "$work/root"
same "no file of the store is in the tree" "$(find nix -mindepth 2 | wc -l)" 0
same "/tmp is everyone's" "$(stat -c %a tmp) $(stat -c %a var/tmp)" "1777 1777"
same "the home is the user's" "$(stat -c '%u:%g %a' home/coder)" "1000:1000 700"
same "all else is root's" "$(find . -path ./home/coder -prune -o ! -user root -print | wc -l)" 0
for file in passwd group nsswitch.conf hosts hostname resolv.conf machine-id; do
  holds "/etc/$file is a file" test -f "etc/$file" -a ! -L "etc/$file"
done
says "coder has an account" etc/passwd coder:x:1000:1000:coder:/home/coder:/bin/bash
says "coder has a group" etc/group coder:x:1000:
same "/etc/mtab is the kernel's" "$(readlink etc/mtab)" /proc/mounts
for link in bin usr/bin usr/share etc/services etc/protocols etc/ssl/certs/ca-bundle.crt lib64/ld-linux-x86-64.so.2; do
  holds "/$link leads into the store" test -n "$(readlink "$link" | grep '^/nix/store/')"
done
same "/usr/bin/env is beside /bin/sh" "$(readlink usr/bin)" "$(readlink bin)"
holds "the loader is nix-ld" grep -q '/libexec/nix-ld$' <<<"$(readlink lib64/ld-linux-x86-64.so.2)"
for program in start terminal announce bin/keep bin/csm-run bin/csm-agent entrypoint; do
  holds "$program can be run" test -x "opt/code-server-multi/$program"
  same "$program runs with /bin/sh" "$(head -n 1 "opt/code-server-multi/$program")" '#!/bin/sh'
done

# --- what the entrypoint does ---

for script in entrypoint activate nix-stand-in; do
  holds "$script is sound" bash -n "$repo/images/$script"
  holds "shellcheck finds nothing in $script" shellcheck "$repo/images/$script"
done

mkdir -p "$work/programs" "$work/home"
cat >"$work/programs/code-server" <<'END'
#!/bin/sh
echo "code-server $*" >>"$HOME/ran"
END
# Coder's server, which does not respond to the first request.
cat >"$work/programs/curl" <<'END'
#!/bin/sh
for address in "$@"; do :; done
echo "curl $address" >>"$HOME/ran"
[ -e "$HOME/asked" ] || { touch "$HOME/asked"; exit 22; }
while [ "$1" != --output ]; do shift; done
printf '#!/bin/sh\necho "agent $* with $CODER_AGENT_TOKEN" >>"$HOME/ran"\n' >"$2"
END
printf '#!/bin/sh\n' >"$work/programs/sleep"
chmod +x "$work"/programs/*

# enter [VARIABLE=VALUE...] [-- COMMAND...]: prints the commands that the entrypoint ran.
enter() {
  local variables=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    variables+=("$1")
    shift
  done
  [ $# -eq 0 ] || shift
  rm -f "$work"/home/{ran,asked}
  env -i PATH="$work/programs:/usr/bin:/bin" HOME="$work/home" USER=coder "${variables[@]}" \
    "$work/root/opt/code-server-multi/entrypoint" "$@" >"$work/said" 2>&1 || echo "status $?" >>"$work/home/ran"
  # The extension is installed in the background.
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    if [ $# -gt 0 ] || [ "${#variables[@]}" -eq 2 ] || grep -q install-extension "$work/home/ran"; then break; fi
    /bin/sleep 0.2
  done
  sort "$work/home/ran" 2>/dev/null || true
}
editor="code-server --bind-addr=0.0.0.0:8080 --disable-telemetry --disable-update-check $work/home
code-server --install-extension sst-dev.opencode"
same "by default it is code-server, with OpenCode's extension" "$(enter)" "$editor"
same "a token alone does not make it Coder's" "$(enter CODER_AGENT_TOKEN=t)" "$editor"
case $(uname -m) in aarch64) architecture=arm64 ;; *) architecture=amd64 ;; esac
address="curl https://coder.example.org/bin/coder-linux-$architecture"
same "with Coder's token and address it is the agent, once the server answers" \
  "$(enter CODER_AGENT_TOKEN=secret CODER_AGENT_URL=https://coder.example.org/)" "agent agent with secret
$address
$address"
same "arguments are a command" "$(enter -- sh -c 'echo "$0 $1" >"$HOME/ran"' one two)" "one two"

mkdir -p "$work/home/.local/share/code-server/extensions/sst-dev.opencode-0.0.13"
enter >/dev/null
/bin/sleep 0.5
same "an extension that is there is not installed again" "$(grep -c install-extension "$work/home/ran" || true)" 0

# --- home-manager ---

make home-root "checks.$system.image-home-manager"
generation=$work/generation
mkdir -p "$generation"
# The calls of Nix in home-manager's own script, with the same way to find Nix.
cat >"$generation/activate" <<'END'
#!/usr/bin/env bash
set -euo pipefail
[ "$*" = "--driver-version 1" ]
PATH=$(dirname "$(readlink -m "$(type -p nix-env)")"):/usr/bin:/bin
nix-build --quiet --expr '{}' --no-out-link
nix-env -q
[ -d "$HOME/.local/state/nix/profiles" ]
nix-store --realise /nix/store/new --add-root "$HOME/.local/state/home-manager/gcroots/current-home"
nix-env -i /nix/store/home-path
echo activated >>"$HOME/ran"
END
chmod +x "$generation/activate"
configuration=$work/home-root/etc/code-server-multi
holds "the image has the home-manager configuration" test -L "$configuration/home"
ln -sfn "$generation" "$configuration/home"
cp -a "$configuration/." "$work/root/etc/code-server-multi/"
same "it is activated before code-server starts" "$(enter | head -n 1)" activated
same "its packages are in the profile on PATH" "$(readlink "$work/home/.nix-profile")" /nix/store/home-path
same "its generation is remembered" "$(readlink "$work/home/.local/state/home-manager/gcroots/current-home")" /nix/store/new
printf '#!/bin/sh\nexit 1\n' >"$generation/activate"
same "the editor starts although the activation of a configuration fails" "$(enter)" "${editor%%$'\n'*}"

# --- configurations, without their kernels ---

# machine MODULE FUNCTION: prints the configuration's failed assertions, then the function's result for it.
machine() {
  value nixosModules.default --apply "default:
    let
      shim = import $tree/shim { tree = $tree; };
      inherit (shim.evalNixos { modules = [ default ] ++ $1; }) config;
    in
    [ (map (a: a.message) (builtins.filter (a: !a.assertion) config.assertions)) ] ++ ($2) config"
}
same "the demo has two users, their passwords on its console and its port forwarded" \
  "$(machine "[ $work/flake/nixos-modules/demo-vm.nix ]" 'config: [
    (builtins.attrNames config.services.code-server-multi.users)
    config.systemd.services.demo-passwords.serviceConfig.StandardOutput
    (map (f: [ f.host.port f.guest.port ]) config.virtualisation.forwardPorts)
  ]')" '[[],["ada","grace"],"journal+console",[[7080,7080]]]'

cp -r "$work/flake/nixos-modules/template" "$work/template"
# The tree's stub of a kernel can't boot.
cat >"$work/template/hardware-configuration.nix" <<'END'
{ lib, ... }:
{
  fileSystems."/".device = "/dev/vda";
  boot.loader.systemd-boot.enable = lib.mkForce false;
  boot.loader.grub.enable = false;
}
END
same "the template is a complete configuration" \
  "$(machine "((import $work/template/flake.nix).outputs {
    nixpkgs.lib.nixosSystem = { modules }: modules;
    code-server-multi.nixosModules.default = { };
  }).nixosConfigurations.code" 'config: [ config.services.code-server-multi.domain ]')" '[[],"code.example.org"]'

closing "flake and images"
