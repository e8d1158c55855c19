// The hooks of Codex and OpenCode, with the real programs, and the editor's terminals: the tests in agents/ run in a real workspace.
import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { give, running, stopped } from './lib/demo.mjs';
import { csm, inside } from './lib/place.mjs';

const files = ['agents.test.mjs', 'tmux.test.mjs', 'model.mjs', 'recorder.mjs'];
let given = [];

before(async () => {
  await running('ada');
  given = files.map((name) => give('ada', name, readFileSync(`${import.meta.dirname}/agents/${name}`)));
});
after(async () => {
  given.forEach((path) => rmSync(path));
  await stopped('ada');
});

test("the agents' configuration is read-only, and beside what the image has", async () => {
  for (const path of ['/etc/codex/hooks.json', '/etc/opencode/opencode.json', '/etc/claude-code/managed-settings.d/50-code-server-multi.json']) {
    const shown = await inside('ada', 'sh', '-c', `cat ${path}; echo x >> ${path} 2>/dev/null || echo refused`);
    assert.match(shown, /code-server-multi\/agents\/[\s\S]*refused\n$/);
  }
});

/** Runs a file of tests in the workspace. */
async function passes(file, count) {
  const { status, stdout, stderr } = await csm('shell', 'ada', '--', 'node', '--test', '--test-reporter=tap', file);
  assert.equal(status, 0, `${stdout}\n${stderr}`);
  assert.match(stdout, new RegExp(`^# pass ${count}$`, 'm'));
}

test('Codex and OpenCode report what they do', { timeout: 280_000 }, () => passes('agents.test.mjs', 10));
test("tmux shows announcements, and the user's configuration decides", () => passes('tmux.test.mjs', 2));
