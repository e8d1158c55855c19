{
  services.code-server-multi = {
    enable = true;
    users.dan.passwordFile = "/run/secrets/dan";
  };
}
