{
  description = "A machine with workspaces for two people";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    # The repository that you have this template from.
    code-server-multi.url = "github:OWNER/code-server-multi";
    code-server-multi.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    { nixpkgs, code-server-multi, ... }:
    {
      nixosConfigurations.code = nixpkgs.lib.nixosSystem {
        modules = [
          code-server-multi.nixosModules.default
          # What nixos-generate-config has found.
          ./hardware-configuration.nix
          {
            networking.hostName = "code";
            boot.loader.systemd-boot.enable = true;
            system.stateVersion = "26.05";

            # Those of Let's Encrypt: https://letsencrypt.org/repository
            security.acme.acceptTerms = true;
            services.code-server-multi = {
              enable = true;
              # Its DNS has this name and *.code.example.org point here.
              domain = "code.example.org";
              acme = {
                dnsProvider = "cloudflare";
                environmentFile = "/var/lib/secrets/acme-dns";
                email = "admin@example.org";
              };
              openFirewall = true;
              # Each file holds a password, or what "csm hash-password" prints.
              users.ada = {
                passwordFile = "/var/lib/secrets/ada";
                admin = true;
              };
              users.grace.passwordFile = "/var/lib/secrets/grace";
            };
          }
        ];
      };
    };
}
