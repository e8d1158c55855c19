# csm with its files, as one package. flake.nix exposes it by the overlay; the module and the VM tests use that.
{
  lib,
  callPackage,
  installShellFiles,
  rustPlatform,
  stdenv,
  versionCheckHook,
  # What the images are tagged with besides `latest`.
  revision ? "dirty",
}:
let
  cargo = lib.importTOML ./Cargo.toml;
  images = callPackage ./images { inherit revision; };
in
rustPlatform.buildRustPackage {
  pname = cargo.package.name;
  version = cargo.package.version;

  # Only what the build and the unit tests read, so that a changed document or image builds nothing anew.
  src = lib.fileset.toSource {
    root = ./.;
    fileset = lib.fileset.unions [
      ./Cargo.toml
      ./Cargo.lock
      ./benches
      ./docs/api.md
      ./docs/manifest.md
      ./docs/manifest.schema.json
      ./share
      ./src
      ./templates
      ./tests/manifests
    ];
  };

  cargoLock.lockFile = ./Cargo.lock;

  nativeBuildInputs = [ installShellFiles ];

  # The other tests want the whole tree, or Podman and a browser; scripts/test runs them.
  cargoTestFlags = [
    "--lib"
    "--bins"
  ];

  # Web files and page templates are compiled in.
  postInstall = ''
    mkdir -p "$out/share/code-server-multi"
    cp -r share/nginx share/workspace "$out/share/code-server-multi/"
  ''
  + lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    "$out/bin/csm" man > csm.1
    installManPage csm.1
    installShellCompletion --cmd csm \
      --bash <("$out/bin/csm" completions bash) \
      --fish <("$out/bin/csm" completions fish) \
      --zsh <("$out/bin/csm" completions zsh)
  '';

  # share/workspace runs in containers of any image: its #!/bin/sh must stay.
  dontPatchShebangs = true;

  doInstallCheck = true;
  nativeInstallCheckInputs = [ versionCheckHook ];
  versionCheckProgramArg = "--version";

  passthru = {
    inherit images;
    # The image of users for whom no other image is set.
    imageBase = images.image-base;
  };

  meta = {
    description = "VS Code and coding agents in the browser, with a workspace for each person on one machine";
    license = [
      lib.licenses.mit
      lib.licenses.asl20
    ];
    mainProgram = "csm";
    platforms = lib.platforms.linux;
  };
}
