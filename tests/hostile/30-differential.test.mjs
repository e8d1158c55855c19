// What nginx takes for requests, and what arrives behind it: odd requests, some thousands of them. `make fuzz` sends a million.
// CSM_FUZZ_COUNT and CSM_FUZZ_SEED choose; a finding tells the seed and the bytes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { differential, describe } from './lib/differential.mjs';
import { Stage, asCsmWrites, asNixOsWrites, vulnerable } from './lib/stage.mjs';

const COUNT = Number(process.env.CSM_FUZZ_COUNT || 4000);
const SEED = Number(process.env.CSM_FUZZ_SEED || 1);
const SAID = 50_000;

// csm would close its connections; here that is nginx' part.
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

test('nothing arrives but what nginx was sent, as it was judged', () =>
  staged([asCsmWrites.plain, asCsmWrites.tls, asNixOsWrites], async (stages) => {
    const outcome = await differential(stages, { seed: SEED, to: COUNT, told });
    assert.equal(outcome.findings.length, 0, describe(outcome, SEED));
    // A generator whose requests are all refused would find nothing.
    for (const [where, arrived] of Object.entries(outcome.counts)) assert.ok(arrived > COUNT / 50, `${arrived} requests came to ${where}`);
  }));

test('this test finds the hole that was there', () =>
  staged([vulnerable], async (stages) => {
    const outcome = await differential(stages, { seed: SEED, to: 4000, patience: 1 });
    // A body is read as a request, or as what should be one.
    const smuggled = outcome.findings.filter((text) => /^front: .*(hidden-|no request line|belong to no request)/.test(text));
    assert.ok(smuggled.length > 0, describe(outcome, SEED));
  }));
