{
  description = "VS Code and coding agents in the browser, with a workspace for each user of a host";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    # Fetched only where somebody's `homeModules` or the checks use it.
    home-manager = {
      url = "github:nix-community/home-manager/release-26.05";
      inputs.nixpkgs.follows = "nixpkgs";
    };
    # For checks alone: nothing that this flake gives uses it.
    sops-nix = {
      url = "github:Mic92/sops-nix";
      inputs.nixpkgs.follows = "nixpkgs";
    };
  };

  outputs =
    {
      self,
      nixpkgs,
      home-manager,
      sops-nix,
    }:
    let
      inherit (nixpkgs) lib;

      forAllSystems =
        f:
        lib.genAttrs [
          "x86_64-linux"
          "aarch64-linux"
        ] (system: f nixpkgs.legacyPackages.${system});

      systemOf = pkgs: pkgs.stdenv.hostPlatform.system;

      nixos =
        pkgs: modules:
        lib.nixosSystem {
          modules = [
            self.nixosModules.default
            { nixpkgs.hostPlatform = systemOf pkgs; }
          ]
          ++ modules;
        };

      demo = pkgs: (nixos pkgs [ ./nixos-modules/demo-vm.nix ]).config;
    in
    {
      overlays.default = final: _: {
        code-server-multi = final.callPackage ./package.nix {
          revision = self.rev or self.dirtyRev or "dirty";
        };
      };

      packages = forAllSystems (
        pkgs:
        let
          inherit (self.overlays.default pkgs pkgs) code-server-multi;
        in
        {
          default = code-server-multi;
          inherit code-server-multi;
          inherit (code-server-multi.images) image-base image-base-oci;
        }
      );

      nixosModules = {
        default =
          { lib, pkgs, ... }:
          let
            # Not by nixpkgs.overlays, which can't be set where somebody else has made pkgs, as in NixOS tests.
            inherit (self.overlays.default pkgs pkgs) code-server-multi;
          in
          {
            # One module, whether imported by itself, by the other one, or by both.
            key = "code-server-multi";
            imports = [ ./nixos-modules ];
            services.code-server-multi = {
              package = lib.mkDefault code-server-multi;
              homeManager = lib.mkDefault home-manager;
            };
          };
        # For machines with sops-nix: all of it, with passwords from there.
        sops = {
          imports = [ self.nixosModules.default ];
          services.code-server-multi.sops.enable = lib.mkDefault true;
        };
      };

      apps = forAllSystems (pkgs: {
        demo = {
          type = "app";
          program = lib.getExe (demo pkgs).system.build.vm;
          meta.description = "Two users' workspaces in a virtual machine";
        };
      });

      devShells = forAllSystems (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ self.packages.${systemOf pkgs}.default ];
          packages = [
            pkgs.cargo-deny
            pkgs.cargo-nextest
            pkgs.clippy
            pkgs.nginx
            pkgs.nixfmt-tree
            pkgs.rust-analyzer
            pkgs.rustfmt
            pkgs.shellcheck
          ];
        };
      });

      formatter = forAllSystems (pkgs: pkgs.nixfmt-tree);

      templates.default = {
        path = ./nixos-modules/template;
        description = "A NixOS host with workspaces for two users";
      };

      checks = forAllSystems (
        pkgs:
        let
          # All that a configuration puts into /etc, its units among it, and its assertions; nothing of it is built.
          evaluates =
            name: modules:
            let
              inherit (nixos pkgs modules) config;
              inherit (config.system.build.etc) drvPath;
              failed = map (one: one.message) (lib.filter (one: !one.assertion) config.assertions);
            in
            assert lib.assertMsg (failed == [ ]) (lib.concatLines failed);
            pkgs.writeText name (builtins.unsafeDiscardStringContext drvPath);

          machine = {
            boot.loader.grub.enable = false;
            fileSystems."/" = {
              device = "/dev/vda";
              fsType = "ext4";
            };
            system.stateVersion = "26.05";
            services.code-server-multi.enable = true;
          };

          vmTests = import ./vm-tests {
            inherit pkgs;
            module = self.nixosModules.default;
          };
        in
        self.packages.${systemOf pkgs}
        // lib.mapAttrs' (name: lib.nameValuePair "vm-${name}") vmTests
        // {
          demo = (demo pkgs).system.build.vm;

          dev-shell = self.devShells.${systemOf pkgs}.default;

          formatting = pkgs.runCommand "formatting" { nativeBuildInputs = [ pkgs.nixfmt ]; } ''
            find ${self} -name '*.nix' -exec nixfmt --check {} +
            touch "$out"
          '';

          module = evaluates "module" [
            machine
            { services.code-server-multi.users.ada.passwordFile = "/run/secrets/ada"; }
          ];

          module-home-manager = evaluates "module-home-manager" [
            machine
            {
              services.code-server-multi.users.ada = {
                passwordFile = "/run/secrets/ada";
                homeModules = [ { programs.git.enable = true; } ];
              };
            }
          ];

          module-sops = evaluates "module-sops" [
            machine
            sops-nix.nixosModules.sops
            self.nixosModules.sops
            {
              sops.defaultSopsFile = "/etc/nowhere.yaml";
              sops.validateSopsFiles = false;
              sops.age.keyFile = "/var/lib/sops-nix/key.txt";
              services.code-server-multi.users.ada = { };
            }
          ];

          image-home-manager =
            (self.packages.${systemOf pkgs}.default.images.override {
              homeConfiguration = home-manager.lib.homeManagerConfiguration {
                inherit pkgs;
                modules = [
                  {
                    home = {
                      username = "coder";
                      homeDirectory = "/home/coder";
                      stateVersion = "26.05";
                    };
                    programs.git.enable = true;
                  }
                ];
              };
            }).image-base;
        }
      );
    };
}
