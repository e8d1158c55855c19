# A virtual machine to try it in: "nix run .#demo" and http://code.localhost:7080. Ctrl-A X in the console ends it. Its disk,
# nixos.qcow2, is made where it is started, and keeps what people do.
{ modulesPath, ... }:
let
  port = 7080;
  passwords = "/var/lib/demo-passwords";
in
{
  imports = [ "${modulesPath}/virtualisation/qemu-vm.nix" ];

  virtualisation = {
    graphics = false;
    memorySize = 4096;
    cores = 2;
    diskSize = 10240;
    # The same number on both sides: browsers send it, and code-server compares.
    forwardPorts = [
      {
        from = "host";
        host = {
          address = "127.0.0.1";
          inherit port;
        };
        guest.port = port;
      }
    ];
  };

  services.code-server-multi = {
    enable = true;
    domain = "code.localhost";
    # QEMU's forwarded connections come from outside of the machine, as it sees it.
    listen = {
      address = "0.0.0.0";
      inherit port;
    };
    users.ada = {
      passwordFile = "${passwords}/ada";
      admin = true;
    };
    users.grace.passwordFile = "${passwords}/grace";
  };
  networking.firewall.allowedTCPPorts = [ port ];

  # Before any service, so that nothing starts without them. Each machine has its own.
  system.activationScripts.demo-passwords = ''
    mkdir -p -m 0700 ${passwords}
    for name in ada grace; do
      [ -s ${passwords}/$name ] ||
        (umask 077 && head -c 9 /dev/urandom | base64 | tr -d '/+\n' > ${passwords}/$name)
    done
  '';

  systemd.services.demo-passwords = {
    description = "Show the demo's passwords";
    wantedBy = [ "multi-user.target" ];
    wants = [ "code-server-multi.service" ];
    after = [ "code-server-multi.service" ];
    serviceConfig = {
      Type = "oneshot";
      StandardOutput = "journal+console";
    };
    script = ''
      echo "http://code.localhost:${toString port}"
      for name in ada grace; do
        echo "$name  $(cat ${passwords}/$name)"
      done
    '';
  };

  services.getty.autologinUser = "root";
  networking.hostName = "demo";
  system.stateVersion = "26.05";
}
