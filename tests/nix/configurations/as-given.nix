# The configuration that the project was started for, unchanged; it must stay valid.
{ config, ... }:
{
  services.code-server-multi = {
    enable = true;
    users = {
      dan = {
        port = 8081;
        passwordFile = config.sops.secrets.code-server-dan.path;
        memoryLimit = "2G";
        cpuLimit = "1.5";
        environment = {
          ANTHROPIC_API_KEY = config.sops.secrets.opencode-anthropic.path;
          OPENAI_API_KEY = config.sops.secrets.opencode-openai.path;
        };
      };
      alice = {
        port = 8082;
        passwordFile = config.sops.secrets.code-server-alice.path;
      };
    };
    baseImage = "codercom/code-server:latest";
    workspaceBase = "/var/lib/vscode";
  };
}
