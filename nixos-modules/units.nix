# The units that each user needs, as one package instead of options: with systemd.services NixOS would need three times as long for each
# user. A configuration's own systemd.services."code-server-dan@" and systemd.slices."code-server-dan" become drop-ins of these units.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.code-server-multi;
in
{
  config = lib.mkIf cfg.enable {
    services.code-server-multi.internal = {
      # The text of each file, by its name below /etc/systemd/system.
      units = cfg.internal.userUnits // cfg.internal.passwordUnits;
      unitFiles =
        pkgs.runCommand "code-server-multi-units"
          {
            units = builtins.toJSON cfg.internal.units;
            passAsFile = [ "units" ];
            nativeBuildInputs = [ pkgs.jq ];
            preferLocalBuild = true;
          }
          ''
            jq --join-output 'to_entries[] | .key, "\u0000", .value, "\u0000"' "$unitsPath" |
              while IFS= read -r -d "" name && IFS= read -r -d "" text; do
                file=$out/lib/systemd/system/$name
                mkdir -p "''${file%/*}"
                printf %s "$text" > "$file"
              done
          '';
    };
    systemd.packages = [ cfg.internal.unitFiles ];
  };
}
