// The hooks of Codex and OpenCode, with the real programs in a real workspace: agents/agents.test.mjs runs there.
import assert from 'node:assert/strict';
import { readFileSync, rmSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { give, running, stopped } from './lib/demo.mjs';
import { csm, inside } from './lib/place.mjs';

const files = ['agents.test.mjs', 'model.mjs', 'recorder.mjs'];
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

test('Codex and OpenCode report what they do', { timeout: 280_000 }, async () => {
  const { status, stdout, stderr } = await csm('shell', 'ada', '--', 'node', '--test', '--test-reporter=tap', 'agents.test.mjs');
  assert.equal(status, 0, `${stdout}\n${stderr}`);
  assert.match(stdout, /^# pass 10$/m);
  assert.match(stdout, /^# skipped 0$/m);
});
