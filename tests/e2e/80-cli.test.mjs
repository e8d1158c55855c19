// The command line against the running csm: its output and exit status.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync, chmodSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { before, test } from 'node:test';
import { running, stopped } from './lib/demo.mjs';
import { workspace } from './lib/http.mjs';
import { csm, demo, demoLog, inAccount, manifestPath, origin, password, read } from './lib/place.mjs';
import { Visitor } from './lib/visitor.mjs';

before(() => running('ada'));

async function works(...args) {
  const { status, stdout, stderr } = await csm(...args);
  assert.equal(status, 0, `csm ${args.join(' ')}: ${stderr}`);
  return stdout;
}

async function fails(says, ...args) {
  const { status, stdout, stderr } = await csm(...args);
  assert.equal(status, 1, `csm ${args.join(' ')}: ${stdout}`);
  assert.match(stderr, says);
  assert.ok(!stderr.includes('panicked'), stderr);
}

function file(content) {
  const directory = mkdtempSync(`${tmpdir()}/csm-cli-`);
  chmodSync(directory, 0o755);
  writeFileSync(`${directory}/manifest.json`, content, { mode: 0o644 });
  return `${directory}/manifest.json`;
}

test('check reports a valid manifest, and all errors together, each with field and fix', async () => {
  assert.match(await works('check', manifestPath), /manifest\.json: valid; 2 users/);
  assert.equal((await works('check', '--json', manifestPath)).trim(), '[]');
  const bad = file('{"version":1,"domain":"No Domain","image":"x","users":{"ADA":{},"bob":{"passwordFile":"rel","memoryLimit":"1Q"}}}');
  const { status, stderr, stdout } = await csm('check', bad);
  assert.equal(status, 1);
  for (const place of ['domain', 'ADA', 'users.bob.passwordFile', 'users.bob.memoryLimit']) assert.ok(stderr.includes(place), `${place}: ${stderr}`);
  assert.equal(stdout, '');
  const json = JSON.parse((await csm('check', '--json', bad)).stdout);
  assert.ok(json.length >= 4 && json.every((issue) => issue.severity && issue.problem && issue.fix), JSON.stringify(json));
  await fails(/can't read .*No such file/, 'check', '/nonexistent/manifest.json');
  await fails(/error/, 'check', file('{"version":1'));
});

test('plan shows no changes, then what would change, and applies nothing', async () => {
  assert.equal(await works('plan', manifestPath), 'no changes\n');
  const next = JSON.parse(readFileSync(manifestPath, 'utf8'));
  next.users.linus = { passwordFile: next.users.grace.passwordFile };
  next.users.ada.environment = { A: 'b' };
  delete next.users.grace;
  const planned = await works('plan', file(JSON.stringify(next)));
  assert.match(planned, /^linus +added$/m);
  assert.match(planned, /^ada +changed; takes effect at its next start$/m);
  assert.match(planned, /^grace +removed; (it is stopped, )?its files stay$/m);
  assert.equal((await workspace('linus')).state, 'absent');
  await fails(/image|users/, 'plan', file('{"version":1,"domain":"x.localhost"}'));
});

test('stop, start and restart wait for the outcome; status and open show it', async () => {
  assert.equal(await works('stop', 'ada'), 'ada: stopped\n');
  assert.equal((await workspace('ada')).state, 'stopped');
  assert.match(await works('status', 'ada'), /^ada +stopped .*stopped by the command line$/m);
  assert.equal(await works('start', 'ada'), 'ada: running\n');
  const since = (await workspace('ada')).at;
  assert.equal(await works('start', 'ada'), 'ada: running\n');
  assert.equal((await workspace('ada')).at, since, 'start does not restart a running workspace');
  assert.equal(await works('restart', 'ada'), 'ada: running\n');
  assert.equal((await workspace('ada')).reason, 'restarted by the command line');
  const all = await works('status');
  assert.match(all, /^WORKSPACE +STATE +SINCE +MEMORY +REASON$/m);
  assert.match(all, /^ada +running +\S.* [\d.]+ (MiB|GiB) of 3 GiB +restarted by/m);
  const json = JSON.parse(await works('status', '--json'));
  assert.deepEqual(json.map((one) => one.id), ['ada', 'grace']);
  assert.ok(json[0].usage.memory > 1 << 20);
  assert.equal(await works('open', 'ada'), `${origin('ada')}/\n`);
  for (const verb of ['stop', 'start', 'restart', 'status', 'open', 'logs', 'shell'])
    await fails(/can't find workspace "nobody"; run "csm status"/, verb, 'nobody');
});

test('a frozen workspace is stopped, started and restarted like any other', async () => {
  await running('grace');
  assert.equal(await works('freeze', 'grace'), 'grace: frozen\n');
  assert.equal(await works('stop', 'grace'), 'grace: stopped\n');
  assert.equal(await works('start', 'grace'), 'grace: running\n');
  assert.equal(await works('freeze', 'grace'), 'grace: frozen\n');
  assert.equal(await works('restart', 'grace'), 'grace: running\n');
  assert.equal(await works('freeze', 'grace'), 'grace: frozen\n');
  assert.equal(await works('start', 'grace'), 'grace: running\n');
});

test('logs and shell', async () => {
  await running('ada');
  assert.match(await works('logs', 'ada'), /code-server|HTTP server/);
  assert.equal((await works('logs', '-n', '1', 'ada')).trim().split('\n').length, 1);
  assert.equal(await works('shell', 'ada', '--', 'sh', '-c', 'echo $PWD; id -un'), '/home/coder/project\ncoder\n');
  assert.equal((await csm('shell', 'ada', '--', 'sh', '-c', 'exit 42')).status, 42, "csm shell exits with the command's status");
  await stopped('grace');
  const asleep = await csm('shell', 'grace', '--', 'true');
  assert.notEqual(asleep.status, 0);
  assert.match(asleep.stderr, /can't open a shell in grace: it is not running; start it: csm start grace/);
});

test('the command that the demo prints reaches the demo from any terminal', () => {
  const [, command] = /in another terminal: (.+) status$/m.exec(read(demoLog));
  const { PATH, HOME } = process.env;
  const run = (words) => execFileSync('sh', ['-c', `${command} ${words}`], { cwd: '/', env: { PATH, HOME }, encoding: 'utf8' });
  assert.match(run('status'), /^ada +running/m);
  assert.equal(run('shell ada -- hostname'), 'ada\n');
});

test('a user can sign in with a password file that contains the hash from hash-password', async () => {
  const { stdout, status } = await inAccount([`${demo}/app/bin/csm`, 'hash-password'], { input: 'a new pass phrase\n' });
  assert.equal(status, 0);
  assert.match(stdout, /^\$argon2id\$v=19\$.*\n$/);
  const empty = await inAccount([`${demo}/app/bin/csm`, 'hash-password'], { input: '\n' });
  assert.equal(empty.status, 1);
  assert.match(empty.stderr, /can't hash the password: it is empty/);
  const path = JSON.parse(readFileSync(manifestPath, 'utf8')).users.grace.passwordFile;
  const before = password('grace');
  writeFileSync(path, stdout);
  try {
    const grace = new Visitor();
    const answer = await grace.post('/sign-in', { name: 'grace', password: 'a new pass phrase', handshake: '' });
    assert.equal(answer.status, 303, 'no restart is needed');
    const old = await new Visitor().post('/sign-in', { name: 'grace', password: before, handshake: '' });
    assert.equal(old.status, 401);
  } finally {
    writeFileSync(path, `${before}\n`);
  }
});

test('doctor shows what this host lacks, and how to fix it', async () => {
  const { status, stdout, stderr } = await csm('doctor');
  assert.ok(!/panicked|not yet/.test(stderr), stderr);
  assert.ok(status === 0 || /fix|apt|install|enable|usermod|ask|set/i.test(stdout + stderr), stdout);
  const checks = JSON.parse((await csm('doctor', '--json')).stdout);
  assert.ok(Array.isArray(checks) && checks.length > 3, JSON.stringify(checks));
});

test('schema, completions and man are complete; a mistyped command gets suggestions', async () => {
  const schema = JSON.parse(await works('schema'));
  assert.ok(schema.properties.users && schema.properties.frontDoor);
  assert.match(await works('schema', '--markdown'), /`?passwordFile`?/);
  for (const shell of ['bash', 'zsh', 'fish']) assert.match(await works('completions', shell), /hash-password/);
  assert.match(await works('man'), /^\.TH csm 1/m);
  const wrong = await csm('strat', 'ada');
  assert.equal(wrong.status, 2);
  assert.match(wrong.stderr, /similar subcommands exist: .*'start'/);
  const nowhere = await csm('status', '--socket', '/nonexistent/api.sock');
  assert.equal(nowhere.status, 1);
  assert.match(nowhere.stderr, /can't reach csm on \/nonexistent\/api\.sock.*check that csm runs/);
});

test('csm up refuses to run as root, and while another csm runs', async (t) => {
  const second = await csm('up', manifestPath);
  assert.equal(second.status, 1);
  assert.match(second.stderr, /another csm uses it; stop that one first/);
  assert.equal((await workspace('ada')).state, 'running', 'the first csm still runs');
  if (process.getuid() !== 0) return t.skip('needs root, to try as root');
  const { spawnSync } = await import('node:child_process');
  const root = spawnSync(`${demo}/app/bin/csm`, ['up', manifestPath], { encoding: 'utf8' });
  assert.equal(root.status, 1);
  assert.match(root.stderr, /refusing to run as root/);
});

test('csm daemon applies a new manifest on SIGHUP, also behind symbolic links, through which a file watch sees no change', async () => {
  const text = readFileSync(manifestPath, 'utf8');
  const more = JSON.parse(text);
  more.users.linus = { passwordFile: more.users.grace.passwordFile };
  // As on NixOS: the link in /etc stays the same and points to another link, which changes.
  const script = `
    csm=$1; here=$(mktemp -d); static=$(mktemp -d)
    cp "$2" "$here/one"; cp "$3" "$here/two"
    ln -s "$here/one" "$static/manifest.json"; ln -s "$static/manifest.json" "$here/manifest.json"
    export RUNTIME_DIRECTORY=$here/run STATE_DIRECTORY=$here/state CSM_SOCKET=$here/run/api.sock
    "$csm" daemon "$here/manifest.json" >"$here/log" 2>&1 & daemon=$!
    until "$csm" status >"$here/before" 2>/dev/null; do kill -0 $daemon || { cat "$here/log"; exit 1; }; sleep 0.1; done
    ln -sf "$here/two" "$static/manifest.json"
    kill -HUP $daemon
    until "$csm" status linus >/dev/null 2>&1; do kill -0 $daemon || { cat "$here/log"; exit 1; }; sleep 0.1; done
    cat "$here/before"
    kill $daemon; wait $daemon; echo "ended $?"; rm -r "$here" "$static"`;
  const ran = await inAccount(['timeout', '30', 'sh', '-c', script, 'sh', `${demo}/app/bin/csm`, file(text), file(JSON.stringify(more))]);
  assert.equal(ran.status, 0, ran.stdout + ran.stderr);
  assert.match(ran.stdout, /^grace /m);
  assert.ok(!ran.stdout.includes('linus'), 'linus was not there before the reload');
  assert.match(ran.stdout, /ended 0/);
});
