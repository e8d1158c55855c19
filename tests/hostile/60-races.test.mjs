// Many clients ask for opposite things at the same time. csm must end in one state that is Podman's too, and disturb no other workspace.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { csmProcess, reaches, running } from '../e2e/lib/demo.mjs';
import { operator, workspace } from '../e2e/lib/http.mjs';
import { demoLog, inAccount, inside, read } from '../e2e/lib/place.mjs';
import { Visitor } from '../e2e/lib/visitor.mjs';

let ada;
let grace;
before(async () => {
  await Promise.all([running('ada'), running('grace')]);
  ada = await Visitor.owner('ada', 'ada');
  grace = await Visitor.owner('grace', 'grace');
});
after(() => running('ada'));

const VERBS = ['start', 'freeze', 'stop', 'restart', 'start', 'freeze'];
const began = async (person) => (await inside(person, 'cat', '/proc/1/stat')).split(' ')[21];
const containers = async () => {
  const { stdout } = await inAccount(['podman', 'ps', '--all', '--filter', 'name=^csm-ada$', '--format', '{{.State}}']);
  // `Up 2 seconds`, `Paused` or `Exited (0) 1 second ago`.
  return stdout.split('\n').filter(Boolean).map((state) => state.split(' ')[0]);
};

/** Eighty requests at once: each verb on the socket, by the owner's and an admin's pages, and visits. */
function storm() {
  return Promise.all(
    Array.from({ length: 80 }, async (_, at) => {
      const verb = VERBS[at % VERBS.length];
      if (at % 4 === 0) return (await ada.visit('ada', '/healthz')).status;
      const target = `/api/v1/workspaces/ada/${verb}`;
      if (at % 4 === 1) return (await ada.post(target, {})).status;
      return (await operator(target, { method: 'POST' })).status;
    }),
  );
}

for (const [verb, state, podman] of [['start', 'running', 'Up'], ['freeze', 'frozen', 'Paused'], ['stop', 'stopped', undefined]]) {
  test(`after a storm of requests a ${verb} settles, and Podman agrees`, async () => {
    const [daemon, other, from] = [csmProcess().pid, await began('grace'), read(demoLog).length];
    for (let times = 0; times < 2; times++) {
      const answers = await storm();
      // A visit may get the wake page, or no response from a workspace that is stopped meanwhile.
      assert.ok(answers.every((status) => [200, 502, 503].includes(status)), `${answers}`);
    }
    if (verb === 'freeze') await operator('/api/v1/workspaces/ada/start?wait=true', { method: 'POST' });
    const { status, body } = await operator(`/api/v1/workspaces/ada/${verb}?wait=true`, { method: 'POST' });
    assert.equal(status, 200, body);
    const { state: found, settled, failure } = JSON.parse(body);
    assert.deepEqual({ found, settled, failure }, { found: state, settled: true, failure: null });
    const kept = (await containers()).filter((one) => one !== 'Exited');
    assert.deepEqual(kept, podman === undefined ? [] : [podman]);
    assert.equal(csmProcess().pid, daemon, 'the same csm runs');
    assert.doesNotMatch(read(demoLog).slice(from), /panicked/);
    assert.equal(await began('grace'), other, "grace's workspace was not restarted");
    assert.equal((await grace.visit('grace', '/healthz')).status, 200);
    if (verb === 'freeze') {
      assert.equal((await ada.visit('ada', '/healthz')).status, 200, 'a visit thaws it');
      await reaches('ada', 'running');
    }
    assert.equal((await workspace('ada')).failure, null);
  });
}
