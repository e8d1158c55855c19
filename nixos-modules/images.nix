# The images: their valid names, and one for each user with Home Manager modules.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.code-server-multi;
  ours = import ./lib.nix { inherit lib; };
  option = "services.code-server-multi";

  # In older versions a port's address can redirect the visitor to another site, with their credentials.
  oldest = "4.99.4";
  # Older versions show the cookie of code-server's own sign-in, which csm does not use, to programs on proxied ports.
  better = "4.124.2";

  archive = "docker-archive:";
  named = "[a-z0-9][a-z0-9._-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*(:[A-Za-z0-9_][A-Za-z0-9._-]*)?(@sha256:[0-9a-f]{64})?";
  # Prefixes that Podman reads as a transport and not as part of an image's name.
  transport = "(containers-storage|dir|docker|docker-archive|docker-daemon|oci|oci-archive|sif):.*";

  # Messages about an invalid image.
  wrong =
    where: image:
    let
      stored = lib.hasPrefix "${archive}${builtins.storeDir}/" image;
    in
    lib.optional (stored && builtins.match ".*/[a-z0-9]{32}-stream-[^/]*" image != null)
      "${where} is ${lib.removePrefix archive image}, a program that streams an image; build it with dockerTools.buildLayeredImage, which builds an archive."
    ++
      lib.optional (!stored && lib.hasPrefix archive image)
        "${where} is \"${image}\", which is not in the Nix store; set it to a package that dockerTools.buildLayeredImage builds, or \"podman load\" the archive and write the image's name."
    ++
      lib.optional
        (
          !lib.hasPrefix archive image
          && (builtins.match named image == null || builtins.match transport image != null)
        )
        "${where} is \"${image}\", which is not an image's name; write for example \"docker.io/codercom/code-server:latest\".";

  checkUser =
    name: user:
    let
      where = "${option}.users.${name}";
    in
    lib.optionals (user.image != null && user.image != cfg.defaults.image) (
      wrong "${where}.image" user.image
    )
    ++
      lib.optional (user.homeModules != [ ] && cfg.homeManager == null)
        "${where}.homeModules is set, but ${option}.homeManager is not; set it to the home-manager flake, for example inputs.home-manager."
    ++
      lib.optional (user.homeModules != [ ] && user.image != null)
        "${where}.image and ${where}.homeModules are both set, and homeModules are for the package's own image; remove one of them.";

  # The package's own image with a user's modules. It contains a few links; their targets are shared in the Nix store.
  homeImage =
    user:
    (cfg.package.images.override {
      homeConfiguration = cfg.homeManager.lib.homeManagerConfiguration {
        inherit pkgs;
        modules = [
          {
            # The account inside every container.
            home.username = "coder";
            home.homeDirectory = "/home/coder";
            home.stateVersion = lib.mkDefault config.system.stateVersion;
          }
        ]
        ++ user.homeModules;
      };
    }).image-base;

  # code-server's version, if images/default.nix builds the image.
  version = cfg.baseImage.code-server.version or null;
in
{
  config = lib.mkIf cfg.enable {
    services.code-server-multi.internal = {
      baseImage = ours.imageName cfg.baseImage;
      inherit homeImage;
      # Null if the user has no other image than baseImage.
      image = user: if user.homeModules != [ ] then ours.imageName (homeImage user) else user.image;
    };

    assertions = map ours.refuse (
      wrong "${option}.baseImage" cfg.internal.baseImage
      ++ lib.optionals (cfg.defaults.image != null) (wrong "${option}.defaults.image" cfg.defaults.image)
      ++ lib.concatLists (lib.mapAttrsToList checkUser cfg.users)
      ++
        lib.optional (version != null && !lib.versionAtLeast version oldest)
          "${option}.baseImage has code-server ${version}; in versions before ${oldest} a port's address can redirect a visitor to another site; update nixpkgs, or set ${option}.baseImage to an image with a newer version."
    );

    warnings =
      lib.optional
        (version != null && lib.versionAtLeast version oldest && !lib.versionAtLeast version better)
        "${option}.baseImage has code-server ${version}; versions before ${better} have a known vulnerability, which does not affect csm's sign-in; to remove this warning, update nixpkgs when it has a newer version, or use code-server from a newer nixpkgs: ${option}.baseImage = (config.${option}.package.images.override { code-server = <newer nixpkgs>.code-server; }).image-base";
  };
}
