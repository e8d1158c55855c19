{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.code-server-multi;
  ours = import ./lib.nix { inherit lib; };

  # A path as text. Otherwise Nix would copy a file whose path is written without quotes into the Nix store, which every account can read.
  path = lib.types.coercedTo lib.types.path toString lib.types.str;
  size = lib.types.either lib.types.ints.unsigned lib.types.str;
  cpus = lib.types.oneOf [
    lib.types.ints.unsigned
    lib.types.float
    lib.types.str
  ];

  # The name of an image, or an archive that Nix builds.
  image = lib.types.coercedTo lib.types.package ours.imageName lib.types.str;

  # The kernel does not use the id 4294967295, which stands for "no id".
  lastSubIdStart = 4294967295 - 65536;

  secretFile = lib.types.submodule {
    options = {
      source = lib.mkOption {
        type = path;
        description = "The file on the host that contains the secret.";
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
        description = "The file's permissions in the workspace.";
        example = "0600";
      };
    };
  };

  # The options that both a user and `defaults` have. `each` returns an option's default, given its name and its built-in default.
  shared = each: {
    image = lib.mkOption (
      {
        type = lib.types.nullOr image;
        description = ''
          The workspace's image: the name of an image with `code-server` and `sh` on its `PATH`, or a package that
          `dockerTools.buildLayeredImage` builds. With such a package the workspace also gets `/nix/store`, read-only.
        '';
        example = "docker.io/codercom/code-server:latest";
      }
      // each "image" null
    );
    autoStart = lib.mkOption (
      {
        type = lib.types.bool;
        description = "Whether the workspace starts when the host boots, before its owner visits it.";
        example = true;
      }
      // each "autoStart" false
    );
    memoryLimit = lib.mkOption (
      {
        type = size;
        description = "Hard memory limit of one user's workspaces together; above it the kernel kills a process.";
        example = "4G";
      }
      // each "memoryLimit" "3G"
    );
    memoryHigh = lib.mkOption (
      {
        type = lib.types.nullOr size;
        description = ''
          Soft memory limit of the user's workspaces together; above it the kernel slows them down and reclaims memory.
          `null` means five sixths of `memoryLimit`.
        '';
        example = "3328M";
      }
      // each "memoryHigh" null
    );
    cpuLimit = lib.mkOption (
      {
        type = cpus;
        description = "CPU time that one user's workspaces can use together, in CPUs.";
        example = "2.5";
      }
      // each "cpuLimit" "1.5"
    );
    tasksLimit = lib.mkOption (
      {
        type = lib.types.ints.between 64 4194304;
        description = "How many processes and threads one user's workspaces can have together.";
        example = 8192;
      }
      // each "tasksLimit" 4096
    );
    # Attribute sets instead of options for each field: these would take much of the evaluation's time for each user. csm checks the fields
    # when the manifest is built.
    autostop = lib.mkOption {
      type = lib.types.attrsOf (lib.types.either lib.types.str (lib.types.listOf lib.types.str));
      default = { };
      description = ''
        When the workspace is frozen and stopped while nobody uses it and nothing works in it: `freezeAfter` (`30m`), `stopAfter` (`8h`),
        `openTab` (`4h`), `maxLease` (`24h`), `maxRuntime` (`off`), `warnings` (`[ "10m" "2m" ]`) and `programs`. The manifest's reference
        describes them. A user's fields replace those of `defaults`.
      '';
      example = {
        freezeAfter = "20m";
        stopAfter = "2h";
      };
    };
    update = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      default = { };
      description = ''
        When a changed configuration is applied to a running workspace: `deadline` is the time after which it is restarted even if it is used,
        or `off`. A user's fields replace those of `defaults`.
      '';
      example.deadline = "7d";
    };
    environment = lib.mkOption {
      type = lib.types.attrsOf lib.types.str;
      default = { };
      description = ''
        Environment variables. Don't put secrets here: every account on the host can read them. A value that is the path of a
        file stays a path; `secretEnvironment` takes the content of a file.
      '';
      example = {
        EDITOR = "nano";
      };
    };
    secretEnvironment = lib.mkOption {
      type = lib.types.attrsOf path;
      default = { };
      description = ''
        Environment variables whose values are in files: name → path. systemd reads the files as root at each start. The values
        are never in the Nix store, on a command line or in `podman inspect`.
      '';
      example = {
        ANTHROPIC_API_KEY = "/run/secrets/dan-anthropic";
      };
    };
    secretFiles = lib.mkOption {
      type = lib.types.attrsOf secretFile;
      default = { };
      description = "Secret files in the home: path below the home → source. systemd reads the sources as root at each start.";
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
      description = "TCP ports of the host's loopback that are reachable as `localhost` in the workspace.";
      example = [ 5432 ];
    };
    extensions = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      description = "VS Code extensions that csm installs if they are missing: `publisher.name`, or the path of a `.vsix` in the image.";
      example = [ "rust-lang.rust-analyzer" ];
    };
    settings = lib.mkOption {
      type = (pkgs.formats.json { }).type;
      default = { };
      description = "Initial VS Code settings. csm writes each one once into the user's settings, and never replaces a value that the user set.";
      example = {
        "editor.fontSize" = 15;
      };
    };
    packages = lib.mkOption {
      type = lib.types.listOf lib.types.package;
      default = [ ];
      description = ''
        Nix packages on the workspace's `PATH`, without a new image. The workspace gets `/nix/store`, read-only, so its user can
        read all of the host's Nix store.
      '';
      example = lib.literalExpression "[ pkgs.go pkgs.gopls ]";
    };
  };

  # Two modules: NixOS evaluates the options of the first, which does not depend on the name, once and not for each user.
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
            description = "Whether this user is an admin, who sees and manages all workspaces. Only its owner can open a workspace.";
            example = true;
          };
          homeModules = lib.mkOption {
            type = lib.types.listOf lib.types.deferredModule;
            default = [ ];
            description = ''
              Home Manager modules for this user's home, for `coder` and `/home/coder`. The package's own image activates them at
              each start. Requires `homeManager`.
            '';
            example = lib.literalExpression "[ { programs.git.enable = true; } ]";
          };
          uid = lib.mkOption {
            type = lib.types.nullOr (lib.types.ints.between 400 60000);
            default = null;
            description = ''
              The id of the account and of its group. `null` lets NixOS choose one of its 600 ids for system accounts. NixOS does not
              change the id of an existing account.
            '';
            example = 20001;
          };
          subIdStart = lib.mkOption {
            type = lib.types.nullOr (lib.types.ints.between 100000 lastSubIdStart);
            default = null;
            description = ''
              The first of the user's 65536 subordinate ids, which are the ids in their containers. `null` lets NixOS choose. NixOS
              before 25.05 can give two accounts the same ids; their workspaces then don't start, and `csm doctor` names both accounts.
            '';
            example = 10000000;
          };
          port = lib.mkOption {
            type = lib.types.nullOr lib.types.port;
            default = null;
            description = "A port on 127.0.0.1, 1024 or higher, that also opens this workspace, with the same sign-in: for SSH tunnels.";
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
          defaultText = lib.literalMD "with `sops.enable`, the path of the secret `code-server-<name>`; otherwise you must set it";
          description = "A file with the user's password, or its argon2 hash as `csm hash-password` prints it. systemd reads it as root.";
          example = lib.literalExpression "config.sops.secrets.code-server-dan.path";
        };
      }
    )
  ];
in
{
  options.services.code-server-multi = {
    enable = lib.mkEnableOption "workspaces with VS Code and coding agents in the browser, one for each user";

    package = lib.mkPackageOption pkgs "code-server-multi" { };

    domain = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      description = ''
        The dashboard's DNS name. Each workspace is at `https://<name>.<domain>`, so DNS also needs a record `*.<domain>` with
        the host's address. With `null` the workspaces are at `http://<name>.code.localhost:7080` and reachable only on the
        host: for a trial and for SSH tunnels.
      '';
      example = "code.example.org";
    };

    acme = {
      dnsProvider = lib.mkOption {
        type = lib.types.nullOr lib.types.str;
        default = null;
        description = ''
          lego's name of the domain's DNS provider. If it is set, NixOS's ACME module obtains and renews the certificate for
          `<domain>` and `*.<domain>`. A wildcard certificate requires DNS-01.
        '';
        example = "cloudflare";
      };
      environmentFile = lib.mkOption {
        type = lib.types.nullOr path;
        default = null;
        description = "A file with the variables that lego requires for this provider, such as the API token.";
        example = "/run/secrets/acme-dns";
      };
      email = lib.mkOption {
        type = lib.types.nullOr lib.types.str;
        default = config.security.acme.defaults.email or null;
        defaultText = lib.literalExpression "config.security.acme.defaults.email";
        description = "Contact address for the certificate authority.";
        example = "admin@example.org";
      };
    };

    useACMEHost = lib.mkOption {
      type = lib.types.nullOr lib.types.str;
      default = null;
      description = "The name of an existing certificate in `security.acme.certs`, for `<domain>` and `*.<domain>`.";
      example = "example.org";
    };

    certificate = lib.mkOption {
      type = lib.types.nullOr path;
      default = null;
      description = "A file with a certificate for `<domain>` and `*.<domain>` and its chain, in PEM, if NixOS does not obtain it.";
      example = "/var/lib/certificates/code.pem";
    };

    certificateKey = lib.mkOption {
      type = lib.types.nullOr path;
      default = null;
      description = "A file with the private key of `certificate`, in PEM. nginx must be able to read it: group `nginx`, mode `0440`.";
      example = "/run/secrets/code-key.pem";
    };

    listen = {
      address = lib.mkOption {
        type = lib.types.str;
        default = "127.0.0.1";
        description = "Without a certificate: the loopback address on which nginx listens, for another proxy that terminates TLS on port 443.";
        example = "127.0.0.2";
      };
      port = lib.mkOption {
        type = lib.types.port;
        default = 7080;
        description = "Without a certificate: the port on which nginx listens at `listen.address`.";
        example = 8080;
      };
    };

    httpsPort = lib.mkOption {
      type = lib.types.port;
      default = cfg.internal.listeningPort;
      defaultText = lib.literalMD "the port on which nginx listens with TLS: `services.nginx.defaultSSLListenPort`, unless nginx's options set another one";
      description = ''
        With a certificate: the port in the addresses that browsers use. Sign-ins are bound to it. It differs from nginx's own
        port if a router forwards another port to it.
      '';
      example = 8443;
    };

    openFirewall = lib.mkOption {
      type = lib.types.bool;
      default = false;
      description = "Whether the firewall opens nginx's ports: 80 and 443, unless nginx's options set other ones.";
      example = true;
    };

    workspaceBase = lib.mkOption {
      type = path;
      default = "/var/lib/vscode";
      description = "The directory for each user's `<name>/home` and `<name>/workspace`.";
      example = "/srv/workspaces";
    };

    stateBase = lib.mkOption {
      type = path;
      default = "/var/lib";
      description = ''
        The directory for `code-server-multi`, with sessions and the daemon's key, and `code-server-workspaces`, with Podman's
        storage for each workspace. Both must survive a reboot. A backup of them is less important than one of `workspaceBase`.
      '';
      example = "/persist/var/lib";
    };

    baseImage = lib.mkOption {
      type = lib.types.either lib.types.package lib.types.str;
      default = cfg.package.imageBase;
      defaultText = lib.literalMD "the package's own image: tiny, with its programs in the host's `/nix/store`";
      description = ''
        The image for users without another one: the name of an image with `code-server` and `sh` on its `PATH`, or a package that
        `dockerTools.buildLayeredImage` builds. With such a package a workspace also gets `/nix/store`, read-only.
      '';
      example = "docker.io/codercom/code-server:latest";
    };

    homeManager = lib.mkOption {
      type = lib.types.nullOr lib.types.raw;
      default = null;
      description = "The home-manager flake, for `users.<name>.homeModules`.";
      example = lib.literalExpression "inputs.home-manager";
    };

    settings = lib.mkOption {
      type = lib.types.attrsOf (pkgs.formats.json { }).type;
      default = { };
      description = ''
        Fields of the [manifest](manifest.md) that a newer `package` has and this module does not. The build checks them. A
        field that has an option is refused here, because accounts, units and nginx would not follow it.
      '';
      example = lib.literalExpression "{ users.dan.fieldOfANewerVersion = true; }";
    };

    defaults = lib.mkOption {
      type = lib.types.submodule { options = shared (_: default: { inherit default; }); };
      default = { };
      description = "Defaults for all users. Lists and sets are merged with the user's own.";
      example = {
        memoryLimit = "4G";
        extensions = [ "rust-lang.rust-analyzer" ];
      };
    };

    users = lib.mkOption {
      type = lib.types.attrsOf user;
      default = { };
      description = ''
        The users, by name: 1 to 20 lower-case letters, digits and single dashes, starting with a letter. Each has an account
        `csm-<name>` without a password. If you remove a user, csm signs them out and stops their workspace; their files stay.
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
        Whether each user's password is the secret `code-server-<name>` of sops-nix, which this module then declares. A new
        password takes effect as soon as sops-nix has written it. Import sops-nix itself elsewhere in the configuration.
      '';
      example = true;
    };
  };
}
