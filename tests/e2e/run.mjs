// Runs the end-to-end tests and those of tests/hostile against the real demo. It starts the demo and stops it afterwards; if the demo did not
// exist before, it also removes it.
// usage: run [FILE...]; "hostile" selects all of tests/hostile. For writing tests, CSM_E2E_KEEP=1 keeps the demo running, and a later run with
// CSM_E2E_ATTACH=1 uses it.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { resolve } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';

const here = import.meta.dirname;
const attach = process.env.CSM_E2E_ATTACH;
const keep = process.env.CSM_E2E_KEEP;

function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

// As root the tests use a separate demo account, so that they never change another demo that runs.
process.env.CSM_DEMO_ACCOUNT ??= 'csm-e2e';
process.env.CSM_E2E_PORT ??= String(await freePort());
process.env.CSM_E2E_SCRATCH ??= mkdtempSync(`${tmpdir()}/csm-e2e-`);
mkdirSync(process.env.CSM_E2E_SCRATCH, { recursive: true });
const place = await import('./lib/place.mjs');
const { demoProcesses, group, interrupt, startDemo } = await import('./lib/demo.mjs');

const existed = existsSync(place.data);
if (!attach) {
  if (demoProcesses().some((one) => one.args.includes(place.demo))) {
    console.error("e2e: a demo is running, and the tests would change it; stop the demo with Ctrl-C, then run the tests again");
    process.exit(1);
  }
  console.log(`starting the demo on port ${place.port}; its output goes to ${place.demoLog}`);
  // The first run builds the image, which takes minutes.
  await startDemo({ seconds: 3600 });
}

const wanted = process.argv.slice(2);
const tests = (directory) => readdirSync(`${here}/${directory}`).filter((name) => name.endsWith('.test.mjs')).sort();
const isHostile = (name) => name.startsWith('../hostile/');
const own = tests('.');
// The last file stops the demo, so the hostile tests run before it.
const all = [...own.slice(0, -1), ...tests('../hostile').map((name) => `../hostile/${name}`), ...own.slice(-1)];
const matches = (name, part) => (part === 'hostile' ? isHostile(name) : name.includes(part));
const files = all.filter((name) => wanted.length === 0 || wanted.some((part) => matches(name, part)));
// Runs the files one after another: they share one demo and two users.
async function runFiles(names) {
  const tally = { pass: 0, fail: 0, skip: 0, failed: new Map() };
  const paths = new Map(names.map((name) => [resolve(here, name), name]));
  const stream = run({ files: [...paths.keys()], concurrency: 1, timeout: Number(process.env.CSM_E2E_SECONDS ?? 900) * 1000 });
  stream.on('test:pass', (one) => {
    if (one.details.type === 'suite' || one.name.endsWith('.test.mjs')) return;
    tally[one.skip !== undefined ? 'skip' : 'pass'] += 1;
  });
  stream.on('test:fail', (one) => {
    tally.fail += 1;
    const name = paths.get(resolve(one.file ?? one.name)) ?? paths.get(resolve(one.name));
    tally.failed.set(name, (tally.failed.get(name) ?? 0) + 1);
  });
  const printed = stream.compose(new spec());
  printed.pipe(process.stdout, { end: false });
  await new Promise((resolve) => printed.on('end', resolve));
  return tally;
}

// A real editor in a real browser on a busy host is sometimes late, so a file that failed runs once more, and the output says so.
// Hostile files get no second try: an attack that succeeds only sometimes is still a failure.
const tally = await runFiles(files);
const again = [...tally.failed.keys()].filter((name) => name !== undefined && !isHostile(name));
if (again.length > 0 && !tally.failed.has(undefined)) {
  console.log(`running again: ${again.join(', ')}`);
  // The last file stops the demo.
  if (!attach && group().length === 0) await startDemo({ seconds: 300 });
  for (const name of again) tally.fail -= tally.failed.get(name);
  tally.fail += (await runFiles(again)).fail;
}

if (!attach && !keep) {
  if (group().length) await interrupt();
  if (!existed) execFileSync(`${place.scripts}/demo-clean`, { stdio: 'inherit' });
  if (tally.fail === 0) rmSync(process.env.CSM_E2E_SCRATCH, { recursive: true });
}
if (process.env.CSM_E2E_TALLY) writeFileSync(process.env.CSM_E2E_TALLY, JSON.stringify({ ...tally, failed: undefined }));
if (again.length) console.log(`end-to-end: ran twice: ${again.join(', ')}`);
console.log(`end-to-end: ${tally.pass} passed, ${tally.fail} failed, ${tally.skip} skipped`);
process.exit(tally.fail === 0 && tally.pass > 0 ? 0 : 1);
