# The whole stack on NixOS, one scenario a test. Each scenario's script is a Python file of its own beside this one, with lib.py
# in front, so that another guest with the same driver can run it. Here is what its machine has besides machine.nix.
{ pkgs, module }:
let
  inherit (pkgs) lib;

  scenario =
    name: node:
    pkgs.testers.runNixOSTest {
      inherit name;
      nodes.machine.imports = [
        module
        ./machine.nix
        node
      ];
      testScript = builtins.readFile ./lib.py + builtins.readFile (./. + "/${name}.py");
    };
in
lib.mapAttrs scenario {
  smoke = { };

  daemon = { };

  privilege = { };

  activity.services.code-server-multi.users.ada.autostop = {
    freezeAfter = "90s";
    stopAfter = "off";
    warnings = [ "20s" ];
  };

  acme = ./acme.nix;

  switch =
    let
      alan.services.code-server-multi.users.alan.passwordFile = "/run/test/alan";
    in
    {
      system.switch.enable = true;
      systemd.tmpfiles.rules = [ "f /run/test/alan 0400 root root - bombe-1940" ];
      networking.hosts."127.0.0.1" = [
        "alan.code.test"
        "extra.test"
      ];

      # Going back to the machine without them removes alan.
      specialisation.added.configuration = alan;
      specialisation.changed.configuration = {
        imports = [ alan ];
        services.code-server-multi.users.ada.memoryLimit = "2G";
        services.code-server-multi.users.grace.image = "localhost/another:1";
        services.nginx.virtualHosts."extra.test".locations."/".return = "200 extra";
      };
      specialisation.upgraded.configuration = {
        imports = [ alan ];
        systemd.services.code-server-multi.environment.RUST_LOG = "debug";
      };
    };

  isolation = {
    services.code-server-multi.users = {
      ada.hostServices = [ 5432 ];
      grace.secretEnvironment.TOKEN = "/run/test/token";
    };
    services.nginx.virtualHosts = {
      named = {
        listen = [
          {
            addr = "127.0.0.1";
            port = 5432;
          }
        ];
        locations."/".return = "200 named";
      };
      # Everywhere: on the loopback, and on the address for metadata once the machine has it.
      unnamed = {
        listen = [
          {
            addr = "0.0.0.0";
            port = 5433;
          }
        ];
        locations."/".return = "200 unnamed";
      };
    };
  };

  limits = {
    services.code-server-multi.users.ada = {
      memoryLimit = "1G";
      # Without the span in which the kernel only slows down, which can take minutes.
      memoryHigh = "1G";
      cpuLimit = "1.2";
      tasksLimit = 512;
    };
    # In tests the kernel panics when memory runs out, in a cgroup too.
    boot.kernel.sysctl."vm.panic_on_oom" = 0;
  };

  secrets.services.code-server-multi.users = {
    ada = {
      secretEnvironment.TOKEN = "/run/test/token";
      secretFiles."~/.netrc" = {
        source = "/run/test/netrc";
        mode = "0600";
      };
      secretFiles.".config/key".source = "/run/test/key";
    };
    grace.secretEnvironment.TOKEN = "/run/test/late";
  };
}
