# The options of agenix's module that the documents' examples use.
{ lib, ... }:
let
  secret =
    { name, ... }:
    {
      options.file = lib.mkOption { type = lib.types.path; };
      options.path = lib.mkOption {
        type = lib.types.str;
        default = "/run/agenix/${name}";
      };
      options.owner = lib.mkOption {
        type = lib.types.str;
        default = "0";
      };
      options.group = lib.mkOption {
        type = lib.types.str;
        default = "0";
      };
      options.mode = lib.mkOption {
        type = lib.types.str;
        default = "0400";
      };
    };
in
{
  options.age.secrets = lib.mkOption {
    type = lib.types.attrsOf (lib.types.submodule secret);
    default = { };
  };
}
