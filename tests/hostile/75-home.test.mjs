// What an owner leaves in their home neither prevents the next start, nor leads csm out of the home.
import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { running, stopped } from '../e2e/lib/demo.mjs';
import { operator } from '../e2e/lib/http.mjs';
import { data, inside } from '../e2e/lib/place.mjs';
import { Visitor } from '../e2e/lib/visitor.mjs';

const SETTINGS = '.local/share/code-server/User';
const outside = `${data}/outside`;
before(async () => {
  await Promise.all([running('ada'), running('grace')]);
  rmSync(outside, { recursive: true, force: true });
  mkdirSync(outside, { mode: 0o777 });
  writeFileSync(`${outside}/file`, 'outside');
});
after(async () => {
  rmSync(outside, { recursive: true, force: true });
  // csm merges its settings once. Without its record of that it merges them again at the next start.
  await inside('ada', 'sh', '-c', `rm -rf ~/${SETTINGS}/settings.json ~/.local/share/code-server/csm-settings.json`);
  await stopped('ada');
  await running('ada');
});

for (const [what, command, undo] of [
  ['a home that nobody may enter', 'chmod 0 ~'],
  ['a project that nobody may enter', 'chmod 0 ~/project'],
  ['a link in place of the settings, out of the home', `mkdir -p ~/${SETTINGS} && rm -f ~/${SETTINGS}/settings.json && ln -s ${outside}/file ~/${SETTINGS}/settings.json`, `rm ~/${SETTINGS}/settings.json`],
  ['a FIFO in place of the settings', `rm -f ~/${SETTINGS}/settings.json && mkfifo ~/${SETTINGS}/settings.json`, `rm ~/${SETTINGS}/settings.json`],
  ['a directory in place of the settings', `rm -rf ~/${SETTINGS}/settings.json && mkdir -p ~/${SETTINGS}/settings.json/x`, `rm -r ~/${SETTINGS}/settings.json`],
  ['settings that are not text', `head -c 100000 /dev/urandom > ~/${SETTINGS}/settings.json`, `rm ~/${SETTINGS}/settings.json`],
  ['settings that nobody may read', `echo '{}' > ~/${SETTINGS}/settings.json && chmod 0 ~/${SETTINGS}/settings.json`, `rm -f ~/${SETTINGS}/settings.json`],
  ['thousands of levels of directories', 'cd ~ && python3 -c "import os\nfor n in range(3000):\n os.mkdir(\'d\'); os.chdir(\'d\')"', 'rm -rf ~/d'],
]) {
  test(`${what}: the next start succeeds`, async () => {
    await inside('ada', 'sh', '-c', command);
    await stopped('ada');
    const { body } = await operator('/api/v1/workspaces/ada/start?wait=true', { method: 'POST' });
    const { state, failure } = JSON.parse(body);
    assert.deepEqual({ state, failure }, { state: 'running', failure: null });
    const visitor = await Visitor.owner('ada', 'ada');
    assert.match((await visitor.visit('ada', '/?folder=/home/coder/project')).body, /ada · /);
    assert.deepEqual(readdirSync(outside), ['file'], 'nothing is written outside the home');
    if (undo) await inside('ada', 'sh', '-c', undo);
  });
}
