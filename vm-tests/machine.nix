# What every scenario has: two users, a self-signed certificate, and room for workspaces.
{ pkgs, ... }:
let
  domain = "code.test";
  certificate = pkgs.runCommand "certificate" { nativeBuildInputs = [ pkgs.openssl ]; } ''
    mkdir "$out"
    openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=${domain}" \
      -addext "subjectAltName=DNS:${domain},DNS:*.${domain}" -keyout "$out/key.pem" -out "$out/certificate.pem"
  '';
in
{
  virtualisation = {
    memorySize = 4096;
    diskSize = 8192;
    cores = 2;
  };

  networking.hosts."127.0.0.1" = [
    domain
    "ada.${domain}"
    "grace.${domain}"
    "nobody.${domain}"
  ];
  security.pki.certificateFiles = [ "${certificate}/certificate.pem" ];

  # Secrets of a test alone; a real one never lies in the store.
  systemd.tmpfiles.rules = [
    "d /run/test 0700 root root -"
    "f /run/test/ada 0400 root root - correct-horse"
    "f /run/test/grace 0400 root root - battery-staple"
    "C /run/test/certificate.pem 0444 root root - ${certificate}/certificate.pem"
    "C /run/test/key.pem 0440 root nginx - ${certificate}/key.pem"
    "z /run/test 0711 root root -"
  ];

  services.code-server-multi = {
    enable = true;
    inherit domain;
    certificate = "/run/test/certificate.pem";
    certificateKey = "/run/test/key.pem";
    users.ada = {
      passwordFile = "/run/test/ada";
      admin = true;
    };
    users.grace.passwordFile = "/run/test/grace";
  };
}
