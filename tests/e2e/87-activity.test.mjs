// Whether a workspace is in use: real programs in real workspaces, each with the verdict that is wanted. The workspaces are frozen and
// stopped within seconds here instead of minutes.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, atEditor, person } from './lib/browser.mjs';
import { csmProcess, declare, manifest, putInForce, reaches, running } from './lib/demo.mjs';
import { NAVIGATE, operator, send, workspace } from './lib/http.mjs';
import { csm, inside } from './lib/place.mjs';
import { until } from './lib/until.mjs';
import { Visitor } from './lib/visitor.mjs';

const original = JSON.stringify(manifest());
const started = [];

/** Sets a user's autostop. */
const autostop = (user, settings) => declare((next) => { next.users[user].autostop = settings; });

/** Runs a command in the background of a workspace, as its own session; `stop` ends it. */
async function background(user, name, script) {
  await inside(user, 'sh', '-c', `setsid sh -c 'echo $$ > /tmp/${name}.pid; ${script}' >/tmp/${name}.log 2>&1 < /dev/null & `);
  const one = { stop: () => inside(user, 'sh', '-c', `kill -- -$(cat /tmp/${name}.pid) 2>/dev/null || true`) };
  started.push(one);
  return one;
}

/** Asks the workspace's own socket, from inside. */
async function control(user, method, path, body) {
  const text = await inside(user, 'curl', '--silent', '--show-error', '--unix-socket', '/run/csm/control.sock', '--request', method,
    '--header', 'content-type: application/json', ...(body ? ['--data', JSON.stringify(body)] : []), `http://csm${path}`);
  return JSON.parse(text);
}

const verdict = async (user) => (await workspace(user)).activity;
const kinds = async (user) => (await verdict(user)).keptBy.map((one) => one.kind);
const kept = (user, ...wanted) =>
  until(`${user} to be kept by ${wanted}`, async () => {
    const found = await kinds(user);
    return wanted.every((kind) => found.includes(kind)) ? found : false;
  }, { seconds: 120 });
const idle = (user) => until(`${user} to be idle`, async () => (await kinds(user)).length === 0, { seconds: 240 });

before(async () => {
  await Promise.all([running('ada'), running('grace')]);
  await autostop('ada', { freezeAfter: '170s', stopAfter: 'off' });
});

after(async () => {
  for (const one of started) await one.stop().catch(() => {});
  await putInForce(original);
});

test('a workspace that nobody uses is idle, and says when it is frozen', async () => {
  await idle('ada');
  const found = await until('a sample', async () => { const it = await verdict('ada'); return it.next ? it : false; });
  assert.deepEqual({ ...found.next, seconds: 0 }, { stops: false, seconds: 0, because: 'idle' });
  assert.ok(found.next.seconds <= 170);
  assert.match((await csm('why', 'ada')).stdout, /^ada: running, .*\n {2}idle for .*\n {2}freezes in \d/);
  assert.match((await csm('status', 'ada')).stdout, /idle for .*; freezes in/);
});

test('an agent, a lease, a known program, a terminal that prints and much input and output keep it, each by its own name', async () => {
  const busy = await background('ada', 'xz', 'xz --stdout /dev/zero > /dev/null');
  const prints = await background('ada', 'prints', 'tmux -L prints new-session -d "while sleep 1; do date; done"; sleep 1000');
  const pid = Number(await inside('ada', 'cat', '/tmp/xz.pid'));
  await control('ada', 'PUT', '/v1/agents/one', { state: 'working', name: 'opencode', pid });
  const response = await control('ada', 'PUT', '/v1/leases/two', { seconds: 3600, reason: 'deploy' });
  assert.match(response.text, /opencode is working .*deploy \(lease for another 59 min|1 h 0 min\)/);
  await kept('ada', 'agent', 'lease', 'program', 'output', 'io');
  const why = (await csm('why', 'ada')).stdout;
  for (const line of [/kept: opencode is working/, /kept: deploy \(lease for/, /kept: xz uses \d+ % CPU/, /kept: \w+ prints to a terminal/]) {
    assert.match(why, line);
  }
  assert.match(why, /without its owner it is kept for at most 2\d h/);
  // Each ends by itself.
  await busy.stop();
  await until('the agent to be gone with its process', async () => !(await kinds('ada')).includes('agent'), { seconds: 90 });
  await inside('ada', 'tmux', '-L', 'prints', 'kill-server');
  await prints.stop();
  await control('ada', 'DELETE', '/v1/leases/two');
  await idle('ada');
});

test('what only waits does not keep it: sleep, a watcher, a server, a stopped debuggee, an agent that is done', async () => {
  await background('ada', 'sleep', 'sleep 10000');
  await background('ada', 'tmux', 'tmux -L sleeps new-session -d "sleep 10000"; sleep 10000');
  await background('ada', 'server', 'python3 -m http.server 3999');
  await background('ada', 'watch', 'tail -F /tmp/nothing');
  await background('ada', 'mcp', 'cat');
  await background('ada', 'debuggee', 'sleep 10000 & kill -STOP $!; wait');
  await control('ada', 'PUT', '/v1/agents/one', { state: 'done', name: 'opencode' });
  await control('ada', 'PUT', '/v1/agents/two', { state: 'question', name: 'codex' });
  await idle('ada');
  const found = await verdict('ada');
  assert.deepEqual(found.waiting.map(({ name, state }) => [name, state]), [['codex', 'question']]);
  assert.match((await csm('why', 'ada')).stdout, /codex has been waiting for an answer for/);
  await control('ada', 'DELETE', '/v1/agents/two');
});

test('typing in a terminal starts the clocks again', async () => {
  await idle('ada');
  await inside('ada', 'tmux', '-L', 'typed', 'new-session', '-d', 'sh');
  const before = (await until('some idle time', async () => { const it = await verdict('ada'); return it.idle > 20 ? it : false; }, { seconds: 120 })).idle;
  await until('the clock to start again', async () => {
    await inside('ada', 'tmux', '-L', 'typed', 'send-keys', ':', 'Enter');
    return (await verdict('ada')).idle < before;
  }, { seconds: 120, every: 2000 });
  await inside('ada', 'tmux', '-L', 'typed', 'kill-server');
});

test('an open tab keeps it; a closed one does not', async () => {
  const browser = await launch();
  try {
    const { page, context } = await person(browser);
    await atEditor(page, 'ada');
    await kept('ada', 'tab');
    await context.close();
    await idle('ada');
  } finally {
    await browser.close();
  }
});

test('keep, from the command line and the dashboard, within autostop.maxLease', async () => {
  assert.match((await csm('keep', 'ada', '3h')).stdout, /kept: kept by the command line \(lease for another (3 h 0|2 h 59) min\)/);
  const refused = await csm('keep', 'ada', '48h');
  assert.equal(refused.status, 1);
  assert.match(refused.stderr, /autostop.maxLease/);
  assert.equal((await operator('/api/v1/workspaces/ada/keep?for=soon', { method: 'POST' })).status, 400);
  assert.equal((await operator('/api/v1/workspaces/ada/keep?for=0s', { method: 'POST' })).status, 200);
  await idle('ada');
});

test('a workspace that nobody uses is frozen, then stopped; only its owner\'s navigation thaws it', async () => {
  const grace = await Visitor.owner('grace');
  await autostop('grace', { freezeAfter: '40s', stopAfter: 'off', warnings: ['10s'] });
  await reaches('grace', 'frozen', { seconds: 200 });
  assert.match((await workspace('grace')).reason, /^idle for \d+ (s|min)$/);
  // What a sleeping tab, an asset or a stranger requests.
  const cookie = { Cookie: grace.cookies('grace') };
  for (const headers of [cookie, {}, NAVIGATE]) await send({ label: 'grace', headers }).catch(() => {});
  await send({ label: 'grace', headers: { ...cookie, Upgrade: 'websocket', Connection: 'upgrade', Origin: 'http://other.example' } }).catch(() => {});
  assert.equal((await workspace('grace')).state, 'frozen');
  // code-server redirects to its folder.
  assert.equal((await grace.visit('grace', '/')).status, 302);
  await reaches('grace', 'running');
  assert.match((await workspace('grace')).reason, /opened by grace/);
  await autostop('grace', { freezeAfter: '20s', stopAfter: '60s', warnings: [] });
  await reaches('grace', 'frozen', { seconds: 200 });
  await reaches('grace', 'stopped', { seconds: 200 });
  assert.match((await workspace('grace')).reason, /^idle for/);
});

test('a workspace that floods its socket and lies is bounded, and nobody else is affected', async () => {
  await running('grace');
  const pid = csmProcess().pid;
  await inside('ada', 'sh', '-c', `
    cd /tmp; printf '%s' '{"state":"working","name":"<img src=x onerror=alert(1)>"}' > claim.json
    curl='curl --silent --output /dev/null --max-time 20 --unix-socket /run/csm/control.sock'
    for at in $(seq 1 200); do $curl --request PUT --data @claim.json "http://csm/v1/agents/$at"; done
    head -c 1000000000 /dev/zero | $curl --request PUT --data-binary @- http://csm/v1/agents/big || true
    $curl --request PUT --data '{"seconds":99999999999}' http://csm/v1/leases/x; true`);
  assert.equal(csmProcess().pid, pid);
  const found = await verdict('ada');
  assert.ok(found.keptBy.filter((one) => one.kind === 'agent').length <= 32, `${found.keptBy.length}`);
  assert.ok(!found.keptBy.some((one) => one.kind === 'lease'));
  const ada = await Visitor.owner('ada');
  const page = await ada.visit('', '/');
  assert.ok(!page.body.includes('<img src=x'), 'names are shown as text');
  assert.equal((await workspace('grace')).state, 'running');
});

test('an endless loop of an unknown program keeps it, and is named', async () => {
  const loop = await background('ada', 'loop', 'cp /bin/dash /tmp/endless; exec /tmp/endless -c "while :; do :; done"');
  await kept('ada', 'cpu');
  assert.match((await csm('why', 'ada')).stdout, /programs use \d+ % CPU, endless the most/);
  await loop.stop();
});
