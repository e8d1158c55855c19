# The workspace image, in two forms of one definition:
#
# - image-base: for hosts with Nix. It contains links into /nix/store, which csm mounts read-only, and no store paths.
# - image-base-oci: complete, for registries and any other host. Running the result writes the image to standard output.
#
# `override` accepts the arguments below. csm runs every workspace as uid 1000 with the home /home/coder, so userName and uid matter
# only on other hosts.
{
  lib,
  bash-completion,
  bashInteractive,
  buildEnv,
  bzip2,
  cacert,
  code-server,
  coreutils,
  curl,
  diffutils,
  dockerTools,
  file,
  findutils,
  gawk,
  git,
  gnugrep,
  gnused,
  gnutar,
  gzip,
  iana-etc,
  icu,
  less,
  libsecret,
  nano,
  ncurses,
  nix-ld,
  nodejs,
  opencode,
  openssh,
  openssl,
  patch,
  procps,
  python3,
  ripgrep,
  runCommand,
  stdenv,
  tmux,
  tzdata,
  unzip,
  which,
  writeText,
  xz,
  zlib,
  zstd,
  userName ? "coder",
  uid ? 1000,
  # More packages on PATH.
  extraPackages ? [ ],
  # The result of home-manager.lib.homeManagerConfiguration, for `userName` and its home. The container activates it when it starts.
  homeConfiguration ? null,
  revision ? "dirty",
}:
let
  home = "/home/${userName}";
  id = toString uid;

  environment = buildEnv {
    name = "code-server-multi-environment";
    paths = [
      bash-completion
      bashInteractive
      code-server
      coreutils
      curl
      diffutils
      file
      findutils
      gawk
      git
      gnugrep
      gnused
      gnutar
      gzip
      less
      nano
      ncurses
      nodejs
      opencode
      openssh
      patch
      procps
      python3
      ripgrep
      tmux
      tzdata
      unzip
      which
      xz
    ]
    ++ extraPackages;
    pathsToLink = [
      "/bin"
      "/share/bash-completion"
      "/share/terminfo"
      "/share/zoneinfo"
    ];
    # procps and coreutils both have kill and uptime.
    ignoreCollisions = true;
  };

  # The libraries that binaries in VS Code extensions and npm packages expect on an ordinary system; nix-ld finds them.
  loader = stdenv.cc.bintools.dynamicLinker;
  libraries = buildEnv {
    name = "code-server-multi-libraries";
    paths = map lib.getLib [
      bzip2
      curl
      icu
      libsecret
      openssl
      stdenv.cc.cc
      xz
      zlib
      zstd
    ];
    pathsToLink = [ "/lib" ];
  };

  passwd = writeText "passwd" ''
    root:x:0:0:root:/root:/bin/bash
    ${userName}:x:${id}:${id}:${userName}:${home}:/bin/bash
    nobody:x:65534:65534:nobody:/var/empty:/bin/false
  '';

  group = writeText "group" ''
    root:x:0:
    ${userName}:x:${id}:
    nogroup:x:65534:
  '';

  nsswitch = writeText "nsswitch.conf" ''
    passwd: files
    group: files
    hosts: files dns
    networks: files
    services: files
    protocols: files
  '';

  # Loads completion here, because the editor's terminals are not login shells.
  bashrc = writeText "bashrc" ''
    if [[ $- == *i* ]]; then
      PS1='\u@\h:\w\$ '
      . /usr/share/bash-completion/bash_completion
    fi
  '';

  # The whole tree. /etc/passwd and its like are files, not links: Podman reads them before the store is mounted.
  root = runCommand "code-server-multi-root" { } ''
    mkdir -p "$out"/{etc/code-server-multi,etc/ssl/certs,nix/store,opt/code-server-multi,root,run,tmp,usr/lib,usr/local/bin,var/empty,var/tmp}
    mkdir -p "$out${home}" "$out/${stdenv.hostPlatform.libDir}"

    ln -s ${environment}/bin "$out/bin"
    ln -s ${environment}/bin "$out/usr/bin"
    ln -s ${environment}/share "$out/usr/share"
    ln -s ${libraries}/lib "$out/usr/lib/nix-ld"
    ln -s ${loader} "$out/usr/lib/nix-ld.so"
    ln -s ${nix-ld}/libexec/nix-ld "$out/${stdenv.hostPlatform.libDir}/${baseNameOf loader}"

    cp ${passwd} "$out/etc/passwd"
    cp ${group} "$out/etc/group"
    cp ${nsswitch} "$out/etc/nsswitch.conf"
    cp ${bashrc} "$out/etc/bashrc"
    ln -s ${iana-etc}/etc/services ${iana-etc}/etc/protocols "$out/etc/"
    ln -s ${cacert}/etc/ssl/certs/ca-bundle.crt "$out/etc/ssl/certs/ca-bundle.crt"
    ln -s ca-bundle.crt "$out/etc/ssl/certs/ca-certificates.crt"
    ln -s /proc/mounts "$out/etc/mtab"
    # Podman fills these in when a container starts.
    touch "$out"/etc/{hostname,hosts,machine-id,resolv.conf}

    # The programs that csm also mounts there when it runs the image.
    cp -r ${../share/workspace}/* "$out/opt/code-server-multi/"
    cp ${./entrypoint} "$out/opt/code-server-multi/entrypoint"
    # nixpkgs has no package of OpenCode's extension, so the first start installs it from Open VSX, like declared extensions.
    echo sst-dev.opencode > "$out/etc/code-server-multi/extensions"
    ${lib.optionalString (homeConfiguration != null) ''
      cp ${./activate} "$out/etc/code-server-multi/activate"
      ln -s ${homeConfiguration.activationPackage} "$out/etc/code-server-multi/home"
      mkdir "$out/etc/code-server-multi/stand-in"
      for name in nix-build nix-env nix-store; do
        cp ${./nix-stand-in} "$out/etc/code-server-multi/stand-in/$name"
      done
    ''}
  '';

  common = {
    # Not `contents`, which would create a link for each file.
    fakeRootCommands = ''
      cp -a ${root}/. .
      chmod -R u+w .
      chmod 1777 tmp var/tmp
      chmod 0700 root .${home}
      chown -R ${id}:${id} .${home}
    '';
    config = {
      Entrypoint = [ "/opt/code-server-multi/entrypoint" ];
      User = "${id}:${id}";
      WorkingDir = home;
      ExposedPorts."8080/tcp" = { };
      Env = lib.mapAttrsToList (name: value: "${name}=${value}") {
        # Programs that users install come first (npm install --global, pip --user, home-manager).
        PATH = "${home}/.local/bin:${home}/.nix-profile/bin:/usr/local/bin:/bin";
        HOME = home;
        USER = userName;
        SHELL = "/bin/bash";
        LANG = "C.UTF-8";
        TZDIR = "/usr/share/zoneinfo";
        TERMINFO_DIRS = "/usr/share/terminfo";
        SSL_CERT_FILE = "/etc/ssl/certs/ca-bundle.crt";
        NIX_LD = "/usr/lib/nix-ld.so";
        NIX_LD_LIBRARY_PATH = "/usr/lib/nix-ld";
        NPM_CONFIG_PREFIX = "${home}/.local";
        NPM_CONFIG_UPDATE_NOTIFIER = "false";
        OPENCODE_DISABLE_AUTOUPDATE = "1";
      };
    };
  };

  given = {
    inherit code-server environment root;
    # An archive can contain only one tag; whatever pushes the image adds both.
    tags = [
      revision
      "latest"
    ];
  };
in
{
  # The tag is not the revision, so that the archive, and with it every workspace's digest, changes only if the contents change.
  image-base =
    dockerTools.buildLayeredImage (
      common
      // {
        name = "localhost/code-server-multi-base";
        tag = "latest";
        includeStorePaths = false;
        # Nix scans the archive for the store paths of the links' targets, and keeps them as long as the archive. It can't scan a
        # compressed archive.
        compressor = "none";
      }
    )
    // given;

  image-base-oci =
    # csm turns code-server's own sign-in off; this image without csm uses it.
    lib.warnIf (lib.versionOlder code-server.version "4.124.2")
      "image-base-oci: code-server ${code-server.version} shows its session cookie to what listens on proxied ports; 4.124.2 does not"
      (
        dockerTools.streamLayeredImage (
          common
          // {
            name = "localhost/code-server-multi";
            tag = revision;
            config = common.config // {
              Labels."org.opencontainers.image.revision" = revision;
            };
          }
        )
        // given
      );
}
