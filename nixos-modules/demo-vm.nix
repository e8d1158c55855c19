# A virtual machine for a trial: "nix run .#demo" and http://code.localhost:7080. Ctrl-A X in the console stops it. QEMU creates its
# disk, nixos.qcow2, in the current directory; the disk keeps users' files.
{ config, modulesPath, ... }:
let
  port = 7080;
  passwords = "/var/lib/demo-passwords";
  # The address to which QEMU's network forwards connections.
  address = "10.0.2.15";
in
{
  imports = [ "${modulesPath}/virtualisation/qemu-vm.nix" ];

  virtualisation = {
    graphics = false;
    memorySize = 4096;
    cores = 2;
    diskSize = 10240;
    # The same port on both sides: browsers send it in Host and Origin, and csm and code-server compare it.
    forwardPorts = [
      {
        from = "host";
        host = {
          address = "127.0.0.1";
          inherit port;
        };
        guest = { inherit address port; };
      }
    ];
  };

  services.code-server-multi = {
    enable = true;
    domain = "code.localhost";
    listen = { inherit port; };
    users.ada = {
      passwordFile = "${passwords}/ada";
      admin = true;
    };
    users.grace.passwordFile = "${passwords}/grace";
  };
  networking.firewall.allowedTCPPorts = [ port ];

  # nginx listens only on the loopback.
  systemd.sockets.demo-forward = {
    wantedBy = [ "sockets.target" ];
    listenStreams = [ "${address}:${toString port}" ];
    # The network may not be configured yet.
    socketConfig.FreeBind = true;
  };
  systemd.services.demo-forward.serviceConfig.ExecStart =
    "${config.systemd.package}/lib/systemd/systemd-socket-proxyd 127.0.0.1:${toString port}";

  # Runs before all services, so that none starts without the passwords. Each virtual machine has different ones.
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
