{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.code-server-multi;
  ours = import ./lib.nix { inherit lib; };

  # A path as text: a file that is named without quotes must not be copied into the store, which everyone can read.
  path = lib.types.coercedTo lib.types.path toString lib.types.str;
  size = lib.types.either lib.types.ints.unsigned lib.types.str;
  cpus = lib.types.oneOf [
    lib.types.ints.unsigned
    lib.types.float
    lib.types.str
  ];

  # An image's name, or an archive that Nix builds.
  image = lib.types.coercedTo lib.types.package ours.imageName lib.types.str;

  secretFile = lib.types.submodule {
    options = {
      source = lib.mkOption {
        type = path;
        description = "The file on this machine whose content appears there.";
        example = "/run/secrets/dan-netrc";
      };
      mode = lib.mkOption {
        type = lib.types.enum [
          "0400"
          "0500"
          "0600"
          "0700"
        ];
        default = "0400";
        description = "Its permissions inside the workspace.";
        example = "0600";
      };
    };
  };

  # What a person has and `defaults` has for everyone. `each` gives the default of an option from its value there.
  shared = each: {
    image = lib.mkOption (
      {
        type = lib.types.nullOr image;
        description = ''
          The image: the name of any with `code-server` and `sh` on its `PATH`, or a package that
          `dockerTools.buildLayeredImage` makes, beside which the workspace gets `/nix/store`, read-only.
        '';
        example = "docker.io/codercom/code-server:latest";
      }
      // each "image" null
    );
    autoStart = lib.mkOption (
      {
        type = lib.types.bool;
        description = "Whether the workspace starts with the machine, before anybody visits.";
        example = true;
      }
      // each "autoStart" false
    );
    memoryLimit = lib.mkOption (
      {
        type = size;
        description = "The most memory that all workspaces of one person can have together; beyond it the kernel ends a process.";
        example = "4G";
      }
      // each "memoryLimit" "3G"
    );
    memoryHigh = lib.mkOption (
      {
        type = lib.types.nullOr size;
        description = ''
          Beyond this much memory the person's workspaces are slowed down and must give some back.
          `null` means five sixths of `memoryLimit`.
        '';
        example = "3328M";
      }
      // each "memoryHigh" null
    );
    cpuLimit = lib.mkOption (
      {
        type = cpus;
        description = "How many CPUs' worth of time one person's workspaces can use together.";
        example = "2.5";
      }
      // each "cpuLimit" "1.5"
    );
    tasksLimit = lib.mkOption (
      {
        type = lib.types.ints.between 64 4194304;
        description = "How many processes and threads one person's workspaces can have together.";
        example = 8192;
      }
      // each "tasksLimit" 4096
    );
    environment = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      default = { };
      description = ''
        Environment variables. Not for secrets: everyone on this machine can read them, and the value is taken as it
        stands, even if it is the path of a file. `secretEnvironment` takes such a file's content.
      '';
      example = {
        EDITOR = "nano";
      };
    };
    secretEnvironment = lib.mkOption {
      type = lib.types.attrsOf path;
      default = { };
      description = ''
        Environment variables whose values are in files: name → path. Read as root at each start; never in the store, on a
        command line or in `podman inspect`.
      '';
      example = {
        ANTHROPIC_API_KEY = "/run/secrets/dan-anthropic";
      };
    };
    secretFiles = lib.mkOption {
      type = lib.types.attrsOf secretFile;
      default = { };
      description = "Secret files that appear in the home: path below the home → where it comes from. Read as root at each start.";
      example = {
        ".netrc" = {
          source = "/run/secrets/dan-netrc";
          mode = "0600";
        };
      };
    };
    hostServices = lib.mkOption {
      type = lib.types.listOf lib.types.port;
      default = [ ];
      description = "TCP ports of this machine's loopback that the workspace reaches as its own `localhost`.";
      example = [ 5432 ];
    };
    extensions = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      description = "VS Code extensions that are installed when missing: `publisher.name`, or the path of a `.vsix` in the image.";
      example = [ "rust-lang.rust-analyzer" ];
    };
    settings = lib.mkOption {
      type = (pkgs.formats.json { }).type;
      default = { };
      description = "VS Code settings to begin with. Each is written once into a person's own settings, and never over what they chose.";
      example = {
        "editor.fontSize" = 15;
      };
    };
    packages = lib.mkOption {
      type = lib.types.listOf lib.types.package;
      default = [ ];
      description = ''
        Nix packages on the workspace's `PATH`, without a new image: the workspace gets `/nix/store`, read-only. Whoever works
        there can read all of this machine's store.
      '';
      example = lib.literalExpression "[ pkgs.go pkgs.gopls ]";
    };
  };

  # Two modules, so that what does not depend on the name is made once and not for each person.
  user = lib.types.submodule [
    {
      options =
        shared (
          option: _: {
            default = cfg.defaults.${option};
            defaultText = lib.literalExpression "config.services.code-server-multi.defaults.${option}";
          }
        )
        // {
          admin = lib.mkOption {
            type = lib.types.bool;
            default = false;
            description = "Whether this person sees and manages everyone's workspace. Nobody but its owner ever gets into one.";
            example = true;
          };
          homeModules = lib.mkOption {
            type = lib.types.listOf lib.types.deferredModule;
            default = [ ];
            description = ''
              Modules of Home Manager for this person's home, for `coder` and `/home/coder`. They are activated at each start, in the
              package's own image. Needs `homeManager`.
            '';
            example = lib.literalExpression "[ { programs.git.enable = true; } ]";
          };
          uid = lib.mkOption {
            type = lib.types.nullOr (lib.types.ints.between 400 60000);
            default = null;
            description = ''
              The number of the account and its group. `null` lets NixOS choose one of its 600 for system accounts. NixOS gives an account
              that exists no other number.
            '';
            example = 20001;
          };
          subIdStart = lib.mkOption {
            type = lib.types.nullOr (lib.types.ints.between 100000 4294901760);
            default = null;
            description = ''
              The first of the person's 65536 subordinate ids, which are the ids in their containers. `null` lets NixOS choose. NixOS
              before 25.05 can give two accounts the same ones; workspaces don't start then, and `csm doctor` says whose they are.
            '';
            example = 10000000;
          };
          port = lib.mkOption {
            type = lib.types.nullOr lib.types.port;
            default = null;
            description = "A port on 127.0.0.1 that shows this workspace too, with the same sign-in: for SSH tunnels. From 1024.";
            example = 8081;
          };
        };
    }
    (
      { name, ... }:
      {
        options.passwordFile = lib.mkOption {
          type = lib.types.nullOr path;
          default = if cfg.sops.enable then config.sops.secrets."code-server-${name}".path else null;
          defaultText = lib.literalMD "with `sops.enable`, the path of the secret `code-server-<name>`; otherwise it must be given";
          description = "A file with the person's password, or its argon2 hash as `csm hash-password` prints it. Read as root.";
          example = lib.literalExpression "config.sops.secrets.code-server-dan.path";
        };
      }
    )
  ];
in
{
  options.services.code-server-multi = {
    enable = lib.mkEnableOption "workspaces with VS Code and coding agents in the browser, one for each person";

    package = lib.mkPackageOption pkgs "code-server-multi" { };

    domain = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      description = ''
        The DNS name of the dashboard, below which each workspace has its own: `https://<name>.<domain>`. A DNS record
        `*.<domain>` points here too. With `null` the workspaces are at `http://<name>.code.localhost:7080` on this machine
        alone, for trying it out and for SSH tunnels.
      '';
      example = "code.example.org";
    };

    acme = {
      dnsProvider = lib.mkOption {
        type = lib.types.nullOr lib.types.str;
        default = null;
        description = ''
          Where the domain's DNS is, by lego's name of it. Given this, the certificate for `<domain>` and `*.<domain>` is had
          and renewed by NixOS' ACME module. A wildcard needs DNS-01, there is no other way.
        '';
        example = "cloudflare";
      };
      environmentFile = lib.mkOption {
        type = lib.types.nullOr path;
        default = null;
        description = "A file with the variables that lego wants for this provider, such as the API token.";
        example = "/run/secrets/acme-dns";
      };
      email = lib.mkOption {
        type = lib.types.nullOr lib.types.str;
        default = config.security.acme.defaults.email or null;
        defaultText = lib.literalExpression "config.security.acme.defaults.email";
        description = "Whom the certificate authority writes to.";
        example = "admin@example.org";
      };
    };

    useACMEHost = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      description = "A certificate of `security.acme.certs` for `<domain>` and `*.<domain>` that this machine has already.";
      example = "example.org";
    };

    certificate = lib.mkOption {
      type = lib.types.nullOr path;
      default = null;
      description = "A certificate for `<domain>` and `*.<domain>` from elsewhere, with its chain, in PEM.";
      example = "/var/lib/certificates/code.pem";
    };

    certificateKey = lib.mkOption {
      type = lib.types.nullOr path;
      default = null;
      description = "The private key of `certificate`, in PEM. nginx must be able to read it: group `nginx`, mode `0440`.";
      example = "/run/secrets/code-key.pem";
    };

    listen = {
      address = lib.mkOption {
        type = lib.types.str;
        default = "127.0.0.1";
        description = "Without a certificate: the address of this machine's loopback at which another proxy, which ends TLS on port 443, finds nginx.";
        example = "127.0.0.2";
      };
      port = lib.mkOption {
        type = lib.types.port;
        default = 7080;
        description = "Without a certificate: the port that goes with `listen.address`.";
        example = 8080;
      };
    };

    httpsPort = lib.mkOption {
      type = lib.types.port;
      default = cfg.internal.listeningPort;
      defaultText = lib.literalMD "the port that nginx listens on with TLS: `services.nginx.defaultSSLListenPort`, unless it is told otherwise";
      description = ''
        With a certificate: the port in the addresses that browsers use, which sign-ins are bound to. It differs from nginx' own
        where a router passes another one on.
      '';
      example = 8443;
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether nginx' ports, 80 and 443 unless it is told otherwise, are opened to everyone.";
      example = true;
    };

    workspaceBase = lib.mkOption {
      type = path;
      default = "/var/lib/vscode";
      description = "The directory that holds `<name>/home` and `<name>/workspace` of each person.";
      example = "/srv/workspaces";
    };

    stateBase = lib.mkOption {
      type = path;
      default = "/var/lib";
      description = ''
        The directory that holds `code-server-multi`, with sessions and the daemon's key, and `code-server-workspaces`, with Podman's
        storage of each workspace. Both are worth a backup less than `workspaceBase`, and both must survive a reboot.
      '';
      example = "/persist/var/lib";
    };

    baseImage = lib.mkOption {
      type = lib.types.either lib.types.package lib.types.str;
      default = cfg.package.imageBase;
      defaultText = lib.literalMD "the package's own image: tiny, with its programs from this machine's `/nix/store`";
      description = ''
        The image for everyone who has none of their own: the name of any with `code-server` and `sh` on its `PATH`, or a package
        that `dockerTools.buildLayeredImage` makes, beside which a workspace gets `/nix/store`, read-only.
      '';
      example = "docker.io/codercom/code-server:latest";
    };

    homeManager = lib.mkOption {
      type = lib.types.nullOr lib.types.raw;
      default = null;
      description = "The flake home-manager, for `users.<name>.homeModules`.";
      example = lib.literalExpression "inputs.home-manager";
    };

    settings = lib.mkOption {
      type = (pkgs.formats.json { }).type;
      default = { };
      description = ''
        Fields of the [manifest](manifest.md) as they are, over what this module writes: for those that have no option here. The
        build checks them.
      '';
      example = {
        users.dan.tasksLimit = 512;
      };
    };

    defaults = lib.mkOption {
      type = lib.types.submodule { options = shared (_: default: { inherit default; }); };
      default = { };
      description = "What everyone has who does not have it otherwise. Lists and sets add to a person's own.";
      example = {
        memoryLimit = "4G";
        extensions = [ "rust-lang.rust-analyzer" ];
      };
    };

    users = lib.mkOption {
      type = lib.types.attrsOf user;
      default = { };
      description = ''
        The people, by name: 1 to 20 lower-case letters, digits and single dashes, a letter first. Each has an account
        `csm-<name>`, of which they know no password. Who is removed is signed out and stopped; their files stay.
      '';
      example = lib.literalExpression ''
        {
          dan = {
            passwordFile = config.sops.secrets.code-server-dan.path;
            admin = true;
          };
        }
      '';
    };

    sops.enable = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = ''
        Whether each person's password is the secret `code-server-<name>` of sops-nix, which this module then declares. A new
        password is in force as soon as sops-nix has put it there. sops-nix itself is imported elsewhere in the configuration.
      '';
      example = true;
    };
  };
}
