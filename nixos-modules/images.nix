# The images: what they may be named, and one for each person who has modules of Home Manager.
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

  # Older ones let a port's address lead elsewhere, with the visitor's credentials.
  oldest = "4.99.4";
  # Older ones show the cookie of their own sign-in, which csm does not use, to programs on proxied ports.
  better = "4.124.2";

  archive = "docker-archive:";
  named = "[a-z0-9][a-z0-9._-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)*(:[A-Za-z0-9_][A-Za-z0-9._-]*)?(@sha256:[0-9a-f]{64})?";
  # What Podman takes for another way to an image, and not for its name.
  transport = "(containers-storage|dir|docker|docker-archive|docker-daemon|oci|oci-archive|sif):.*";

  # What is wrong with an image, if anything is.
  wrong =
    where: image:
    let
      stored = lib.hasPrefix "${archive}${builtins.storeDir}/" image;
    in
    lib.optional (stored && builtins.match ".*/[a-z0-9]{32}-stream-[^/]*" image != null)
      "${where} is ${lib.removePrefix archive image}, a program that streams an image; build it with dockerTools.buildLayeredImage, which gives an archive."
    ++
      lib.optional (!stored && lib.hasPrefix archive image)
        "${where} is \"${image}\", which is not in the Nix store; give the package that dockerTools.buildLayeredImage makes, or \"podman load\" the archive and give the image's name."
    ++
      lib.optional
        (
          !lib.hasPrefix archive image
          && (builtins.match named image == null || builtins.match transport image != null)
        )
        "${where} is \"${image}\", which is not an image's name; write for example \"docker.io/codercom/code-server:latest\".";

  person =
    name: user:
    let
      where = "${option}.users.${name}";
    in
    lib.optionals (user.image != null && user.image != cfg.defaults.image) (
      wrong "${where}.image" user.image
    )
    ++
      lib.optional (user.homeModules != [ ] && cfg.homeManager == null)
        "${where}.homeModules is set, but ${option}.homeManager is not; set it to the flake home-manager, for example inputs.home-manager."
    ++
      lib.optional (user.homeModules != [ ] && user.image != null)
        "${where}.image and ${where}.homeModules are both set; homeModules are for the package's own image, so leave one of them out.";

  # The package's own image with a person's modules: a few links, and what they lead to is shared in the store.
  homeImage =
    user:
    (cfg.package.images.override {
      homeConfiguration = cfg.homeManager.lib.homeManagerConfiguration {
        inherit pkgs;
        modules = [
          {
            # Who everyone is inside.
            home.username = "coder";
            home.homeDirectory = "/home/coder";
            home.stateVersion = lib.mkDefault config.system.stateVersion;
          }
        ]
        ++ user.homeModules;
      };
    }).image-base;

  # code-server's version, where the image is one of this project's definition.
  version = cfg.baseImage.code-server.version or null;
in
{
  config = lib.mkIf cfg.enable {
    services.code-server-multi.internal = {
      baseImage = ours.imageName cfg.baseImage;
      inherit homeImage;
      # Null for those who have everyone's.
      image = user: if user.homeModules != [ ] then ours.imageName (homeImage user) else user.image;
    };

    assertions = map ours.refuse (
      wrong "${option}.baseImage" cfg.internal.baseImage
      ++ lib.optionals (cfg.defaults.image != null) (wrong "${option}.defaults.image" cfg.defaults.image)
      ++ lib.concatLists (lib.mapAttrsToList person cfg.users)
      ++
        lib.optional (version != null && !lib.versionAtLeast version oldest)
          "${option}.baseImage has code-server ${version}; versions before ${oldest} can be made to send a visitor to another site by a port's address. Update nixpkgs, or set ${option}.baseImage to an image with a newer one."
    );

    warnings =
      lib.optional
        (version != null && lib.versionAtLeast version oldest && !lib.versionAtLeast version better)
        "${option}.baseImage has code-server ${version}; versions before ${better} have a known weakness, which csm's own sign-in does not touch. To be rid of this, update nixpkgs when it has a newer one, or take code-server of a nixpkgs that has: ${option}.baseImage = (config.${option}.package.images.override { code-server = <newer nixpkgs>.code-server; }).image-base";
  };
}
