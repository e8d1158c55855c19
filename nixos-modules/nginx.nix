# The front door: nginx, with the same files that "csm up" gives its own nginx (share/nginx).
{ config, lib, ... }:
let
  nginx = config.services.nginx;
  cfg = config.services.code-server-multi;
  ours = import ./lib.nix { inherit lib; };
  inherit (cfg.internal)
    domain
    tls
    acmeName
    run
    ;
  share = "${cfg.package}/share/code-server-multi/nginx";
  userNames = lib.attrNames cfg.users;
  socket = name: "unix:${run}/ws/${name}/http.sock";

  # The settings that all of the module's server blocks share.
  host =
    if tls == null then
      {
        listen = [
          {
            addr = cfg.listen.address;
            inherit (cfg.listen) port;
          }
        ];
      }
    else
      {
        # forceSSL redirects plain HTTP to port 443, so it is off if browsers use another port.
        forceSSL = cfg.httpsPort == 443;
        onlySSL = cfg.httpsPort != 443;
      }
      // (
        if acmeName != null then
          {
            useACMEHost = acmeName;
            # The wildcard uses DNS-01, so these server blocks serve no HTTP challenge.
            acmeRoot = null;
          }
        else
          {
            sslCertificate = tls.certificate;
            sslCertificateKey = tls.certificateKey;
          }
      );

  workspace = site: backend: {
    extraConfig = ''
      set $csm_site ${site};
      set $csm_backend ${backend};
      include ${share}/cookies.conf;
      include ${share}/front.conf;
      include ${share}/workspace.conf;
    '';
  };

  # The ports on which nginx listens for a server block, with TLS or without.
  portsOf =
    block: ssl: usual:
    let
      given = if block.listen != [ ] then block.listen else nginx.defaultListen;
      port = one: if one.port == null then usual else one.port;
    in
    if given == [ ] then
      [ usual ]
    else
      lib.unique (map port (lib.filter (one: one.ssl == null || one.ssl == ssl) given));
  listening = portsOf nginx.virtualHosts.${domain};
  withTls = listening true nginx.defaultSSLListenPort;
  allPortsOf =
    block:
    portsOf block true nginx.defaultSSLListenPort ++ portsOf block false nginx.defaultHTTPListenPort;

  # The names of the module's server blocks that have a hostname.
  hostnames = [ domain ] ++ map (name: "${name}.${domain}") userNames;

  # The host's other server blocks. If there are any, they decide which one answers unknown hostnames.
  others = lib.subtractLists hostnames (
    lib.filter (name: !lib.hasPrefix "code-server-multi-" name) (lib.attrNames nginx.virtualHosts)
  );
  # Those of them that listen on a port of the module's.
  besides = lib.filter (
    name:
    lib.intersectLists (allPortsOf nginx.virtualHosts.${name}) (allPortsOf nginx.virtualHosts.${domain})
    != [ ]
  ) others;

  # Messages about other server blocks that take requests for the module's hostnames.
  taken =
    let
      isOurs = lib.genAttrs hostnames (_: null);
      message =
        name: hostname:
        let
          # nginx's two ways to write a wildcard at the start; the second one is for the domain itself too.
          wildcard = builtins.match "\\*?(\\..+)" hostname;
          where = "services.nginx.virtualHosts.\"${name}\" has the name \"${hostname}\"";
        in
        if wildcard != null && lib.hasSuffix (lib.head wildcard) ".${domain}" then
          [
            "${where}, which nginx prefers to the pattern of ports' hostnames, such as 3000--${
              lib.head (userNames ++ [ "dan" ])
            }.${domain}; replace the wildcard by that site's own hostnames."
          ]
        else
          lib.optional (
            isOurs ? ${hostname}
          ) "${where} too, and nginx uses only one server block for a name; remove the name there.";
      messages =
        name:
        let
          block = nginx.virtualHosts.${name};
        in
        lib.concatMap (message name) (
          [ (if block.serverName == null then name else block.serverName) ] ++ block.serverAliases
        );
    in
    lib.concatMap messages besides;

  # Messages about options of the module's own server blocks that can't work.
  unusable =
    let
      listen = nginx.virtualHosts.${domain}.listen;
    in
    lib.concatMap (
      name:
      lib.optional (nginx.virtualHosts.${name}.locations ? "/")
        "services.nginx.virtualHosts.\"${name}\".locations.\"/\" is the ${
          if name == domain then "dashboard" else "workspace"
        }'s; move it to another hostname."
    ) hostnames
    ++ lib.concatMap (
      name:
      lib.optional (nginx.virtualHosts.${name}.listen != listen)
        "services.nginx.virtualHosts.\"${domain}\".listen differs from that of \"${name}\"; browsers use one port for all hostnames: set services.nginx.defaultListen instead."
    ) (lib.tail hostnames);

  # The sign-in form: the one location whose request body nginx passes to the daemon.
  signIn = path: { locations."= ${path}".extraConfig = "include ${share}/sign-in.conf;"; };

  owner =
    name: lib.nameValuePair "${name}.${domain}" (host // workspace "label:${name}" "csm_ws_${name}");

  # The user's workspace on a port of the loopback, for SSH tunnels.
  loopback =
    name: port:
    lib.nameValuePair "code-server-multi-${name}-port" (
      {
        serverName = "localhost";
        listen = [
          {
            addr = "127.0.0.1";
            inherit port;
          }
        ];
      }
      // workspace "port:${name}" "csm_ws_${name}"
      // signIn "/_csm/sign-in-here"
    );
in
{
  config = lib.mkIf cfg.enable {
    assertions = map ours.refuse unusable;
    warnings = taken;

    services.code-server-multi.internal.listeningPort =
      if withTls == [ ] || lib.elem 443 withTls then 443 else lib.head withTls;

    services.nginx = {
      enable = lib.mkDefault true;
      # A changed server block must not restart nginx: a restart would drop all users' WebSockets.
      enableReload = true;
      recommendedTlsSettings = lib.mkDefault true;
      # Room for the longest hostname (a port, a user and a project before the longest domain), and for all users' hostnames.
      serverNamesHashBucketSize = lib.mkDefault 512;
      serverNamesHashMaxSize = lib.mkDefault (lib.max 512 (2 * lib.length userNames));

      # nginx's default of 512 connections is enough for only a few dozen open editors, and one visitor could use them all.
      eventsConfig = lib.mkDefault "worker_connections 4096;";

      commonHttpConfig = ''
        proxy_cache_path /var/cache/nginx/code-server-multi keys_zone=csm_authorized:1m max_size=16m inactive=10s use_temp_path=off;
        include ${share}/http.conf;
        # One request per connection: what a visitor sends after its end can't become another visitor's request.
        upstream csm_front { server unix:${run}/front.sock; }
        upstream csm_question { server unix:${run}/question.sock; keepalive 32; }
        ${lib.concatMapStrings (
          name: "upstream csm_ws_${name} { server ${socket name}; keepalive 32; }\n"
        ) userNames}
      '';

      virtualHosts = {
        ${domain} =
          host
          // {
            extraConfig = ''
              ${lib.optionalString (tls != null) ''
                # All users visit the dashboard; the header covers all hostnames below the domain.
                add_header Strict-Transport-Security "max-age=31536000; includeSubDomains" always;
              ''}
              set $csm_site dashboard;
              include ${share}/cookies.conf;
              include ${share}/front.conf;
              include ${share}/dashboard.conf;
            '';
          }
          // signIn "/sign-in";
        # Projects, ports, and undeclared names, which get csm's page for them.
        code-server-multi-labels =
          host
          // {
            serverName = "~^(?<csm_label>(?:[0-9]+--)?(?<csm_workspace>[a-z][a-z0-9-]*))\\.${
              lib.replaceStrings [ "." ] [ "\\." ] domain
            }$";
          }
          // workspace "label:$csm_label" "unix:${run}/ws/$csm_workspace/http.sock:";
        # If the host has no other server blocks, any other hostname gets no certificate and no page.
        code-server-multi-rejected = {
          serverName = "_";
          default = lib.mkDefault (
            (tls == null || others == [ ])
            # nginx accepts one default for each port.
            && !lib.any (name: nginx.virtualHosts.${name}.default) (hostnames ++ besides)
          );
          extraConfig = ''
            include ${share}/cookies.conf;
            return 421;
          '';
        }
        // (if tls == null then host else { rejectSSL = true; });
      }
      // lib.listToAttrs (map owner userNames)
      // lib.listToAttrs (
        lib.concatMap (
          name: lib.optional (cfg.users.${name}.port != null) (loopback name cfg.users.${name}.port)
        ) userNames
      );
    };

    systemd.services.nginx.serviceConfig = {
      # Gives nginx access to the daemon's sockets.
      SupplementaryGroups = [ "code-server-multi" ];
      # Two file descriptors for each of a worker's connections.
      LimitNOFILE = lib.mkDefault 16384;
    };

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall (
      withTls ++ lib.optionals (cfg.httpsPort == 443) (listening false nginx.defaultHTTPListenPort)
    );
  };
}
