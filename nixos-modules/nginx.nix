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
  people = lib.attrNames cfg.users;
  socket = name: "unix:${run}/ws/${name}/http.sock";

  # What each host of ours has in common.
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
        # nginx sends visitors from plain HTTP to the usual port, which is not always the one.
        forceSSL = cfg.httpsPort == 443;
        onlySSL = cfg.httpsPort != 443;
      }
      // (
        if acmeName != null then
          {
            useACMEHost = acmeName;
            # The wildcard comes by DNS-01; nobody asks these hosts for a challenge.
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

  # The ports that nginx listens on for our hosts, with TLS or without.
  listening =
    ssl: usual:
    let
      own = lib.filter (one: one.ssl == ssl) nginx.virtualHosts.${domain}.listen;
      shared = lib.filter (one: one.ssl == null || one.ssl == ssl) nginx.defaultListen;
      given = if nginx.virtualHosts.${domain}.listen != [ ] then own else shared;
      port = one: if one.port == null then usual else one.port;
    in
    if nginx.virtualHosts.${domain}.listen == [ ] && nginx.defaultListen == [ ] then
      [ usual ]
    else
      lib.unique (map port given);
  withTls = listening true nginx.defaultSSLListenPort;

  # Hosts of this machine that are not ours: which of them answers to names that none has is theirs to say.
  others = lib.subtractLists ([ domain ] ++ map (name: "${name}.${domain}") people) (
    lib.filter (name: !lib.hasPrefix "code-server-multi-" name) (lib.attrNames nginx.virtualHosts)
  );

  # The form whose password goes to the daemon.
  signIn = path: { locations."= ${path}".extraConfig = "include ${share}/sign-in.conf;"; };

  owner =
    name: lib.nameValuePair "${name}.${domain}" (host // workspace "label:${name}" "csm_ws_${name}");

  # The same workspace on a port of the loopback, for SSH tunnels.
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
      # A changed host must not restart nginx: that would drop everyone's WebSockets.
      enableReload = true;
      recommendedTlsSettings = lib.mkDefault true;
      # A name of two labels and a port in front of the longest domain; people and their hosts.
      serverNamesHashBucketSize = lib.mkDefault 512;
      serverNamesHashMaxSize = lib.mkDefault (lib.max 512 (2 * lib.length people));

      # nginx's own 512 connections are a few dozen open editors, or one visitor who holds them all.
      eventsConfig = lib.mkDefault "worker_connections 4096;";

      commonHttpConfig = ''
        proxy_cache_path /var/cache/nginx/code-server-multi keys_zone=csm_authorized:1m max_size=16m inactive=10s use_temp_path=off;
        include ${share}/http.conf;
        # One request a connection: what a visitor sends beyond its end is nobody's next request.
        upstream csm_front { server unix:${run}/front.sock; }
        upstream csm_question { server unix:${run}/question.sock; keepalive 32; }
        ${lib.concatMapStrings (
          name: "upstream csm_ws_${name} { server ${socket name}; keepalive 32; }\n"
        ) people}
      '';

      virtualHosts = {
        ${domain} =
          host
          // {
            extraConfig = ''
              ${lib.optionalString (tls != null) ''
                # Everyone comes by here; it is for all hosts below.
                add_header Strict-Transport-Security "max-age=31536000; includeSubDomains" always;
              ''}
              set $csm_site dashboard;
              include ${share}/cookies.conf;
              include ${share}/front.conf;
              include ${share}/dashboard.conf;
            '';
          }
          // signIn "/sign-in";
        # Projects, ports, and names that nobody has, which get a page that says so.
        code-server-multi-labels =
          host
          // {
            serverName = "~^(?<csm_label>(?:[0-9]+--)?(?<csm_workspace>[a-z][a-z0-9-]*))\\.${
              lib.replaceStrings [ "." ] [ "\\." ] domain
            }$";
          }
          // workspace "label:$csm_label" "unix:${run}/ws/$csm_workspace/http.sock:";
        # Any other name gets no certificate and no page of ours, where the machine has no other hosts.
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
      // lib.listToAttrs (map owner people)
      // lib.listToAttrs (
        lib.concatMap (
          name: lib.optional (cfg.users.${name}.port != null) (loopback name cfg.users.${name}.port)
        ) people
      );
    };

    systemd.services.nginx.serviceConfig = {
      # Its way to the daemon's sockets.
      SupplementaryGroups = [ "code-server-multi" ];
      # Two descriptors for each of a worker's connections.
      LimitNOFILE = lib.mkDefault 16384;
    };

    networking.firewall.allowedTCPPorts = lib.mkIf cfg.openFirewall (
      withTls ++ lib.optionals (cfg.httpsPort == 443) (listening false nginx.defaultHTTPListenPort)
    );
  };
}
