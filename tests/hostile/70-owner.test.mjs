// Files that an owner leaves in their socket's directory, and the state that a csm leaves that is killed during a start. Neither prevents the
// next start, and neither affects another workspace.
import assert from 'node:assert/strict';
import { existsSync, rmSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { csmProcess, group, reaches, running, startDemo, stopped } from '../e2e/lib/demo.mjs';
import { operator, workspace } from '../e2e/lib/http.mjs';
import { csmRun, foreignFiles, hostFile, inAccount, inside } from '../e2e/lib/place.mjs';
import { until } from '../e2e/lib/until.mjs';
import { Visitor } from '../e2e/lib/visitor.mjs';

const published = (person) => existsSync(`${csmRun}/ws/${person}/http.sock`);
/** The start time of a workspace's main process, which changes only with a restart. */
const began = async (person) => (await inside(person, 'cat', '/proc/1/stat')).split(' ')[21];
/** The id of a user's running container; empty if none runs. */
const container = async (person) =>
  (await inAccount(['podman', 'ps', '--quiet', '--no-trunc', '--filter', `name=^csm-${person}$`, '--filter', 'status=running'])).stdout.trim();

async function opens(person) {
  const visitor = await Visitor.owner(person, person);
  const page = await visitor.visit(person, '/?folder=/home/coder/project');
  assert.equal(page.status, 200);
  assert.match(page.body, new RegExp(`${person} · `), `the page is ${person}'s own editor`);
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
  ['a read-only directory', 'mkdir -p /run/csm/http.sock/x && chmod 0500 /run/csm/http.sock'],
  ['a directory with mode 0', 'mkdir -p /run/csm/http.sock/x && chmod 0 /run/csm/http.sock'],
  ['a hundred nested directories', 'cd /run/csm && for n in $(seq 100); do mkdir d && cd d; done'],
  ["a link to another workspace's directory", 'ln -s ../../grace /run/csm/http.sock'],
]) {
  test(`${what} in the socket's directory: the next start succeeds, and no other workspace's files change`, async () => {
    const grace = await began('grace');
    await inside('ada', 'sh', '-c', `rm -rf /run/csm/http.sock && ${command}`);
    await stopped('ada');
    await running('ada');
    assert.deepEqual(await foreignFiles('ada'), [], 'csm has created the directory again');
    await opens('ada');
    assert.ok(published('grace'), "grace's socket is still there");
    assert.equal(await began('grace'), grace);
    await opens('grace');
  });
}

test('after kill -9 of csm during a start the next csm adopts the container, and publishes its socket', async () => {
  // code-server reads its configuration before it listens. If the file is a FIFO, it waits until the test writes to it.
  const configuration = '.config/code-server/config.yaml';
  await inside('ada', 'sh', '-c', `mkdir -p ~/.config/code-server && rm -f ~/${configuration} && mkfifo ~/${configuration}`);
  try {
    await stopped('ada');
    const grace = await began('grace');
    await operator('/api/v1/workspaces/ada/start', { method: 'POST' });
    await until('csm to wait for code-server', async () => (await workspace('ada')).step === 'waiting');
    process.kill(csmProcess().pid, 'SIGKILL');
    await until('the demo to exit', () => group().length === 0);
    const adopted = await container('ada');
    assert.ok(adopted, 'the container still runs after csm is killed');
    await startDemo({ seconds: 300 });
    await until('csm to take it over', async () => (await workspace('ada')).reason === 'already starting when csm started');
    assert.ok(!published('ada'), 'code-server does not listen yet');
    await writeFile(hostFile('ada', `home/${configuration}`), 'cert: false\n');
    await reaches('ada', 'running');
    await until('csm to publish the socket', () => published('ada'));
    assert.equal(await container('ada'), adopted, 'csm did not create the container again');
    await opens('ada');
    assert.equal(await began('grace'), grace, "grace's workspace was not restarted");
    await opens('grace');
  } finally {
    rmSync(hostFile('ada', `home/${configuration}`), { force: true });
  }
});
