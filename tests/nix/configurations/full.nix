# Most options, and difficult names: one with a dash, and one that is the beginning of another.
{ pkgs, ... }:
{
  security.acme.acceptTerms = true;
  services.code-server-multi = {
    enable = true;
    domain = "code.example.org";
    acme = {
      dnsProvider = "cloudflare";
      environmentFile = "/run/secrets/acme-dns";
      email = "admin@example.org";
    };
    openFirewall = true;
    workspaceBase = "/srv/workspaces";
    defaults = {
      memoryLimit = "4G";
      environment.EDITOR = "nano";
      secretEnvironment.OPENAI_API_KEY = "/run/secrets/openai";
      extensions = [ "rust-lang.rust-analyzer" ];
      settings."editor.fontSize" = 15;
      packages = [ pkgs.ripgrep ];
    };
    users = {
      anna = {
        passwordFile = "/run/secrets/anna";
        admin = true;
        autoStart = true;
        memoryLimit = "2G";
        memoryHigh = "1536M";
        cpuLimit = 2.5;
        tasksLimit = 2048;
        environment.TZ = "Europe/Berlin";
        secretEnvironment.ANTHROPIC_API_KEY = "/run/secrets/anna-anthropic";
        secretFiles = {
          "~/.netrc" = {
            source = "/run/secrets/anna-netrc";
            mode = "0600";
          };
          ".aws/credentials".source = "/run/secrets/anna-aws";
        };
        hostServices = [ 5432 ];
        port = 8081;
        extensions = [ "ms-python.python" ];
        settings."files.autoSave" = "afterDelay";
        packages = [ pkgs.git ];
      };
      anna-lena = {
        passwordFile = "/run/secrets/anna-lena";
        image = "docker.io/codercom/code-server:latest";
      };
    };
  };
}
