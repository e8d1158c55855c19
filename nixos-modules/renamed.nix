# Options that were called otherwise, here or in the manifest.
{ lib, ... }:
let
  option =
    path:
    [
      "services"
      "code-server-multi"
    ]
    ++ path;
in
{
  imports = [
    (lib.mkRenamedOptionModule (option [ "image" ]) (option [ "baseImage" ]))
    (lib.mkRenamedOptionModule
      (option [
        "acme"
        "credentialsFile"
      ])
      (option [
        "acme"
        "environmentFile"
      ])
    )
    (lib.mkRemovedOptionModule (option [
      "acme"
      "webroot"
    ]) "A wildcard certificate needs DNS-01: set acme.dnsProvider.")
  ];
}
