# services.code-server-multi: VS Code and coding agents in the browser, for a few dozen people on this machine.
# options.nix has the options; each other file makes one part of the system of them.
{
  imports = [
    ./options.nix
    ./accounts.nix
    ./acme.nix
    ./assertions.nix
    ./daemon.nix
    ./images.nix
    ./manifest.nix
    ./nginx.nix
    ./passwords.nix
    ./polkit.nix
    ./renamed.nix
    ./sops.nix
    ./units.nix
    ./workspaces.nix
  ];
}
