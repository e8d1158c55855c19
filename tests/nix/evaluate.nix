# Evaluates configurations with the module. `tree` is a prepared NixOS module tree; `csm` is a prefix with bin/csm and share.
{
  tree,
  csm ? "/nowhere",
}:
let
  shim = import (/. + "${tree}/nixpkgs/shim");
  forCodeServer =
    version:
    shim {
      cache = tree;
      packages =
        pkgs:
        {
          code-server-multi =
            pkgs.runCommand "code-server-multi" { } ''
              mkdir "$out"
              ln -s ${toString csm}/* "$out/"
            ''
            // (
              let
                images = pkgs.callPackage ../../images { };
              in
              {
                inherit images;
                imageBase = images.image-base;
              }
            );
        }
        // (
          if version == null then
            { }
          else
            {
              code-server = (pkgs.runCommand "code-server" { } "mkdir $out") // {
                inherit version;
              };
            }
        );
    };
  plain = forCodeServer null;
  inherit (plain) lib pkgs;

  checkOn =
    shim: modules:
    import (/. + "${tree}/nixpkgs/shim/check.nix") {
      cache = tree;
      inherit shim;
      modules = [
        ../../nixos-modules
        { system.stateVersion = "26.05"; }
      ]
      ++ modules;
    };
  check = checkOn plain;

  refusals =
    name:
    {
      module,
      codeServer ? null,
      ...
    }:
    let
      inherit
        (checkOn (if codeServer == null then plain else forCodeServer codeServer) [
          ./configurations/minimal.nix
          module
        ])
        failedAssertions
        warnings
        ;
    in
    {
      refused = failedAssertions;
      # The cases are based on minimal.nix, which has no domain. Only the case no-domain is about that warning.
      warned = lib.filter (
        one: name == "no-domain" || !lib.hasInfix "domain is not set: the workspaces are reachable" one
      ) warnings;
    };

  # The texts of users' units.
  unitsOf =
    checked:
    lib.mapAttrs (
      _: builtins.unsafeDiscardStringContext
    ) checked.config.services.code-server-multi.internal.units;

  # A stand-in for Home Manager that checks its arguments.
  homeManager.lib.homeManagerConfiguration =
    { pkgs, modules }:
    let
      freeform._module.freeformType = lib.types.attrsOf lib.types.anything;
      inherit (lib.evalModules { modules = modules ++ [ freeform ]; }) config;
    in
    assert config.home.username == "coder" && config.home.homeDirectory == "/home/coder";
    assert config.home.stateVersion == "26.05" && config.programs.git.enable;
    {
      activationPackage = pkgs.runCommand "home-manager-generation" { } "mkdir $out";
    };

  manifestOf =
    checked:
    builtins.fromJSON (
      builtins.unsafeDiscardStringContext checked.config.services.code-server-multi.internal.manifestFile.manifest
    );

  cases = import ./cases.nix { inherit lib; };
  configuration = name: check [ (./configurations + "/${name}.nix") ];
in
rec {
  inherit
    lib
    cases
    check
    unitsOf
    manifestOf
    ;
  # For each case, the messages.
  said = lib.mapAttrs refusals cases;
  expected = lib.mapAttrs (_: case: {
    refused = case.refused or null;
    warned = case.warned or null;
    more = case.more or false;
    # Text that no message may contain.
    absent = case.absent or null;
  }) cases;

  as-given = check [
    ./configurations/as-given.nix
    ./configurations/sops.nix
    ./configurations/secrets-of-as-given.nix
  ];
  minimal = configuration "minimal";
  full = configuration "full";
  sops = check [
    ./configurations/sops.nix
    {
      services.code-server-multi = {
        enable = true;
        sops.enable = true;
        users.dan = { };
      };
    }
  ];
  # Users' units as NixOS installs them, with a configuration's additions to two of them.
  added =
    let
      checked = check [
        ./configurations/full.nix
        {
          systemd.services."code-server-anna@".serviceConfig.Nice = 5;
          systemd.slices."code-server-anna\\x2dlena".sliceConfig.IOWeight = 50;
        }
      ];
    in
    checked
    // {
      unitsInstalled = checked.config.environment.etc."systemd/system".source;
    };
  # The full configuration and another module.
  also =
    module:
    check [
      ./configurations/full.nix
      module
    ];
  odd = check [
    ./configurations/minimal.nix
    {
      services.code-server-multi.users.dan = {
        passwordFile = lib.mkForce "/run/secrets/100%dan";
        secretEnvironment.TOKEN = "/run/secrets/a%h";
      };
    }
  ];
  state = check [
    ./configurations/minimal.nix
    { services.code-server-multi.stateBase = "/persist/state"; }
  ];
  # One user with Home Manager modules.
  home = check [
    ./configurations/minimal.nix
    {
      services.code-server-multi = {
        inherit homeManager;
        users.dan.homeModules = [ { programs.git.enable = true; } ];
        users.bob.passwordFile = "/run/secrets/bob";
      };
    }
  ];
  homeImage =
    let
      csm = home.config.services.code-server-multi;
    in
    csm.internal.homeImage csm.users.dan;
  # A configuration from the documents, with stand-ins for sops-nix, agenix and impermanence.
  example =
    file:
    check [
      file
      ./configurations/sops.nix
      ./configurations/secrets-of-as-given.nix
      ./configurations/agenix.nix
      ./configurations/impermanence.nix
      { services.code-server-multi = { inherit homeManager; }; }
    ];
  # What the smallest configuration writes, by file, so that a commit that changes it also shows the change.
  written =
    let
      inherit (configuration "minimal") data config;
      ours = lib.filterAttrs (name: _: lib.hasPrefix "code-server" name) data.units;
      packaged = unitsOf (configuration "minimal");
      # The file that NixOS installs for a unit: a drop-in if the package has the unit.
      installed =
        name: lib.nameValuePair (if packaged ? ${name} then "${name}.d/overrides.conf" else name);
    in
    lib.mapAttrs' installed ours
    // packaged
    // {
      "nginx.conf" = data.nginxConf;
      "polkit.rules" = data.polkit;
      tmpfiles = lib.concatLines (
        lib.filter (line: lib.hasInfix "code-server" line || lib.hasInfix "/var/lib/vscode" line) (
          lib.concatMap (lib.splitString "\n") data.tmpfiles
        )
      );
      "accounts.json" = builtins.toJSON (
        lib.filterAttrs (name: _: name == "code-server-multi" || lib.hasPrefix "csm-" name) data.users
      );
      "manifest.json" = config.services.code-server-multi.internal.manifestFile.manifest;
    };
  # What each scenario of vm-tests writes, for the test guest.
  guest = pkgs.writeText "generations.json" (
    builtins.toJSON (
      lib.mapAttrs (_: toString) (
        import ../../vm-tests/guest/written.nix { inherit lib pkgs; } (
          import ../../vm-tests {
            inherit pkgs;
            module = ../../nixos-modules;
          }
        )
      )
    )
  );
  optionsReference = import ../../docs/options.nix {
    inherit lib;
    inherit ((check [ ]).evaluated) options;
  };
  # The parts of a configuration with that many users that depend on the module, evaluated once: /etc with its units and nginx.conf, the
  # script that creates the accounts, assertions and warnings.
  machine =
    count:
    let
      checked = users count;
      inherit (checked) config;
    in
    [
      checked.failedAssertions
      checked.warnings
      config.system.build.etc.drvPath
      (builtins.hashString "sha256" (
        builtins.unsafeDiscardStringContext config.system.activationScripts.users.text
      ))
    ];
  # That many users, to measure the cost of each.
  users =
    count:
    check [
      {
        services.code-server-multi = {
          enable = true;
          domain = "code.localhost";
          users = lib.listToAttrs (
            map (
              at:
              lib.nameValuePair "p${toString at}" {
                passwordFile = "/run/secrets/p${toString at}";
                # NixOS allocates at most 600 ids itself.
                uid = 20000 + at;
              }
            ) (lib.range 1 count)
          );
        };
      }
    ];
}
