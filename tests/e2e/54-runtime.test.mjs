// What every runtime promises, on this account's Podman; and the same through the command line, where it once hung.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { running, stopped } from './lib/demo.mjs';
import { workspace } from './lib/http.mjs';
import { account, csm, repo } from './lib/place.mjs';

before(() => running('grace'));
after(() => stopped('grace'));

test('Podman keeps the contract of src/ports/contract.rs', async () => {
  const { stdout } = await promisify(execFile)(`${repo}/tests/e2e/contract`, [account], { maxBuffer: 1 << 20 });
  assert.match(stdout, /1 passed; 0 failed/);
});

test('what is frozen can be stopped and started again', async () => {
  for (const [verb, state] of [['freeze', 'frozen'], ['stop', 'stopped'], ['start', 'running']]) {
    const { status, stderr } = await csm(verb, 'grace');
    assert.equal(status, 0, `csm ${verb} grace: ${stderr}`);
    assert.equal((await workspace('grace')).state, state);
  }
});
