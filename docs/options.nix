# Generates docs/options.md from the module's options: one section for each, with the options of `defaults` in the users' sections.
{ lib, options }:
let
  prefix = "services.code-server-multi.";
  listed = lib.filter (option: option.visible && !option.internal) (
    lib.optionAttrSetToDocList options.services.code-server-multi
  );
  named = lib.listToAttrs (
    map (option: lib.nameValuePair (lib.removePrefix prefix option.name) option) listed
  );

  # `users.<name>.image` → `defaults.image`, if there is such an option.
  allUsers = name: "defaults.${lib.removePrefix "users.<name>." name}";
  isForAllUsers = name: lib.hasPrefix "users.<name>." name && named ? ${allUsers name};

  indented = text: lib.concatMapStringsSep "\n" (line: "    ${line}") (lib.splitString "\n" text);
  written =
    label: value:
    let
      text = lib.removeSuffix "\n" value.text;
    in
    if value._type == "literalMD" then
      "${label}: ${text}."
    else if lib.hasInfix "\n" text then
      "${label}:\n\n${indented text}"
    else
      "${label}: `${text}`";
  default =
    name: option:
    if isForAllUsers name then named.${allUsers name}.default or null else option.default or null;

  section =
    name:
    let
      option = named.${name};
      given = default name option;
    in
    lib.concatStringsSep "\n\n" (
      [
        "### `${name}`"
        (lib.trim option.description)
        "Type: ${option.type}"
      ]
      ++ lib.optional (given != null) (written "Default" given)
      ++ lib.optional (option ? example) (written "Example" option.example)
      ++ lib.optional (isForAllUsers name) "For all users: `${allUsers name}`"
    );

  ofPeople = lib.filter (lib.hasPrefix "users.<name>.") (lib.attrNames named);
  ofMachine = lib.filter (
    name: !lib.hasPrefix "users.<name>." name && !lib.hasPrefix "defaults." name
  ) (lib.attrNames named);
in
''
  # Options of `services.code-server-multi`

  <!-- docs/options.nix generates this page from the module; tests/nix/run checks that it is up to date. -->

  The [how-tos](howto) have examples. Write sizes as `3G`, `2560M` or `512K`, and CPUs as `1.5`.

  ## The host

  ${lib.concatMapStringsSep "\n\n" section ofMachine}

  ## A user

  ${lib.concatMapStringsSep "\n\n" section ofPeople}
''
