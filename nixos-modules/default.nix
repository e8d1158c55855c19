# services.code-server-multi: VS Code and coding agents in the browser, for a few dozen users of one host.
# options.nix declares the options; each other file configures one part of the system from them.
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
