{
  sops.secrets = {
    code-server-dan = { };
    code-server-alice = { };
    opencode-anthropic = { };
    opencode-openai = { };
  };
}
