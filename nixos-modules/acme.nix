# The certificate: one wildcard by DNS-01, one that the machine has already, files from elsewhere, or none.
{ config, lib, ... }:
let
  cfg = config.services.code-server-multi;
  acmeName =
    if cfg.useACMEHost != null then
      cfg.useACMEHost
    else if cfg.acme.dnsProvider != null then
      cfg.domain
    else
      null;
  directory = config.security.acme.certs.${acmeName}.directory;
in
{
  config = lib.mkIf cfg.enable {
    services.code-server-multi.internal = {
      inherit acmeName;
      tls =
        if acmeName != null then
          {
            certificate = "${directory}/fullchain.pem";
            certificateKey = "${directory}/key.pem";
          }
        else if cfg.certificate != null then
          { inherit (cfg) certificate certificateKey; }
        else
          null;
    };

    security.acme.certs = lib.mkIf (acmeName != null) {
      # One that nobody else declares is refused with a reason, not with a missing attribute.
      ${acmeName} = lib.optionalAttrs (cfg.useACMEHost == null) {
        domain = "*.${cfg.domain}";
        extraDomainNames = [ cfg.domain ];
        inherit (cfg.acme) dnsProvider environmentFile;
        # Without one it is refused (assertions.nix).
        email = toString cfg.acme.email;
        # nginx reads the key, and nobody else.
        group = config.services.nginx.group;
      };
    };
  };
}
