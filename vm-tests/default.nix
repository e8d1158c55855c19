# The whole stack on NixOS, one scenario a test. Each scenario's script is a Python file of its own beside this one, so that
# another guest with the same driver can run it.
{ pkgs, module }:
let
  scenario =
    name: node:
    pkgs.testers.runNixOSTest {
      inherit name;
      nodes.machine = {
        imports = [
          module
          ./machine.nix
          node
        ];
      };
      testScript = builtins.readFile (./. + "/${name}.py");
    };
in
{
  front-door = scenario "front-door" { };
}
