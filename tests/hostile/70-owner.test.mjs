// What an owner leaves in the directory of their socket, and what a csm that is killed during a start leaves: neither keeps a
// workspace from its owner, and another's does not notice.
import assert from 'node:assert/strict';
import { existsSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { csmProcess, group, reaches, running, startDemo, stopped } from '../e2e/lib/demo.mjs';
import { operator, workspace } from '../e2e/lib/http.mjs';
import { csmRun, hostFile, inAccount, inside } from '../e2e/lib/place.mjs';
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
  // code-server reads its configuration before it listens: from a FIFO it waits until somebody writes one.
  const configuration = '.config/code-server/config.yaml';
  await inside('ada', 'sh', '-c', `mkdir -p ~/.config/code-server && rm -f ~/${configuration} && mkfifo ~/${configuration}`);
  try {
    await stopped('ada');
    const grace = await began('grace');
    await operator('/api/v1/workspaces/ada/start', { method: 'POST' });
    await until('csm to wait for code-server', async () => (await workspace('ada')).step === 'waiting');
    process.kill(csmProcess().pid, 'SIGKILL');
    await until('the demo to end', () => group().length === 0);
    const adopted = await container('ada');
    assert.ok(adopted, 'the container outlives csm');
    await startDemo({ seconds: 300 });
    await until('csm to take it over', async () => (await workspace('ada')).reason === 'it was being started already');
    assert.ok(!published('ada'), 'nothing listens yet');
    await writeFile(hostFile('ada', `home/${configuration}`), 'cert: false\n');
    await reaches('ada', 'running');
    await until('its socket', () => published('ada'));
    assert.equal(await container('ada'), adopted, 'the same container: it was not made again');
    await opens('ada');
    assert.equal(await began('grace'), grace, "grace's workspace did not notice");
    await opens('grace');
  } finally {
    rmSync(hostFile('ada', `home/${configuration}`), { force: true });
  }
});
