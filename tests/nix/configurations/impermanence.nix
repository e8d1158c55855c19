# As much of impermanence as the documents' examples need.
{ lib, ... }:
{
  options.environment.persistence = lib.mkOption {
    type = lib.types.attrsOf lib.types.anything;
    default = { };
  };
}
