// Sends some thousand malformed and unusual requests, and compares the requests that nginx logs with those that arrive behind it.
// `make fuzz` sends a million. CSM_FUZZ_COUNT and CSM_FUZZ_SEED set count and seed; a finding shows the seed and the bytes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { differential, describe } from './lib/differential.mjs';
import { Stage, asCsmWrites, asNixOsWrites, vulnerable } from './lib/stage.mjs';

const COUNT = Number(process.env.CSM_FUZZ_COUNT || 4000);
const SEED = Number(process.env.CSM_FUZZ_SEED || 1);
const SAID = 50_000;

// csm would close its connections; here nginx must close them.
const answer = (at) => (at === 'front' ? { close: false } : undefined);

async function staged(configurations, work) {
  const stages = [];
  try {
    for (const configuration of configurations) stages.push(await Stage.start(configuration, { answer }));
    return await work(stages);
  } finally {
    for (const stage of stages) await stage.stop();
  }
}

const told = (next) => next > 0 && next % SAID === 0 && console.log(`${new Date().toISOString()} ${next} of ${COUNT}`);

test('only requests that nginx received arrive behind it, as csm checked them', () =>
  staged([asCsmWrites.plain, asCsmWrites.tls, asNixOsWrites], async (stages) => {
    const outcome = await differential(stages, { seed: SEED, to: COUNT, told });
    assert.equal(outcome.findings.length, 0, describe(outcome, SEED));
    // A generator whose requests are all refused would find nothing.
    for (const [where, arrived] of Object.entries(outcome.counts)) assert.ok(arrived > COUNT / 50, `only ${arrived} requests reached ${where}`);
  }));

test('this test detects the vulnerability of issue 9', () =>
  staged([vulnerable], async (stages) => {
    const outcome = await differential(stages, { seed: SEED, to: 4000, patience: 1 });
    // A body reaches the front, which reads it as a request, or as an invalid one.
    const smuggled = outcome.findings.filter((text) => /^front: .*(a body reaches csm|hidden-|no request line|belong to no request)/.test(text));
    assert.ok(smuggled.length > 0, describe(outcome, SEED));
  }));
