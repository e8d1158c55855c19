# The certificate: a wildcard by DNS-01, an existing one of security.acme, given files, or none.
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
      # Declares an undeclared useACMEHost too, so that assertions.nix reports it instead of a missing attribute.
      ${acmeName} = lib.optionalAttrs (cfg.useACMEHost == null) {
        domain = "*.${cfg.domain}";
        extraDomainNames = [ cfg.domain ];
        inherit (cfg.acme) dnsProvider;
        # Other ways to obtain a certificate, which security.acme.defaults may set.
        webroot = lib.mkDefault null;
        listenHTTP = lib.mkDefault null;
        # If it is not set, security.acme.defaults applies.
        environmentFile = lib.mkIf (cfg.acme.environmentFile != null) cfg.acme.environmentFile;
        # assertions.nix refuses a missing address.
        email = toString cfg.acme.email;
        # Only nginx may read the key.
        group = config.services.nginx.group;
      };
    };
  };
}
