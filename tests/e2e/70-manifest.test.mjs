// An invalid manifest changes nothing; csm applies a corrected one immediately.
import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { after, before, beforeEach, afterEach, test } from 'node:test';
import { atDashboard, launch, none, person } from './lib/browser.mjs';
import { declare, demoProcesses, putInForce, reaches, running, stopped, writeManifest } from './lib/demo.mjs';
import { NAVIGATE, operator, send, workspace } from './lib/http.mjs';
import { csm, data, inAccount, manifestPath, password } from './lib/place.mjs';
import { until } from './lib/until.mjs';
import { handshake, say } from './lib/ws.mjs';
import { echo } from './lib/echo.mjs';
import { Visitor } from './lib/visitor.mjs';

let browser;
let at;
let good;
before(async () => {
  browser = await launch();
  good = readFileSync(manifestPath, 'utf8');
  await Promise.all([running('ada'), running('grace')]);
  at = await person(browser);
  await atDashboard(at.page, 'ada');
});
after(async () => {
  await browser?.close();
});
afterEach(async () => {
  writeManifest(good);
  await until('no alarm', async () => (await alarms()) === 0);
  none(at.violations);
});
let pids;
const payload = () => demoProcesses().filter((one) => one.name === 'conmon').map((one) => one.pid).sort();
beforeEach(() => (pids = payload()));

const alarms = async () => Number(/^csm_alarms (\d+)$/m.exec((await operator('/metrics')).body)[1]);

for (const [what, spoil, says] of [
  ['cut off', (text) => text.slice(0, text.length / 2), /manifest\.json.* is invalid/],
  ['empty', () => '', /is invalid/],
  ['with an unknown field', (text) => text.replace('"admin"', '"adnim"'), /adnim/],
  ['with an invalid limit', (text) => text.replace('"admin": true', '"admin": true, "memoryLimit": "lots"'), /memoryLimit/],
  ['with a missing password file', (text) => text.replace('passwords/grace', 'passwords/nobody'), /passwords\/nobody/],
  ['with another workspaceBase', (text) => text.replace('/workspaces"', '/elsewhere"'), /workspaceBase/],
]) {
  test(`a manifest ${what} raises an alarm and changes nothing, and csm applies the corrected one immediately`, async () => {
    assert.notEqual(spoil(good), good);
    writeManifest(spoil(good));
    const alarm = at.page.locator('.notice.alarm');
    await alarm.waitFor();
    assert.match(await alarm.innerText(), says);
    assert.match(await alarm.innerText(), /still using the previous manifest/);
    assert.deepEqual(payload(), pids, 'every workspace still runs');
    assert.equal((await workspace('grace')).state, 'running');
    assert.equal((await operator('/healthz')).status, 503);
    const grace = new Visitor();
    await grace.signIn('grace');
    writeManifest(good);
    await alarm.waitFor({ state: 'detached' });
    assert.equal((await operator('/healthz')).body, 'ok\n');
  });
}

test('a missing manifest raises an alarm too', async () => {
  rmSync(manifestPath);
  const alarm = at.page.locator('.notice.alarm');
  await alarm.waitFor();
  assert.match(await alarm.innerText(), /manifest\.json/);
  assert.deepEqual(payload(), pids);
});

test('an added user has a workspace immediately; a removed user loses access immediately, and no files', async () => {
  await declare((manifest) => {
    manifest.users.linus = { passwordFile: `${data}/passwords/grace` };
  });
  await at.page.getByRole('heading', { name: 'linus' }).waitFor();
  const linus = new Visitor();
  const signedIn = await linus.post('/sign-in', { name: 'linus', password: password('grace'), handshake: '' });
  assert.equal(signedIn.status, 303);
  await linus.enter('linus');
  assert.equal((await linus.visit('linus')).status, 503, 'the wake page');
  await reaches('linus', 'running');
  await echo('linus', 3001);
  await linus.enter('3001--linus');
  const open = await handshake({ label: '3001--linus', headers: { Cookie: linus.cookies('3001--linus') } });
  assert.equal(open.status, 101);
  assert.equal(await say(open.socket, 'in'), 'in');

  const closed = new Promise((resolve) => open.socket.on('close', resolve));
  open.socket.on('error', () => {});
  await putInForce(good);
  await at.page.getByRole('heading', { name: 'linus' }).waitFor({ state: 'detached' });
  assert.equal((await linus.visit('')).headers.location?.[0], '/sign-in', 'the session has ended');
  await until('the container to be removed', async () => (await inAccount(['podman', 'container', 'exists', 'csm-linus'])).status === 1);
  await closed;
  await until("the container's conmon to exit", () => payload().length === pids.length);
  const gone = await send({ label: 'linus', headers: NAVIGATE });
  assert.equal(gone.status, 404);
  assert.ok(readFileSync(`${data}/workspaces/linus/workspace/echo.mjs`).length > 0, 'the files stay');
  rmSync(`${data}/workspaces/linus`, { recursive: true });
});

test("a changed workspace takes effect at its next start, and the dashboard shows it as pending", async () => {
  await declare((manifest) => (manifest.users.grace.environment = { CHANGED: 'yes' }));
  await at.page.locator('#ws-grace .tag', { hasText: 'update pending' }).waitFor();
  assert.deepEqual(payload(), pids, 'no workspace was restarted');
  await at.page.locator('#restart-grace').click();
  await at.page.locator('#ws-grace .tag').waitFor({ state: 'detached' });
  await reaches('grace', 'running');
  const { stdout } = await csm('shell', 'grace', '--', 'printenv', 'CHANGED');
  assert.equal(stdout, 'yes\n');
  await putInForce(good);
  await stopped('grace');
  await running('grace');
});

test('a user who is no longer an admin immediately sees only their own workspace', async () => {
  await declare((manifest) => (manifest.users.ada.admin = false));
  await at.page.getByRole('heading', { name: 'grace' }).waitFor({ state: 'detached' });
  const api = await at.page.evaluate(() => fetch('/api/v1/workspaces/grace').then((answer) => answer.status));
  assert.equal(api, 404);
  await putInForce(good);
  await at.page.getByRole('heading', { name: 'grace' }).waitFor();
});
