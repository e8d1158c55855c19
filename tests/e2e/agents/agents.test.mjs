// The agents' hooks with the real Codex and OpenCode, in a workspace: 82-agents.test.mjs runs this file there. A local model stands in for
// the provider, and a recorder for csm.
import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { startModel } from './model.mjs';
import { startRecorder } from './recorder.mjs';

// Not in /tmp, which Codex refuses.
const home = mkdtempSync(`${process.env.HOME}/.agents-`);
const project = `${home}/project`;
const socket = `${home}/control.sock`;
const environment = { ...process.env, HOME: home, CSM_CONTROL_SOCKET: socket, XDG_CONFIG_HOME: `${home}/.config`, TMUX: '' };
// Nothing is to be fetched: OpenCode would wait for the registry of npm, and retry.
Object.assign(environment, { npm_config_fetch_retries: '0', OPENCODE_DISABLE_MODELS_FETCH: '1' });
for (const name of ['XDG_DATA_HOME', 'XDG_STATE_HOME', 'XDG_CACHE_HOME', 'CODEX_HOME']) delete environment[name];
let model;
let recorder;

before(async () => {
  [model, recorder] = await Promise.all([startModel(), startRecorder(socket)]);
  for (const path of [project, `${home}/.codex`, `${home}/.config/opencode/plugins`]) mkdirSync(path, { recursive: true });
  // A person's own hooks and plugins, which must still run.
  writeFileSync(
    `${home}/.codex/config.toml`,
    `model = "stub"
model_provider = "stub"
approval_policy = "on-request"
sandbox_mode = "read-only"
check_for_update_on_startup = false
notify = ["sh", "-c", "echo ran > ${home}/codex-ran"]
[features]
default_mode_request_user_input = true
[model_providers.stub]
name = "stub"
base_url = "${model.url}/v1"
wire_api = "responses"
[projects."${project}"]
trust_level = "trusted"
`,
  );
  writeFileSync(
    `${home}/.config/opencode/plugins/own.js`,
    `import { writeFileSync } from 'node:fs'; export const own = async () => (writeFileSync('${home}/opencode-ran', 'ran'), {});`,
  );
  writeFileSync(
    `${home}/.config/opencode/opencode.json`,
    JSON.stringify({
      model: 'stub/stub',
      small_model: 'stub/stub',
      permission: { bash: { '*': 'ask', 'echo *': 'allow' } },
      provider: {
        stub: {
          npm: '@ai-sdk/openai-compatible',
          options: { baseURL: `${model.url}/v1`, apiKey: 'x' },
          models: { stub: { tool_call: true, limit: { context: 100000, output: 1000 } } },
        },
      },
    }),
  );
});
after(() => {
  recorder.close();
  model.close();
  rmSync(home, { recursive: true, force: true, maxRetries: 10 });
});
beforeEach(() => recorder.clear());
afterEach(() => {
  model.release();
  // Codex has a server that survives its terminal.
  for (const pid of new Set(recorder.reports.map((one) => one.pid))) spawnSync('kill', ['-KILL', String(pid)]);
  spawnSync('tmux', ['-L', 'agents', 'kill-server']);
});

/** Runs a command to its end. */
function run(...command) {
  return new Promise((resolve, reject) => {
    const child = spawn(command[0], command.slice(1), { cwd: project, env: environment, stdio: ['ignore', 'pipe', 'pipe'] });
    let said = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (said += data));
    child.on('error', reject).on('exit', (code) => (code === 0 ? resolve(said) : reject(new Error(`${command[0]}: ${code}\n${said}`))));
  });
}

const tmux = (...words) => execFileSync('tmux', ['-L', 'agents', '-f', '/dev/null', ...words], { cwd: project, env: environment, encoding: 'utf8' });
const screen = () => tmux('capture-pane', '-p');

/** Starts an agent in a terminal, waits until this is on the screen, and types. */
async function type(command, ready, text) {
  tmux('new-session', '-d', '-x', '120', '-y', '40', command);
  await shows(ready);
  await submit(text);
}

async function shows(wanted) {
  for (const end = Date.now() + 60_000; !wanted.test(screen()); await new Promise((resolve) => setTimeout(resolve, 200))) {
    if (Date.now() > end) throw new Error(`waited for ${wanted}; the screen shows:\n${screen()}`);
  }
}

async function submit(text) {
  tmux('send-keys', '-l', text);
  await shows(new RegExp(text.slice(-20).replace(/[^\w ]/g, '.')));
  tmux('send-keys', 'Enter');
}

/** The states that were reported, without repetitions. */
const steps = (reports, id = reports[0]?.id) =>
  reports.filter((one) => one.id === id).map((one) => one.state).filter((state, at, all) => state !== all[at - 1]);

const is = (wanted) => (states) => states.length > 0 && states.every((state) => state === wanted);

const codexReady = /stub/;
const openCodeReady = /Ask anything/;

test('Codex works and is done', async () => {
  await run('codex', 'exec', '--skip-git-repo-check', 'run echo hello then all good');
  assert.deepEqual(steps(recorder.reports), ['working', 'done', 'idle']);
  assert.equal(recorder.reports[0].name, 'codex');
  assert.equal(readFileSync(`${home}/codex-ran`, 'utf8'), 'ran\n', "the person's own notify runs");
});

test('Codex waits for a permission, goes on with it, and thinks', async () => {
  await type('codex', codexReady, 'request touch made then wait then all good');
  await recorder.until('Codex to wait', is('permission'));
  const { pid } = recorder.reports[0];
  assert.equal(readFileSync(`/proc/${pid}/comm`, 'utf8'), 'codex\n', 'its own process is named');
  await shows(/Yes/);
  tmux('send-keys', 'y');
  await recorder.until('Codex to work', is('working'));
  await model.waited();
  assert.deepEqual(steps(recorder.reports), ['working', 'permission', 'working']);
  model.release();
  await recorder.until('Codex to be done', is('done'));
});

test('Codex waits for an answer', async () => {
  await type('codex', codexReady, 'ask then wait then all good');
  await recorder.until('Codex to wait', is('question'));
  await shows(/Which one/);
  tmux('send-keys', 'Enter');
  await recorder.until('Codex to work', is('working'));
  await model.waited();
  model.release();
  await recorder.until('Codex to be done', is('done'));
});

test("Codex' subagent counts when its parent is done", async () => {
  await type('codex', codexReady, 'delegate wait next all good then all good');
  await recorder.until('the parent to be done', (states) => states.includes('done') && states.includes('working'));
  const sub = recorder.reports.find((one) => one.name === "codex's subagent");
  assert.equal(recorder.states()[sub.id], 'working');
  await model.waited();
  model.release();
  await recorder.until('the subagent to be idle', () => recorder.states()[sub.id] === 'idle');
});

test('Codex that is interrupted works no longer', async () => {
  await type('codex', codexReady, 'wait');
  await recorder.until('Codex to work', is('working'));
  await shows(/esc to interrupt/);
  tmux('send-keys', 'Escape');
  await recorder.until('Codex to be done', is('done'));
});

test('OpenCode works and is done', async () => {
  await run('opencode', 'run', 'run echo hello then all good');
  // It exits immediately, so that its last report may not be sent any more: csm sees that its process is gone.
  const [first, ...rest] = steps(recorder.reports);
  assert.equal(first, 'working');
  assert.ok(rest.length === 0 || rest.join() === 'done', `${rest}`);
  assert.equal(recorder.reports[0].name, 'opencode');
  assert.equal(readFileSync(`${home}/opencode-ran`, 'utf8'), 'ran', "the person's own plugin runs");
});

test('OpenCode waits for a permission, goes on with it, and thinks', async () => {
  await type('opencode', openCodeReady, 'request touch made then wait then all good');
  await recorder.until('OpenCode to wait', is('permission'));
  await shows(/Allow once/);
  tmux('send-keys', 'Enter');
  await recorder.until('OpenCode to work', is('working'));
  await model.waited();
  model.release();
  await recorder.until('OpenCode to be done', is('done'));
});

test('OpenCode waits for an answer', async () => {
  await type('opencode', openCodeReady, 'ask then wait then all good');
  await recorder.until('OpenCode to wait', is('question'));
  await shows(/Which one/);
  tmux('send-keys', 'Enter');
  await recorder.until('OpenCode to work', is('working'));
  await model.waited();
  model.release();
  await recorder.until('OpenCode to be done', is('done'));
});

test("OpenCode waits while its subagent waits for a permission, and works while its subagent works", async () => {
  await type('opencode', openCodeReady, 'delegate request touch made next wait next all good then all good');
  await recorder.until('OpenCode to wait', is('permission'));
  await shows(/Allow once/);
  tmux('send-keys', 'Enter');
  await recorder.until('OpenCode to work', is('working'));
  await model.waited();
  assert.deepEqual(steps(recorder.reports), ['working', 'permission', 'working']);
  model.release();
  await recorder.until('OpenCode to be done', is('done'));
});

test('OpenCode that is interrupted works no longer', async () => {
  await type('opencode', openCodeReady, 'wait');
  await recorder.until('OpenCode to work', is('working'));
  await shows(/interrupt/);
  tmux('send-keys', 'Escape');
  await shows(/again to interrupt/);
  tmux('send-keys', 'Escape');
  await recorder.until('OpenCode to be done', is('done'));
});
