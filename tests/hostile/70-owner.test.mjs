// What an owner leaves in the directory of their socket, and what a csm that is killed during a start leaves: neither keeps a
// workspace from its owner, and another's does not notice.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { csmProcess, group, reaches, running, startDemo, stopped } from '../e2e/lib/demo.mjs';
import { operator, workspace } from '../e2e/lib/http.mjs';
import { csmRun, inAccount, inside } from '../e2e/lib/place.mjs';
import { until } from '../e2e/lib/until.mjs';
import { Visitor } from '../e2e/lib/visitor.mjs';

const published = (person) => existsSync(`${csmRun}/ws/${person}/http.sock`);
/** When a workspace's first process began: the same for as long as nobody restarts it. */
const began = async (person) => (await inside(person, 'cat', '/proc/1/stat')).split(' ')[21];
/** The container that Podman runs for a person; nothing when it runs none. */
const container = async (person) =>
  (await inAccount(['podman', 'ps', '--quiet', '--no-trunc', '--filter', `name=^csm-${person}$`, '--filter', 'status=running'])).stdout.trim();

async function opens(person) {
  const visitor = await Visitor.owner(person, person);
  const page = await visitor.visit(person, '/?folder=/home/coder/project');
  assert.equal(page.status, 200);
  assert.match(page.body, new RegExp(`${person} · `), `${person}'s own editor`);
}

before(() => Promise.all([running('ada'), running('grace')]));
after(async () => {
  if (group().length === 0) await startDemo({ seconds: 300 });
  await stopped('ada');
  await Promise.all([running('ada'), running('grace')]);
});

for (const [what, command] of [
  ['a directory', 'mkdir /run/csm/http.sock'],
  ['a directory with something in it', 'mkdir -p /run/csm/http.sock/x/y'],
  ['a directory that can only be read', 'mkdir -p /run/csm/http.sock/x && chmod 0500 /run/csm/http.sock'],
  ['a directory that nobody enters', 'mkdir -p /run/csm/http.sock/x && chmod 0 /run/csm/http.sock'],
  ['more levels than anyone wants to remove', 'cd /run/csm && for n in $(seq 100); do mkdir d && cd d; done'],
  ["a link to another's directory", 'ln -s ../../grace /run/csm/http.sock'],
]) {
  test(`${what} in the socket's place: the next start works, and nobody else's files change`, async () => {
    const grace = await began('grace');
    await inside('ada', 'sh', '-c', `rm -rf /run/csm/http.sock && ${command}`);
    await stopped('ada');
    await running('ada');
    assert.equal((await inside('ada', 'ls', '-A', '/run/csm')).trim(), 'http.sock', 'the directory is a new one');
    await opens('ada');
    assert.ok(published('grace'), "grace's socket is still there");
    assert.equal(await began('grace'), grace);
    await opens('grace');
  });
}

test('kill -9 of csm during a start: the next one adopts what runs, and publishes its socket', async () => {
  await stopped('ada');
  const grace = await began('grace');
  await operator('/api/v1/workspaces/ada/start', { method: 'POST' });
  // The moment to hit lies between the container's start and the socket's second name: that is while csm waits for code-server.
  await until('the container to run', async () => (await workspace('ada')).step === 'waiting', { every: 2 });
  process.kill(csmProcess().pid, 'SIGKILL');
  await until('the demo to end', () => group().length === 0);
  const late = published('ada');
  const adopted = await container('ada');
  assert.ok(adopted, 'the container outlives csm');
  await startDemo({ seconds: 300 });
  await reaches('ada', 'running');
  await until('its socket', () => published('ada'));
  assert.equal(await container('ada'), adopted, 'the same container: it was not made again');
  const { reason } = await workspace('ada');
  assert.match(reason, late ? /it was running already/ : /it was being started already/);
  assert.ok(!late, 'csm was killed too late to show anything: its socket was published already');
  await opens('ada');
  assert.equal(await began('grace'), grace, "grace's workspace did not notice");
  await opens('grace');
});
