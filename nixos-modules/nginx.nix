# The front door: nginx, with the same files that "csm up" gives its own nginx (share/nginx).
{ config, lib, ... }:
let
  nginx = config.services.nginx;
  cfg = config.services.code-server-multi;
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

  # The ports on which nginx listens for the module's server blocks, with TLS or without.
  listening =
    ssl: usual:
    let
      own = nginx.virtualHosts.${domain}.listen;
      given = if own != [ ] then own else nginx.defaultListen;
      port = one: if one.port == null then usual else one.port;
    in
    if given == [ ] then
      [ usual ]
    else
      lib.unique (map port (lib.filter (one: one.ssl == null || one.ssl == ssl) given));
  withTls = listening true nginx.defaultSSLListenPort;

  # The host's other server blocks. If there are any, they decide which one answers unknown hostnames.
  others = lib.subtractLists ([ domain ] ++ map (name: "${name}.${domain}") userNames) (
    lib.filter (name: !lib.hasPrefix "code-server-multi-" name) (lib.attrNames nginx.virtualHosts)
  );

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
          default = lib.mkDefault (tls == null || others == [ ]);
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
