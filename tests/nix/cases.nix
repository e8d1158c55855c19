# Configurations that the module refuses or warns about. Each case is a module, evaluated together with one valid user. `refused` and
# `warned` are parts of exactly one message; without them there must be no message. With `more`, other messages are allowed.
{ lib }:
let
  csm = module: { services.code-server-multi = module; };
  dan = user: csm { users.dan = user; };
  domain = "code.example.org";
  # With a certificate, and these options of nginx.
  with-tls =
    nginx:
    lib.recursiveUpdate { services = { inherit nginx; }; } (csm {
      inherit domain;
      certificate = "/var/lib/c.pem";
      certificateKey = "/var/lib/k.pem";
    });
in
{
  nothing-said.module = csm { domain = "code.localhost"; };

  no-domain.module = { };
  no-domain.warned = "domain is not set: the workspaces are reachable only on the host";
  no-domain-with-certificate.module = csm {
    openFirewall = true;
    certificate = "/c";
    certificateKey = "/k";
  };
  no-domain-with-certificate.refused = "domain is not set, but services.code-server-multi.certificate and services.code-server-multi.openFirewall is; set it";
  no-certificate.module = csm { inherit domain; };
  no-certificate.warned = "for another proxy that terminates TLS on port 443; to obtain a certificate, set acme.dnsProvider";
  scheme.module = csm { domain = "https://code.example.org"; };
  scheme.refused = "is not a DNS name; write it without a scheme";
  capitals.module = csm { domain = "Code.example.org"; };
  capitals.refused = "is not a DNS name";

  two-certificates.module = csm {
    inherit domain;
    certificate = "/c";
    certificateKey = "/k";
    acme.dnsProvider = "cloudflare";
    acme.email = "a@example.org";
  };
  two-certificates.more = true;
  two-certificates.refused = "acme.dnsProvider and services.code-server-multi.certificate are set";
  half-a-certificate.module = csm {
    inherit domain;
    certificate = "/var/lib/c.pem";
  };
  half-a-certificate.refused = "only one of certificate and certificateKey is set; set both";
  no-email.module = csm {
    inherit domain;
    acme.dnsProvider = "cloudflare";
  };
  no-email.refused = "acme.email is not set; set it to a contact address";
  no-email.more = true;
  wildcard-without-dns.module = csm {
    inherit domain;
    acme.environmentFile = "/run/secrets/acme";
  };
  wildcard-without-dns.refused = "a wildcard certificate requires DNS-01; set acme.dnsProvider";
  foreign-certificate.module = {
    security.acme = {
      acceptTerms = true;
      defaults.email = "a@example.org";
      certs."example.org" = {
        webroot = "/x";
      };
    };
  }
  // csm {
    inherit domain;
    useACMEHost = "example.org";
  };
  # NixOS also has a message about the key's group.
  foreign-certificate.more = true;
  foreign-certificate.refused = "is not for *.code.example.org; give it the domain";
  unknown-certificate.module = {
    security.acme = {
      acceptTerms = true;
      defaults.email = "a@example.org";
    };
  }
  // csm {
    inherit domain;
    useACMEHost = "example.org";
  };
  unknown-certificate.refused = "security.acme.certs.\"example.org\" is not for *.code.example.org";
  # NixOS also has a message about such a certificate.
  unknown-certificate.more = true;
  firewall-for-nothing.module = csm {
    inherit domain;
    openFirewall = true;
  };
  firewall-for-nothing.refused = "openFirewall opens ports 80 and 443, but without a certificate nginx listens on 127.0.0.1:7080";

  plain-text.module = csm {
    inherit domain;
    listen.address = "192.168.1.2";
  };
  plain-text.refused = "listen.address is 192.168.1.2: without a certificate passwords would cross the network";
  plain-text-of-localhost.module = csm { listen.address = "0.0.0.0"; };
  plain-text-of-localhost.refused = "listen.address is 0.0.0.0, but names under localhost are reached only on the host itself; set listen.address to 127.0.0.1";

  no-nginx.module = {
    services.nginx.enable = false;
  };
  no-nginx.refused = "requires nginx, and services.nginx.enable is false";
  base-in-store.module = csm { workspaceBase = "/nix/store/x"; };
  base-in-store.refused = "workspaceBase is \"/nix/store/x\", which belongs to the system; set it to a separate directory";
  base-of-all-users.module = csm { workspaceBase = "/home"; };
  base-of-all-users.refused = "workspaceBase is \"/home\", which belongs to the system; set it to a separate directory";
  base-is-root.module = csm { workspaceBase = "/"; };
  base-is-root.refused = "workspaceBase is \"/\", which is not a path";
  base-temporary.module = csm { workspaceBase = "/tmp/people"; };
  base-temporary.refused = "workspaceBase is \"/tmp/people\", which belongs to the system";
  base-with-blank.module = csm { workspaceBase = "/srv/our people"; };
  base-with-blank.refused = "workspaceBase is \"/srv/our people\", which is not a path of letters, digits";
  base-with-percent.module = csm { workspaceBase = "/srv/%h"; };
  base-with-percent.refused = "workspaceBase is \"/srv/%h\", which is not a path of letters, digits";
  base-with-slash.module = csm { workspaceBase = "/srv/ws/"; };
  base-with-slash.refused = "workspaceBase is \"/srv/ws/\", which ends with \"/\" or contains \"//\"; write \"/srv/ws\".";
  base-upwards.module = csm { workspaceBase = "/srv/../home"; };
  base-upwards.refused = "workspaceBase is \"/srv/../home\", which is not a path of letters, digits";
  base-relative.module = csm { workspaceBase = "people"; };
  base-relative.refused = "workspaceBase is \"people\", which is not a path of letters, digits";
  home-of-another.module = {
    users.users.dan = {
      isNormalUser = true;
      home = "/data/dan";
    };
  }
  // csm { workspaceBase = "/data"; };
  home-of-another.refused = "workspaceBase is \"/data\", so dan's files would be in /data/dan, the home of the account dan";
  home-of-another-outside.module = {
    users.users.dan.isNormalUser = true;
    users.users.eve = {
      isNormalUser = true;
      home = "/data/eve";
    };
  }
  // csm {
    domain = "code.localhost";
    workspaceBase = "/data";
  };
  base-in-a-home.module = {
    users.users.eve = {
      isNormalUser = true;
      home = "/data/eve";
    };
  }
  // csm { workspaceBase = "/data/eve/people"; };
  base-in-a-home.refused = "workspaceBase is \"/data/eve/people\", in the home of the account eve, which could replace it";
  base-emptied.module = csm { workspaceBase = "/var/tmp/workspaces"; };
  base-emptied.refused = "workspaceBase is \"/var/tmp/workspaces\", which belongs to the system";
  base-is-state.module = csm { workspaceBase = "/var/lib/code-server-multi"; };
  base-is-state.refused = "workspaceBase (\"/var/lib/code-server-multi\") and /var/lib/code-server-multi, which services.code-server-multi.stateBase sets, overlap; set one";
  base-in-state.module = csm {
    workspaceBase = "/srv/x/code-server-workspaces/homes";
    stateBase = "/srv/x";
  };
  base-in-state.refused = "overlap; set one of the two to a separate directory";
  state-in-base.module = csm {
    workspaceBase = "/srv/ws";
    stateBase = "/srv/ws/dan";
  };
  state-in-base.more = true;
  state-in-base.refused = "and /srv/ws/dan/code-server-multi, which";
  state-beside-base.module = csm {
    domain = "code.localhost";
    workspaceBase = "/srv/x/homes";
    stateBase = "/srv/x";
  };
  state-temporary.module = csm { stateBase = "/tmp"; };
  state-temporary.refused = "stateBase is \"/tmp\", which belongs to the system; set it to a directory that survives a reboot, for example \"/var/lib\"";
  state-in-run.module = csm { stateBase = "/run/x"; };
  state-in-run.refused = "stateBase is \"/run/x\", which belongs to the system";
  state-in-store.module = csm { stateBase = "/nix/store"; };
  state-in-store.refused = "stateBase is \"/nix/store\", which belongs to the system";
  state-in-a-home.module = {
    users.users.eve = {
      isNormalUser = true;
      home = "/data/eve";
    };
  }
  // csm { stateBase = "/data/eve/state"; };
  state-in-a-home.refused = "stateBase is \"/data/eve/state\", in the home of the account eve, which could replace it";
  state-with-blank.module = csm { stateBase = "/our state"; };
  state-with-blank.refused = "stateBase is \"/our state\", which is not a path of letters, digits";
  state-elsewhere.module = csm {
    domain = "code.localhost";
    stateBase = "/persist/var/lib";
  };

  sysusers.module = {
    systemd.sysusers.enable = true;
    users.mutableUsers = false;
    system.etc.overlay.enable = true;
    boot.initrd.systemd.enable = true;
  };
  # NixOS also has a message about such a configuration.
  sysusers.more = true;
  sysusers.refused = "systemd.sysusers.enable is set, and systemd-sysusers writes no subordinate ids";
  sysusers-with-own-files.module = {
    systemd.sysusers.enable = true;
    users.mutableUsers = false;
    environment.etc.subuid.text = "csm-dan:200000:65536";
    environment.etc.subgid.text = "csm-dan:200000:65536";
  }
  // csm { domain = "code.localhost"; };
  sysusers-with-own-files.absent = "subordinate ids";
  sysusers-with-own-files.more = true;
  ranges-given.module = csm {
    domain = "code.localhost";
    users.dan = {
      uid = 20001;
      subIdStart = 10000000;
    };
    users.bob = {
      subIdStart = 10065536;
      passwordFile = "/run/secrets/bob";
    };
  };
  ranges-overlap.module = csm {
    users.dan.subIdStart = 10000000;
    users.bob = {
      subIdStart = 10065535;
      passwordFile = "/run/secrets/bob";
    };
  };
  ranges-overlap.refused = "the subordinate ids of csm-dan (10000000 to 10065535) and csm-bob (10065535 to 10131070) overlap; give each a separate range";
  range-of-another.module = {
    users.users.eve = {
      isNormalUser = true;
      subUidRanges = [
        {
          startUid = 10000000;
          count = 1;
        }
      ];
      subGidRanges = [ ];
    };
  }
  // csm { users.dan.subIdStart = 10000000; };
  range-of-another.refused = "the subordinate ids of csm-dan (10000000 to 10065535) and eve (10000000 to 10000000) overlap";
  range-around-another.module = {
    users.users =
      lib.mapAttrs
        (_: range: {
          isNormalUser = true;
          subUidRanges = [ range ];
        })
        {
          eve = {
            startUid = 9000000;
            count = 5000000;
          };
          zed = {
            startUid = 9000001;
            count = 1;
          };
        };
  }
  // csm { users.dan.subIdStart = 10000000; };
  range-around-another.refused = "the subordinate ids of eve (9000000 to 13999999) and csm-dan (10000000 to 10065535) overlap";
  range-within-a-users.module = {
    users.users =
      lib.mapAttrs
        (_: range: {
          isNormalUser = true;
          subUidRanges = [ range ];
        })
        {
          eve = {
            startUid = 10000001;
            count = 5000000;
          };
          zed = {
            startUid = 10000002;
            count = 1;
          };
        };
  }
  // csm { users.dan.subIdStart = 10000000; };
  range-within-a-users.more = true;
  range-within-a-users.refused = "the subordinate ids of csm-dan (10000000 to 10065535) and zed (10000002 to 10000002) overlap";
  range-of-another-among-nixos.module.users.users.eve = {
    isNormalUser = true;
    subUidRanges = [
      {
        startUid = 100000;
        count = 65536;
      }
    ];
    subGidRanges = [ ];
  };
  range-of-another-among-nixos.refused = "the subordinate ids of eve (100000 to 165535) are among those that NixOS allocates to 1 other account (100000 to 165535); set users.users.eve.subUidRanges and subGidRanges to ranges from 165536";
  # The overlap is not with a user's range.
  range-of-another-and-of-others.module = {
    users.users = {
      bob.isNormalUser = true;
      eve = {
        isNormalUser = true;
        subUidRanges = [
          {
            startUid = 100000;
            count = 65536;
          }
        ];
      };
    };
  }
  // csm {
    domain = "code.localhost";
    users.dan.subIdStart = 10000000;
  };
  range-of-another-above-nixos.module = {
    users.users.eve = {
      isNormalUser = true;
      subUidRanges = [
        {
          startUid = 165536;
          count = 65536;
        }
      ];
    };
  }
  // csm { domain = "code.localhost"; };
  range-of-nixos.module = csm {
    users.dan.subIdStart = 100000;
    users.bob.passwordFile = "/run/secrets/bob";
  };
  range-of-nixos.refused = "users.dan.subIdStart is 100000, among the ranges that NixOS allocates to 1 other account; choose one from 165536";
  too-many.module = csm {
    users = lib.genAttrs (map (at: "p${toString at}") (lib.range 1 601)) (_: {
      passwordFile = "/run/secrets/all";
    });
  };
  too-many.refused = "NixOS has 600 ids (400 to 999) to allocate; set users.<name>.uid";
  many-with-uids.module = csm {
    domain = "code.localhost";
    users = lib.listToAttrs (
      map (
        at:
        lib.nameValuePair "p${toString at}" {
          passwordFile = "/run/secrets/all";
          uid = 20000 + at;
        }
      ) (lib.range 1 601)
    );
  };
  old-code-server.module = { };
  old-code-server.codeServer = "4.99.3";
  old-code-server.refused = "in versions before 4.99.4 a port's address can redirect a visitor to another site";
  older-code-server.module = { };
  older-code-server.codeServer = "4.115.0";
  older-code-server.warned = "images.override { code-server = ";
  newer-code-server-in-image.module = {
    imports = [
      (
        { config, pkgs, ... }:
        {
          services.code-server-multi = {
            domain = "code.localhost";
            baseImage =
              (config.services.code-server-multi.package.images.override {
                code-server = (pkgs.runCommand "code-server" { } "mkdir $out") // {
                  version = "4.124.2";
                };
              }).image-base;
          };
        }
      )
    ];
  };
  newer-code-server-in-image.codeServer = "4.115.0";
  old-code-server-unused.module = csm {
    domain = "code.localhost";
    baseImage = "docker.io/codercom/code-server:latest";
  };
  old-code-server-unused.codeServer = "4.90.0";

  sops-missing.module = csm { sops.enable = true; };
  sops-missing.refused = "sops-nix is not imported; add sops-nix.nixosModules.sops";

  no-password.module = dan { passwordFile = lib.mkForce null; };
  no-password.refused = "users.dan.passwordFile is not set; set it to a file that contains the password";
  password-in-store.module = dan { passwordFile = lib.mkForce "/nix/store/x"; };
  password-in-store.refused = "in the Nix store, which every account on the host can read; keep the secret outside";
  password-relative.module = dan { passwordFile = lib.mkForce "secrets/dan"; };
  password-relative.refused = "which is not an absolute path";
  password-with-newline.module = dan {
    passwordFile = lib.mkForce "/run/secrets/dan\nExecStartPre=+/bin/evil";
  };
  password-with-newline.refused = "users.dan.passwordFile is \"/run/secrets/dan\\nExecStartPre=+/bin/evil\", which contains a blank or a control character; rename the file";
  password-with-blank.module = dan { passwordFile = lib.mkForce "/run/secrets/dan "; };
  password-with-blank.refused = "which contains a blank or a control character";
  certificate-with-blank.module = csm {
    inherit domain;
    certificate = "/srv/my certs/c.pem";
    certificateKey = "/srv/k.pem";
  };
  certificate-with-blank.refused = "certificate is \"/srv/my certs/c.pem\", which is not a path of letters, digits";
  certificate-with-directive.module = csm {
    inherit domain;
    certificate = "/srv/c.pem";
    certificateKey = "/srv/k;.pem";
  };
  certificate-with-directive.refused = "certificateKey is \"/srv/k;.pem\", which is not a path of letters, digits";
  secret-in-store.module = dan { secretEnvironment.TOKEN = "/nix/store/x"; };
  secret-in-store.refused = "users.dan.secretEnvironment.TOKEN is /nix/store/x, in the Nix store";
  secret-file-in-store.module = dan { secretFiles.".netrc".source = "/nix/store/x"; };
  secret-file-in-store.refused = "users.dan.secretFiles.\".netrc\".source is /nix/store/x, in the Nix store";
  secret-file-twice.module = dan {
    secretFiles.".netrc".source = "/run/a";
    secretFiles."~/.netrc".source = "/run/b";
  };
  secret-file-twice.refused = "users.dan.secretFiles has \".netrc\" and \"~/.netrc\", which are the same file; keep one";
  default-secret-in-store.module = csm { defaults.secretEnvironment.TOKEN = "/nix/store/x"; };
  default-secret-in-store.refused = "defaults.secretEnvironment.TOKEN is /nix/store/x, in the Nix store";
  key-in-store.module = csm {
    inherit domain;
    certificate = "/var/lib/c.pem";
    certificateKey = "/nix/store/x";
  };
  key-in-store.refused = "certificateKey is /nix/store/x, in the Nix store";
  path-as-value.module = dan { environment.TOKEN = "/run/secrets/token"; };
  path-as-value.warned = "move the line to services.code-server-multi.users.dan.secretEnvironment";

  ports-clash.module = csm {
    users.dan.port = 8081;
    users.bob = {
      port = 8081;
      passwordFile = "/run/secrets/bob";
    };
  };
  ports-clash.refused = "port 8081 is set by services.code-server-multi.users.bob.port and services.code-server-multi.users.dan.port";
  port-of-nginx.module = dan { port = 7080; };
  port-of-nginx.refused = "users.dan.port and services.code-server-multi.listen.port; give each";
  port-low.module = dan { port = 80; };
  port-low.refused = "users.dan.port is 80; choose one from 1024";

  name-reserved.module = csm { users.www.passwordFile = "/run/secrets/www"; };
  name-reserved.refused = "users.www: the name is reserved";
  name-invalid.module = csm { users."Anna_Lena".passwordFile = "/run/secrets/a"; };
  name-invalid.refused = "users.\"Anna_Lena\": a name is 1 to 20 lower-case letters";
  name-long.module = csm { users.abcdefghijklmnopqrstu.passwordFile = "/run/secrets/a"; };
  name-long.refused = "a name is 1 to 20 lower-case letters";
  name-taken.module = {
    users.users.csm-dan.description = lib.mkForce "somebody else";
  };
  name-taken.refused = "the account csm-dan is also declared elsewhere";

  memory-unreadable.module = dan { memoryLimit = "lots"; };
  memory-unreadable.refused = "users.dan.memoryLimit is \"lots\", which is not a size; write for example \"3G\"";
  memory-zero.module = dan { memoryLimit = 0; };
  memory-zero.refused = "users.dan.memoryLimit is \"0\", which is not a size";
  memory-by-default.module = csm { defaults.memoryLimit = "3Gi"; };
  memory-by-default.refused = "services.code-server-multi.defaults.memoryLimit is \"3Gi\", which is not a size";
  soft-unreadable.module = dan { memoryHigh = "much"; };
  soft-unreadable.refused = "users.dan.memoryHigh is \"much\", which is not a size";
  soft-above-hard.module = dan { memoryHigh = "4G"; };
  soft-above-hard.refused = "users.dan.memoryHigh (4G) is above services.code-server-multi.defaults.memoryLimit (3G)";
  soft-by-default.module = csm {
    defaults.memoryHigh = "2560M";
    users.dan.memoryLimit = "2G";
  };
  soft-by-default.refused = "defaults.memoryHigh (2560M) is above services.code-server-multi.users.dan.memoryLimit (2G), and would never take effect; set services.code-server-multi.users.dan.memoryHigh";
  cpu-by-default.module = csm { defaults.cpuLimit = "two"; };
  cpu-by-default.refused = "services.code-server-multi.defaults.cpuLimit is \"two\", which is not a number of CPUs";
  image-from-elsewhere.module = csm { baseImage = "docker-archive:/srv/image.tar"; };
  image-from-elsewhere.refused = "services.code-server-multi.baseImage is \"docker-archive:/srv/image.tar\", which is not in the Nix store";
  image-by-transport.module = dan { image = "oci-archive:/srv/image.tar"; };
  image-by-transport.refused = "services.code-server-multi.users.dan.image is \"oci-archive:/srv/image.tar\", which is not an image's name";
  image-with-scheme.module = csm { defaults.image = "docker://docker.io/x/y"; };
  image-with-scheme.refused = "services.code-server-multi.defaults.image is \"docker://docker.io/x/y\", which is not an image's name";
  image-with-capitals.module = dan { image = "docker.io/X/y"; };
  image-with-capitals.refused = "users.dan.image is \"docker.io/X/y\", which is not an image's name";
  image-streamed.module =
    { pkgs, ... }:
    csm { baseImage = pkgs.writeShellScript "stream-mine" "exit"; };
  image-streamed.refused = "a program that streams an image; build it with dockerTools.buildLayeredImage";
  image-with-digest.module = lib.recursiveUpdate (csm { domain = "code.localhost"; }) (dan {
    image = "registry.example.org:5000/x/y-z_a:1.0@sha256:${lib.fixedWidthString 64 "0" ""}";
  });
  image-package.module =
    { pkgs, ... }:
    lib.recursiveUpdate (csm { domain = "code.localhost"; }) (dan {
      image = pkgs.dockerTools.buildLayeredImage { name = "mine"; };
    });
  homes-without-home-manager.module = dan { homeModules = [ { } ]; };
  homes-without-home-manager.refused = "users.dan.homeModules is set, but services.code-server-multi.homeManager is not; set it to the home-manager flake";
  homes-and-image.module = csm {
    homeManager.lib.homeManagerConfiguration = _: { activationPackage = "/nix/store/x"; };
    users.dan.homeModules = [ { } ];
    users.dan.image = "docker.io/x/y";
  };
  homes-and-image.refused = "users.dan.image and services.code-server-multi.users.dan.homeModules are both set, and homeModules are for the package's own image; remove one of them";
  cpu-unreadable.module = dan { cpuLimit = "two"; };
  cpu-unreadable.refused = "users.dan.cpuLimit is \"two\", which is not a number of CPUs";
  cpu-zero.module = dan { cpuLimit = 0; };
  cpu-zero.refused = "users.dan.cpuLimit is \"0\", which is not a number of CPUs";
  cpu-written-otherwise.module = lib.recursiveUpdate (csm { domain = "code.localhost"; }) (dan {
    cpuLimit = 2.5;
    memoryLimit = 4294967296;
  });

  setting-new.module = csm {
    domain = "code.localhost";
    settings = {
      newField = 1;
      frontDoor.newField = 1;
      users.dan.newField = { };
    };
  };
  setting-of-a-user.module = csm { settings.users.dan.tasksLimit = 9999; };
  setting-of-a-user.refused = "services.code-server-multi.settings.users.dan.tasksLimit would change only the manifest; remove it, and set services.code-server-multi.users.dan.tasksLimit";
  setting-secret.module = csm { settings.users.dan.secretEnvironment.A = "/run/a"; };
  setting-secret.refused = "settings.users.dan.secretEnvironment would change only the manifest";
  setting-of-no-user.module = csm { settings.users.eve.passwordFile = "/run/eve"; };
  setting-of-no-user.refused = "settings.users.eve is not for a user in services.code-server-multi.users; add services.code-server-multi.users.eve";
  setting-no-set.module = csm { settings.users = null; };
  setting-no-set.refused = "settings.users is not a set; write";
  setting-domain.module = csm { settings.domain = "b.example.org"; };
  setting-domain.refused = "settings.domain would change only the manifest; remove it, and set services.code-server-multi.domain.";
  setting-image.module = csm { settings.image = "docker.io/x/y"; };
  setting-image.refused = "settings.image would change only the manifest; remove it, and set services.code-server-multi.baseImage.";
  setting-front-door.module = csm { settings.frontDoor.listen = "0.0.0.0:443"; };
  setting-front-door.refused = "settings.frontDoor.listen would change only the manifest; remove it, and set services.code-server-multi.listen or httpsPort.";
  setting-version.module = csm { settings.version = 2; };
  setting-version.refused = "settings.version is not the version that the module writes; remove it";

  alias-wild.module = with-tls { virtualHosts."foo.org".serverAliases = [ "*.example.org" ]; };
  alias-wild.warned = "services.nginx.virtualHosts.\"foo.org\" has the name \"*.example.org\", which nginx prefers to the pattern of ports' hostnames, such as 3000--dan.code.example.org; replace the wildcard by that site's own hostnames";
  alias-wild-of-users.module = with-tls { virtualHosts.".code.example.org" = { }; };
  alias-wild-of-users.warned = "services.nginx.virtualHosts.\".code.example.org\" has the name \".code.example.org\", which nginx prefers";
  alias-wild-elsewhere.module = with-tls { virtualHosts."*.example.com" = { }; };
  alias-on-another-port.module = lib.recursiveUpdate (csm { domain = "code.localhost"; }) {
    services.nginx.virtualHosts."*.localhost" = { };
  };
  alias-of-a-user.module = with-tls {
    virtualHosts."foo.org".serverAliases = [ "dan.code.example.org" ];
  };
  alias-of-a-user.warned = "services.nginx.virtualHosts.\"foo.org\" has the name \"dan.code.example.org\" too, and nginx uses only one server block for a name; remove the name there";
  location-of-a-user.module = with-tls {
    virtualHosts."dan.code.example.org".locations."/".return = "404";
  };
  location-of-a-user.refused = "services.nginx.virtualHosts.\"dan.code.example.org\".locations.\"/\" is the workspace's; move it to another hostname";
  location-of-the-dashboard.module = with-tls {
    virtualHosts."code.example.org".locations."/".return = "404";
  };
  location-of-the-dashboard.refused = "services.nginx.virtualHosts.\"code.example.org\".locations.\"/\" is the dashboard's; move it to another hostname";
  listen-of-one.module = with-tls {
    virtualHosts."code.example.org".listen = [
      {
        addr = "0.0.0.0";
        port = 9443;
        ssl = true;
      }
    ];
  };
  listen-of-one.refused = "services.nginx.virtualHosts.\"code.example.org\".listen differs from that of \"dan.code.example.org\"; browsers use one port for all hostnames: set services.nginx.defaultListen instead";

  renamed.module = lib.recursiveUpdate (csm { domain = "code.localhost"; }) (csm {
    image = "docker.io/x/y:z";
  });
  renamed.warned = "services.code-server-multi.image' defined";
}
