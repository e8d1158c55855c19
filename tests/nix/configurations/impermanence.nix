# The options of impermanence's module that the documents' examples use.
{ lib, ... }:
{
  options.environment.persistence = lib.mkOption {
    type = lib.types.attrsOf lib.types.anything;
    default = { };
  };
}
