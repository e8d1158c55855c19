// Where secrets must not be, and what a workspace can see of the host and of other workspaces.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, existsSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { after, before, test } from 'node:test';
import { atEditor, launch, person, terminal, type } from './lib/browser.mjs';
import { declare, demoProcesses, putInForce, processes, running, stopped } from './lib/demo.mjs';
import { accountId, data, database, demoLog, foreignFiles, hostFile, inAccount, inside, manifestPath, ownAccount, password, port, read } from './lib/place.mjs';
import { until } from './lib/until.mjs';
import { Visitor } from './lib/visitor.mjs';

const canary = randomBytes(16).toString('hex');
const secrets = { TEST_TOKEN: `env-${canary}`, GITHUB_TOKEN: `gh-${canary}`, netrc: `file-${canary}` };
let manifestBefore;

function secretFile(name) {
  const path = `${data}/test-secret-${name}`;
  writeFileSync(path, `${secrets[name]}\n`, { mode: 0o600 });
  const { uid, gid } = statSync(data);
  chownSync(path, uid, gid);
  return path;
}

before(async () => {
  manifestBefore = await declare((manifest) => {
    manifest.users.ada.secretEnvironment = { TEST_TOKEN: secretFile('TEST_TOKEN'), GITHUB_TOKEN: secretFile('GITHUB_TOKEN') };
    manifest.users.ada.secretFiles = { '~/.netrc': { source: secretFile('netrc'), mode: '0600' } };
    manifest.users.ada.environment = { PLAIN: 'plain value' };
  });
  await Promise.all([stopped('ada'), running('grace')]);
  await running('ada');
});
after(async () => {
  await putInForce(manifestBefore);
  await stopped('ada');
});

test("secrets and variables, including GITHUB_TOKEN, are in the editor's terminal", async () => {
  const browser = await launch();
  const { page } = await person(browser);
  await atEditor(page, 'ada');
  await terminal(page);
  await type(page, 'tmux kill-server');
  await until('tmux to exit', async () => (await inside('ada', 'sh', '-c', 'tmux ls 2>&1 || true')).includes('no server'));
  await terminal(page);
  await type(page, 'echo "$TEST_TOKEN $GITHUB_TOKEN $PLAIN" > ~/project/told');
  const expected = `${secrets.TEST_TOKEN} ${secrets.GITHUB_TOKEN} plain value\n`;
  await until('the terminal to print the variables', () => read(hostFile('ada', 'workspace/told')) === expected);
  await browser.close();
  execFileSync('rm', [hostFile('ada', 'workspace/told')]);
});

test("secret files have their mode, belong to the user, and can't be changed from inside", async () => {
  const shown = await inside('ada', 'sh', '-c', 'stat -c "%a %U" ~/.netrc; cat ~/.netrc; echo x >> ~/.netrc; echo "exit $?"');
  const [mode, content, exit] = shown.trim().split('\n');
  assert.equal(mode, '600 coder');
  assert.equal(content, secrets.netrc);
  assert.notEqual(exit, 'exit 0');
  assert.equal(read(hostFile('ada', 'home/.netrc')), '', 'the secret itself is not in the home on the host');
});

test("no secret is in podman inspect, a command line, a host process's environment, a log, the database or the manifest", async () => {
  const visitor = await Visitor.owner('ada', 'ada');
  const needles = {
    canary,
    password: password('ada'),
    'another password': password('grace'),
    session: visitor.cookie('', '__Host-csm-session').split('.')[1],
    token: visitor.cookie('ada', '__Host-csm-workspace').split('.')[1],
    device: visitor.cookie('', '__Host-csm-device').split('.')[2],
  };
  const places = {
    'podman inspect': (await inAccount(['podman', 'inspect', 'csm-ada', 'csm-grace'])).stdout,
    'the image': (await inAccount(['podman', 'image', 'inspect', JSON.parse(read(manifestPath)).image])).stdout,
    'the log of the demo': read(demoLog).replaceAll(/^ {2}http:\/\/.*$/gm, ''),
    'the log of the workspace': (await inAccount(['podman', 'logs', 'csm-ada'])).stdout,
    'the database': ['', '-wal', '-shm'].map((part) => `${database}${part}`).filter(existsSync).map((path) => readFileSync(path, 'latin1')).join(''),
    'the manifest': read(manifestPath),
  };
  for (const one of demoProcesses().filter((one) => /^(csm|nginx|podman|conmon|slirp4netns|pasta)/.test(one.name))) {
    places[`the command line of ${one.name} ${one.pid}`] = read(`/proc/${one.pid}/cmdline`);
    places[`the environment of ${one.name} ${one.pid}`] = read(`/proc/${one.pid}/environ`);
  }
  for (const one of processes()) places[`the command line of ${one.name} ${one.pid}`] ??= one.args;
  assert.ok(places['podman inspect'].includes('csm-ada') && places['the database'].includes('SQLite'), 'the texts were read');
  assert.ok(Object.keys(places).some((place) => place.includes('environment of conmon')));
  assert.ok(Object.keys(places).some((place) => place.includes('environment of nginx')));
  for (const [place, text] of Object.entries(places)) {
    for (const [what, needle] of Object.entries(needles)) assert.ok(!text.includes(needle), `the ${what} is in ${place}`);
  }
});

test('on the host only the account can read secrets', () => {
  const open = execFileSync('find', [`${data}/..`, '-name', 'test-secret-*', '-perm', '/077']).toString();
  assert.equal(open, '');
  const copies = execFileSync('grep', ['-rlF', canary, '/run', '--include=*'], { stdio: ['ignore', 'pipe', 'ignore'] }).toString().trim();
  for (const path of copies.split('\n')) {
    assert.equal(statSync(path).mode & 0o077, 0, path);
    assert.equal(statSync(path).uid, accountId(), path);
  }
});

test("ada's workspace can see no file, socket, process or secret of grace's", async () => {
  const look = async (script) => (await inside('ada', 'sh', '-c', script)).trim();
  assert.equal(await look('find / -xdev -name "*grace*" -not -name "graceful*" -not -path "/proc/*" 2>/dev/null | head'), '');
  assert.deepEqual(await foreignFiles('ada'), []);
  assert.equal(await look('find / -name "*.sock" -not -path "/proc/*" 2>/dev/null | grep -v "^/tmp\\|^/run/csm/\\(http\\|control\\).sock\\|^/home" || true'), '');
  const mounts = await look('cat /proc/self/mountinfo');
  assert.ok(!mounts.includes('workspaces/grace') && !mounts.includes('ws/grace'), mounts);
  assert.ok(!(await look('ls /run/secrets 2>/dev/null; env')).includes('grace'));
  // Only its own processes are visible, not the host's or another container's.
  const names = new Set((await look('for p in /proc/[0-9]*; do cat $p/comm 2>/dev/null; done')).split('\n'));
  for (const other of ['csm', 'nginx', 'podman', 'conmon', 'systemd', 'sshd']) assert.ok(!names.has(other), `${other} is visible`);
  assert.equal(await look('id -u; id -G'), '1000\n1000');
  assert.equal(await look('ls /var/run/docker.sock /run/podman 2>/dev/null | wc -l'), '0');
});

test("a workspace can't reach the host's loopback, including the demo's own port", async () => {
  const token = randomBytes(16).toString('hex');
  const server = createServer((_, answer) => answer.end(token)).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const ports = [port, server.address().port];
  // The response shows which program accepted the connection: a proxy in the network may accept every connection.
  const probe = `
import socket, subprocess, json
out = {}
gateway = subprocess.run("ip route 2>/dev/null | awk '/default/ {print $3}'", shell=True, capture_output=True, text=True).stdout.split()
for host in ["127.0.0.1", "::1", "localhost", "10.0.2.2", "host.containers.internal", "host.docker.internal", "169.254.1.2", "169.254.169.254"] + gateway:
    for port in ${JSON.stringify(ports)}:
        try:
            with socket.create_connection((host, port), timeout=2) as one:
                one.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                out[f"{host}:{port}"] = one.makefile("rb").read(2000).decode("latin1")
        except OSError as error:
            out[f"{host}:{port}"] = type(error).__name__
print(json.dumps(out))`;
  const found = JSON.parse(await inside('ada', 'python3', '-c', probe));
  server.close();
  const reached = Object.entries(found).filter(([, answer]) => answer.includes(token) || /nginx|code-server-multi/.test(answer));
  assert.deepEqual(reached, []);
  assert.ok(Object.keys(found).length >= 16);
  assert.ok((await (await fetch(`http://127.0.0.1:${port}/`)).text()).includes('nginx'), 'the same request succeeds from the host');
});

test("on the host, another account can't read homes or sockets", (t) => {
  if (!ownAccount) return t.skip('needs root, to act as another account');
  for (const path of [data, `${data}/workspaces/ada`, hostFile('ada', 'home'), `${data}/passwords/ada`, database]) {
    const tried = () => execFileSync('setpriv', ['--reuid=65534', '--regid=65534', '--clear-groups', 'ls', path], { stdio: 'pipe' });
    assert.throws(tried, /Permission denied/, path);
  }
  assert.ok(readdirSync(hostFile('ada', 'home')).length > 0 && readFileSync(`${data}/passwords/ada`).length > 0);
});
