# Options that were renamed or removed.
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
    ]) "A wildcard certificate requires DNS-01; set acme.dnsProvider.")
  ];
}
