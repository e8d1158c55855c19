# What the module generates for each scenario and each of its specialisations, for a guest that is not NixOS. Each gets a file that lists
# the links in /etc and the accounts; these refer to everything else that was generated. `write` copies it all to vm-tests/guest/written.
{ lib, pkgs }:
scenarios:
let
  # The module's own units and those of what it configures. The guest has its own versions of all others.
  isOurs = name: builtins.match "(code-server-|nginx|acme-|pebble).*" name != null;
  # The same for files in /etc.
  isKept =
    name:
    builtins.match "code-server-multi/.*|containers/.*|nginx/.*|polkit-1/rules.d/.*|acme-exec" name
    != null;

  generation =
    config:
    let
      units = lib.filterAttrs (name: unit: unit.enable && isOurs name) config.systemd.units;
      # The units that are one package. What the scenario's machine adds to one of them is a drop-in.
      inherit (config.services.code-server-multi.internal) unitFiles;
      packaged = config.services.code-server-multi.internal.units;
      link = name: unit: kind: by: {
        name = "systemd/system/${by}.${kind}/${name}";
        value = "../${name}";
      };
      unitLinks =
        name: unit:
        [
          (lib.nameValuePair "systemd/system/${if packaged ? ${name} then "${name}.d/overrides.conf" else name}" "${unit.unit}/${name}")
        ]
        ++ map (link name unit "wants") unit.wantedBy
        ++ map (link name unit "requires") unit.requiredBy;
      etc = lib.filterAttrs (_: file: file.enable && isKept file.target) config.environment.etc;
      tmpfiles = lib.filter (
        line:
        builtins.match ".* /(run/acme|run/code-server|run/test|var/lib/vscode|var/lib/code-server).*" line
        != null
      ) (lib.concatMap (lib.splitString "\n") config.systemd.tmpfiles.rules);
      hosts = lib.concatLines (
        lib.mapAttrsToList (address: names: "${address} ${toString names}") config.networking.hosts
      );
      # The guest has the D-Bus policies of all other packages.
      busPolicies = lib.filter (
        package: package.name == "code-server-multi.conf"
      ) config.services.dbus.packages;
      isAccount = name: builtins.match "csm-.*|code-server-multi|nginx|acme" name != null;
    in
    pkgs.writeText "generation.json" (
      builtins.toJSON {
        etc =
          lib.listToAttrs (lib.concatLists (lib.mapAttrsToList unitLinks units))
          // lib.mapAttrs' (
            name: _: lib.nameValuePair "systemd/system/${name}" "${unitFiles}/lib/systemd/system/${name}"
          ) packaged
          // lib.mapAttrs' (_: file: lib.nameValuePair file.target "${file.source}") etc
          // lib.listToAttrs (
            map (
              package:
              lib.nameValuePair "dbus-1/system.d/${package.name}" "${package}/share/dbus-1/system.d/${package.name}"
            ) busPolicies
          )
          // {
            hosts = "${pkgs.writeText "hosts" "127.0.0.1 localhost\n${hosts}"}";
            "tmpfiles.d/00-nixos.conf" = "${pkgs.writeText "tmpfiles" (lib.concatLines tmpfiles)}";
          };
        accounts = {
          users = lib.mapAttrs (_: user: {
            inherit (user)
              uid
              group
              extraGroups
              home
              autoSubUidGidRange
              ;
          }) (lib.filterAttrs (name: _: isAccount name) config.users.users);
          groups = lib.mapAttrs (_: group: { inherit (group) gid members; }) (
            lib.filterAttrs (name: _: isAccount name) config.users.groups
          );
        };
      }
    );
in
lib.concatMapAttrs (
  name: test:
  let
    machine = test.nodes.machine;
  in
  {
    ${name} = generation machine;
  }
  // lib.mapAttrs' (
    specialisation: made: lib.nameValuePair "${name}.${specialisation}" (generation made.configuration)
  ) machine.specialisation
) scenarios
