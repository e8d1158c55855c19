{
  description = "A host with workspaces for two users";

  inputs = {
    nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";
    # Replace OWNER with the owner of the repository that this template is from.
    code-server-multi.url = "github:OWNER/code-server-multi";
    code-server-multi.inputs.nixpkgs.follows = "nixpkgs";
  };

  outputs =
    { nixpkgs, code-server-multi, ... }:
    {
      nixosConfigurations.code = nixpkgs.lib.nixosSystem {
        modules = [
          code-server-multi.nixosModules.default
          # Written by nixos-generate-config.
          ./hardware-configuration.nix
          {
            networking.hostName = "code";
            boot.loader.systemd-boot.enable = true;
            system.stateVersion = "26.05";

            # Let's Encrypt's terms: https://letsencrypt.org/repository
            security.acme.acceptTerms = true;
            services.code-server-multi = {
              enable = true;
              # Its DNS has records for this name and *.code.example.org, with the host's address.
              domain = "code.example.org";
              acme = {
                dnsProvider = "cloudflare";
                environmentFile = "/var/lib/secrets/acme-dns";
                email = "admin@example.org";
              };
              openFirewall = true;
              # Each file contains a password, or its hash from "csm hash-password".
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
