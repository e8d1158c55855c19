# The options of sops-nix's module that these configurations use.
{ lib, ... }:
let
  secret =
    { name, ... }:
    {
      options.path = lib.mkOption {
        type = lib.types.str;
        default = "/run/secrets/${name}";
      };
      options.restartUnits = lib.mkOption {
        type = lib.types.listOf lib.types.str;
        default = [ ];
      };
    };
in
{
  options.sops.secrets = lib.mkOption {
    type = lib.types.attrsOf (lib.types.submodule secret);
    default = { };
  };
}
