// A crash, the takeover by the next csm, and the shutdown. This file is last, because it stops the demo.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, test } from 'node:test';
import { csmProcess, demoProcesses, group, interrupt, reaches, running, startDemo } from './lib/demo.mjs';
import { NAVIGATE, send, workspace } from './lib/http.mjs';
import { echo } from './lib/echo.mjs';
import { csmRun, demoLog, inAccount, inside, read } from './lib/place.mjs';
import { until } from './lib/until.mjs';
import { handshake, say } from './lib/ws.mjs';
import { Visitor } from './lib/visitor.mjs';

const named = (...names) => demoProcesses().filter((one) => names.includes(one.name));
const conmon = () => named('conmon').map((one) => one.pid).sort();
let ada;

test('while csm hangs nginx denies all requests, and an open WebSocket still works', async () => {
  await Promise.all([running('ada'), running('grace')]);
  await echo('ada', 3001);
  ada = await Visitor.owner('ada', 'ada', '3001--ada');
  const cookie = { Cookie: ada.cookies('3001--ada') };
  const open = await handshake({ label: '3001--ada', headers: cookie });
  assert.equal(await say(open.socket, 'before'), 'before');
  const { pid } = csmProcess();
  process.kill(pid, 'SIGSTOP');
  try {
    assert.equal(await say(open.socket, 'meanwhile'), 'meanwhile');
    // nginx has no cached response for this request: it does not use the cache for a navigation, or for a request with an Origin.
    const denied = await Promise.all([
      send({ label: 'ada', headers: { ...NAVIGATE, Cookie: ada.cookies('ada'), Origin: 'http://other.example' } }),
      send({ label: 'ada', headers: NAVIGATE }),
      send({ label: '', headers: NAVIGATE }),
      send({ label: '3001--ada', target: '/', headers: { Cookie: 'x=y' } }),
    ].map((one) => one.catch(() => ({ status: 0, body: '' }))));
    for (const answer of denied) {
      assert.ok(answer.status === 0 || answer.status >= 500, `${answer.status}`);
      assert.ok(!answer.body.includes('"headers"'), 'nothing of the workspace');
    }
  } finally {
    process.kill(pid, 'SIGCONT');
  }
  assert.equal(await say(open.socket, 'after'), 'after');
  open.socket.destroy();
});

test('after kill -9 of csm workspaces still run, and the next make demo takes them over, with their sessions', async () => {
  const before = conmon();
  assert.equal(before.length, 2, 'ada and grace run');
  const inner = await inside('ada', 'cat', '/proc/1/stat');
  process.kill(csmProcess().pid, 'SIGKILL');
  await until('the demo to exit', () => group().length === 0);
  // nginx and Podman's service exit with csm; workspaces don't.
  await until('nginx and podman to exit', () => named('nginx', 'podman').length === 0);
  assert.deepEqual(conmon(), before);
  await startDemo({ seconds: 300 });
  await reaches('ada', 'running');
  assert.match((await workspace('ada')).reason, /already running when csm started/);
  assert.deepEqual(conmon(), before, 'the same processes');
  assert.equal((await inside('ada', 'cat', '/proc/1/stat')).split(' ')[21], inner.split(' ')[21], 'the same start time');
  assert.equal((await ada.visit('ada', '/healthz')).status, 200, 'the browser is still signed in');
  assert.equal((await ada.visit('')).status, 200);
});

test('csm restarts nginx and podman after they are killed, and users stay signed in', async () => {
  const master = named('nginx').find((one) => one.args.includes('master'));
  process.kill(master.pid, 'SIGKILL');
  await until('a new nginx', () => named('nginx').some((one) => one.args.includes('master') && one.pid !== master.pid));
  await until('the editor to respond', async () => (await ada.visit('ada', '/healthz')).status === 200);
  const podman = named('podman').find((one) => one.args.includes('system service'));
  process.kill(podman.pid, 'SIGKILL');
  await until('a new podman service', () => named('podman').some((one) => one.args.includes('system service') && one.pid !== podman.pid));
  await running('ada');
});

test('Ctrl-C stops everything in order, and no process remains', async () => {
  assert.equal(conmon().length, 2);
  const from = read(demoLog).length;
  await interrupt();
  assert.match(read(demoLog).slice(from), /stopping/);
  assert.ok(!/did not exit|waiting for workspaces to stop|panicked/.test(read(demoLog).slice(from)), read(demoLog).slice(from));
  await until('every process to exit', () => named('csm', 'nginx', 'podman', 'conmon', 'slirp4netns', 'pasta').length === 0, { seconds: 5 });
  const left = await inAccount(['podman', 'ps', '--quiet']);
  assert.equal(left.stdout.trim(), '', 'no container runs');
  await assert.rejects(send({ target: '/' }), /ECONNREFUSED/);
  assert.ok(!existsSync(`${csmRun}/nginx/nginx.pid`));
});

after(async () => {
  if (process.env.CSM_E2E_KEEP && group().length === 0) await startDemo({ seconds: 300 });
});
