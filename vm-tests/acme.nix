# Pebble, a certificate authority for tests, and the DNS server that it asks, on the machine itself.
{ lib, pkgs, ... }:
let
  dns = "127.0.0.1:8053";

  pebble = pkgs.writeText "pebble.json" (
    builtins.toJSON {
      pebble = {
        listenAddress = "127.0.0.1:14000";
        managementListenAddress = "127.0.0.1:15000";
        # For its own TLS, at acme.code.test.
        certificate = "/run/test/certificate.pem";
        privateKey = "/run/test/key.pem";
        httpPort = 80;
        tlsPort = 443;
      };
    }
  );

  # lego's exec provider: present or cleanup, then the record's name and value.
  record = pkgs.writeShellScript "record" ''
    case $1 in
      present) path=set-txt ;;
      *) path=clear-txt ;;
    esac
    exec ${pkgs.curl}/bin/curl --fail --silent --show-error \
      --data "{\"host\": \"$2\", \"value\": \"$3\"}" "http://127.0.0.1:8055/$path"
  '';
in
{
  networking.hosts."127.0.0.1" = [
    "acme.code.test"
    "3000--ada.code.test"
  ];

  services.code-server-multi = {
    certificate = lib.mkForce null;
    certificateKey = lib.mkForce null;
    acme = {
      dnsProvider = "exec";
      # A path outside of the store, as the module wants it.
      environmentFile = "/etc/acme-exec";
    };
  };
  environment.etc.acme-exec.text = ''
    EXEC_PATH=${record}
    EXEC_POLLING_INTERVAL=1
    EXEC_PROPAGATION_TIMEOUT=1
    EXEC_SEQUENCE_INTERVAL=1
  '';

  security.acme = {
    acceptTerms = true;
    defaults = {
      email = "ada@code.test";
      server = "https://acme.code.test:14000/dir";
      dnsResolver = dns;
      dnsPropagationCheck = false;
      # Longer than any certificate lasts: each order renews.
      validMinDays = 9999;
    };
  };

  systemd.services = {
    pebble = {
      description = "Certificate authority for tests";
      wantedBy = [ "multi-user.target" ];
      environment.PEBBLE_VA_NOSLEEP = "1";
      serviceConfig.ExecStart = "${pkgs.pebble}/bin/pebble -config ${pebble} -dnsserver ${dns}";
    };
    pebble-challtestsrv = {
      description = "DNS server for tests";
      wantedBy = [ "multi-user.target" ];
      serviceConfig.ExecStart = "${pkgs.pebble}/bin/pebble-challtestsrv -dns01 ${dns} -defaultIPv4 127.0.0.1 -defaultIPv6 ''";
    };
  };
}
