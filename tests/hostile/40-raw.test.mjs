// Attacks by a visitor, a page or a program, sent as bytes. Each test checks that the attack is refused, and why, and that the next request
// of another user succeeds.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { afterEach, before, test } from 'node:test';
import { declare, give, putInForce, running } from '../e2e/lib/demo.mjs';
import { echo } from '../e2e/lib/echo.mjs';
import { NAVIGATE, host, send } from '../e2e/lib/http.mjs';
import { demoLog, origin, password, port, read } from '../e2e/lib/place.mjs';
import { until } from '../e2e/lib/until.mjs';
import { Visitor, to } from '../e2e/lib/visitor.mjs';
import { handshake } from '../e2e/lib/ws.mjs';
import { program } from './lib/program.mjs';
import { freePort } from './lib/stage.mjs';
import { answerTo, dial, talk } from './lib/wire.mjs';

const ECHO = '3000--ada';
const STEERING = '3002--ada';

let ada;
let grace;
before(async () => {
  await Promise.all([running('ada'), running('grace')]);
  await echo('ada', 3000);
  await program('ada', 'steering.mjs', 3002);
  ada = await Visitor.owner('ada', 'ada', ECHO, STEERING);
  grace = await Visitor.owner('grace', 'grace');
});

afterEach(async () => {
  const healthz = await grace.visit('grace', '/healthz');
  assert.equal(healthz.status, 200, `grace's editor: ${healthz.text.slice(0, 300)}`);
  assert.match((await grace.visit('')).body, /Sign out/, "grace's dashboard");
});

// --- headers ---

const OWN = { Origin: () => origin(ECHO), 'Sec-Fetch-Site': () => 'same-origin', 'Sec-Fetch-Mode': () => 'navigate', 'Sec-Fetch-Dest': () => 'document' };
const FOREIGN = { Origin: 'https://evil.example', 'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'no-cors', 'Sec-Fetch-Dest': 'iframe' };

for (const [name, own] of Object.entries(OWN)) {
  test(`a request with ${name} twice is refused, or the workspace gets the value that csm checked`, async () => {
    const ask = (...values) => send({ label: ECHO, headers: [['Cookie', ada.cookies(ECHO)], ...values.map((value) => [name, value])] });
    for (const values of [[own(), FOREIGN[name]], [FOREIGN[name], own()], [own(), own()], ['', FOREIGN[name]], [own(), '']]) {
      // This request is allowed, and nginx caches that.
      for (const before of [own(), '']) assert.equal((await ask(before)).status, 200, 'a request with one value is allowed');
      const answer = await ask(...values);
      if (answer.status === 200) {
        const arrived = JSON.parse(answer.body).headers[name.toLowerCase()];
        // The cache allows the request by its first value: then only that value may arrive.
        assert.deepEqual(arrived, values[0] === '' ? undefined : [values[0]], values.join());
        assert.ok(['', own()].includes(values[0]), values.join());
      } else {
        assert.equal(answer.status, 400, `${values.join()}: ${answer.text.slice(0, 300)}`);
        assert.match(answer.body, new RegExp(`${name} occurs twice`, 'i'));
      }
    }
    const write = (...values) =>
      send({ label: ECHO, method: 'POST', headers: [['Cookie', ada.cookies(ECHO)], ['Origin', origin(ECHO)], ...values.map((value) => [name, value])] });
    const answer = await write(own(), FOREIGN[name]);
    assert.ok([400, 403].includes(answer.status), `a POST: ${answer.text.slice(0, 300)}`);
    const socket = await handshake({ label: 'ada', from: null, headers: { Cookie: ada.cookies('ada'), Origin: `${origin('ada')}\r\n${name}: ${FOREIGN[name]}\r\n${name}: ${FOREIGN[name]}` } });
    assert.ok([400, 403].includes(socket.status), `a WebSocket: ${socket.status}`);
  });
}

for (const header of ['X-Accel-Redirect:/_csm/authorize', 'X-Accel-Redirect:/_csm/wake', 'X-Accel-Redirect:/x', 'X-Accel-Redirect:@csm_wake', 'X-Accel-Expires:3600', 'X-Accel-Limit-Rate:1', 'X-Accel-Buffering:yes', 'X-Accel-Charset:koi8-r']) {
  test(`a program's ${header} does not control nginx`, async () => {
    const began = Date.now();
    const answer = await ada.visit(STEERING, `/?header=${encodeURIComponent(header)}`);
    assert.equal(answer.status, 200, answer.text.slice(0, 300));
    assert.match(answer.body, /^the program's own x+$/);
    assert.deepEqual(answer.headers['content-type'], ['text/plain']);
    assert.ok(Date.now() - began < 5000, 'nginx does not limit the rate');
  });
}

for (const length of [3900, 5000]) {
  test(`a link of ${length} characters survives the sign-in`, async () => {
    const target = `/x?${randomBytes(length).toString('hex').slice(0, length - 3)}`;
    const visitor = new Visitor();
    const begun = await visitor.visit('ada', target);
    assert.equal(begun.status, 303, begun.text.slice(0, 300));
    const asked = await visitor.visit('', to(begun, ''));
    const form = await visitor.visit('', to(asked, ''));
    const [, hidden] = /name="handshake" value="([^"]*)"/.exec(form.body);
    const signedIn = await visitor.signIn('ada', hidden);
    const granted = await visitor.visit('', to(signedIn, ''));
    const landed = await visitor.visit('ada', to(granted, 'ada'));
    assert.equal(landed.headers.location[0], origin('ada') + target);
  });
}

test("a page that opened one of csm's pages, or that one of them opened, can't access its window", async () => {
  const policy = async (visitor, label, target) => (await visitor.visit(label, target)).headers['cross-origin-opener-policy'];
  for (const target of ['/', '/sign-in', '/nothing']) {
    assert.deepEqual(await policy(ada, '', target), ['same-origin'], target);
    assert.deepEqual(await policy(new Visitor(), '', target), ['same-origin'], `${target}, signed out`);
  }
  assert.deepEqual(await policy(ada, 'ada', '/'), ['same-origin'], 'the editor');
  assert.deepEqual(await policy(ada, 'ada', '/_csm/nothing'), ['same-origin']);
  assert.equal(await policy(ada, ECHO, '/'), undefined, "csm sets no policy for a port's pages");
});

// --- sign-in ---

test('ten thousand visits of unauthenticated visitors do not interrupt a handshake that a user has started', async () => {
  const person = new Visitor();
  const begun = await person.visit('ada', '/there');
  const one = `GET / HTTP/1.1\r\nHost: ${host('ada')}\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\nAccept: text/html\r\n\r\n`;
  const flood = await Promise.all(
    Array.from({ length: 20 }, async () => {
      const text = (await talk(await dial({ port }), [one.repeat(500)], { idle: 10_000, done: (bytes) => bytes.length > 500 * 300 && count(bytes) >= 500 })).toString('latin1');
      return text.split('HTTP/1.1 303').length - 1;
    }),
  );
  assert.equal(flood.reduce((sum, next) => sum + next), 10_000, 'each is redirected to the sign-in');
  await person.signIn('ada');
  const granted = await person.visit('', to(begun, ''));
  const landed = await person.visit('ada', to(granted, 'ada'));
  assert.equal(landed.headers.location[0], `${origin('ada')}/there`);
});

const count = (bytes) => bytes.toString('latin1').split('HTTP/1.1 303').length - 1;

const signIn = (from, name, secret) => {
  const form = new URLSearchParams({ name, password: secret, handshake: '' }).toString();
  return answerTo(
    { port, from },
    `POST /sign-in HTTP/1.1\r\nHost: ${host('')}\r\nOrigin: ${origin('')}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: ${form.length}\r\nConnection: close\r\n\r\n${form}`,
  );
};

test('wrong passwords from another address lock no user out', async () => {
  const statuses = [];
  for (let times = 0; times < 15; times++) statuses.push((await signIn('127.0.0.2', 'ada', 'wrong')).status);
  assert.ok(statuses.includes(401) && statuses.at(-1) === 429, `the attacker is slowed down: ${statuses}`);
  const right = await signIn('127.0.0.1', 'ada', password('ada'));
  assert.equal(right.status, 303, right.text.slice(0, 500));
  assert.match(right.headers['set-cookie'].join(), /__Host-csm-session=/);
});

test('nginx answers a flood of sign-in attempts, and a user at another address can still sign in', async () => {
  const flood = Promise.all(Array.from({ length: 90 }, () => signIn('127.0.0.3', 'nobody', 'wrong')));
  const right = await signIn('127.0.0.4', 'grace', password('grace'));
  assert.equal(right.status, 303, right.text.slice(0, 500));
  const refused = (await flood).filter((answer) => /This address made too many sign-in attempts/.test(answer.body));
  assert.ok(refused.length > 10, `nginx refused ${refused.length} of 90`);
  for (const answer of refused) {
    assert.equal(answer.status, 429);
    assert.deepEqual(answer.headers['retry-after'], ['10']);
  }
});

test('requests that another page causes use up no sign-in attempts of their address', async () => {
  const form = 'name=ada&password=wrong';
  const post = (origin) =>
    answerTo(
      { port, from: '127.0.0.6' },
      `POST /sign-in HTTP/1.1\r\nHost: ${host('')}\r\n${origin}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: ${form.length}\r\nConnection: close\r\n\r\n${form}`,
    );
  const foreign = ['', 'Origin: https://evil.example\r\n', 'Origin: null\r\n', `Origin: ${origin('3000--ada')}\r\n`, `Origin: ${origin('')}.evil.example\r\n`];
  const flood = await Promise.all(Array.from({ length: 200 }, (_, at) => post(foreign[at % foreign.length])));
  assert.deepEqual(new Set(flood.map((answer) => answer.status)), new Set([403]));
  const right = await signIn('127.0.0.6', 'ada', password('ada'));
  assert.equal(right.status, 303, right.text.slice(0, 500));
});

test('no log contains the name that a failed sign-in used, unless it is declared', async () => {
  const from = read(demoLog).length;
  const canary = `canary${randomBytes(8).toString('hex')}`;
  for (const name of [canary, `${canary} `, canary.toUpperCase(), `${canary}\n`, 'ada']) {
    const answer = await signIn('127.0.0.5', name, name === 'ada' ? canary : 'wrong');
    assert.equal(answer.status, 401, answer.text.slice(0, 300));
  }
  const log = await until('csm to log the refusals', () => {
    const text = read(demoLog).slice(from);
    return text.split('sign-in refused').length > 5 && text;
  });
  assert.ok(!log.toLowerCase().includes(canary), log);
  assert.match(log, /ada/, 'a declared name is logged');
});

// --- what an editor's hostname serves ---

const PROXY = ['/proxy/3000/', '/proxy/3000', '/absproxy/3000/', '/absproxy/3000/x?y', '/PROXY/3000', '/Proxy/3000/', '//proxy/3000', '/%70roxy/3000', '/%2570roxy/3000', '/x/..%2fproxy/3000', '/x/../proxy/3000', '/./proxy/3000', '/proxy%2f3000', '/proxy', '/proxy?3000'];
const AMBIGUOUS = ['/\\proxy/3000', '/x\\..\\proxy/3000', '/proxy\\3000', '/#/proxy/3000', '/x#/../../proxy/3000'];

async function closed(ask) {
  for (const target of PROXY) {
    const answer = await ask(target);
    assert.equal(answer.status, 404, `${target}: ${answer.text.slice(0, 300)}`);
    assert.ok(!answer.body.includes('"received"'), `${target}: the program answered`);
    // A path that is encoded twice reaches code-server, which has no such path.
    if (!target.includes('%25')) assert.match(answer.body, /editor's address serves only the editor|editor&#39;s address serves only the editor/, target);
  }
  for (const target of AMBIGUOUS) {
    const answer = await ask(target);
    assert.equal(answer.status, 400, `${target}: ${answer.text.slice(0, 300)}`);
    assert.ok(!answer.body.includes('"received"'), `${target}: the program answered`);
  }
}

test("an editor's hostname serves no port", async () => {
  await closed((target) => ada.visit('ada', target));
  await closed((target) => ada.send({ label: 'ada', target: target.startsWith('//') ? target : `http://${host('ada')}${target}`, headers: NAVIGATE }));
  for (const target of ['/proxy/3000/', '/absproxy/3000/', '//proxy/3000']) {
    const socket = await handshake({ label: 'ada', target, headers: { Cookie: ada.cookies('ada') } });
    assert.equal(socket.status, 404, `a WebSocket to ${target}`);
  }
  const own = await ada.visit(ECHO, '/proxy/3000/');
  assert.equal(JSON.parse(own.body).url, '/proxy/3000/', "on a port's hostname the path reaches the program");
});

test("an editor's port for SSH tunnels serves no port of the workspace either", async () => {
  const tunnel = await freePort();
  const before = await declare((manifest) => (manifest.users.ada.port = tunnel));
  try {
    const at = (target, rest = '', method = 'GET', body = '') =>
      answerTo({ port: tunnel }, `${method} ${target} HTTP/1.1\r\nHost: 127.0.0.1:${tunnel}\r\nSec-Fetch-Mode: navigate\r\n${rest}Connection: close\r\n\r\n${body}`);
    await until('the port to respond', async () => (await at('/')).status === 200);
    const form = new URLSearchParams({ name: 'ada', password: password('ada') }).toString();
    const signedIn = await at('/_csm/sign-in-here', `Origin: http://127.0.0.1:${tunnel}\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: ${form.length}\r\n`, 'POST', form);
    assert.equal(signedIn.status, 303, signedIn.text.slice(0, 500));
    const cookie = `Cookie: ${/^[^;]*/.exec(signedIn.headers['set-cookie'].findLast((set) => set.startsWith('__Host-csm-workspace')))[0]}\r\n`;
    assert.equal((await at('/healthz', cookie)).status, 200, 'the editor responds');
    await closed((target) => at(target, cookie));
  } finally {
    await putInForce(before);
  }
});

test("an editor's hostname serves no script as a service worker, except the editor's own", async () => {
  const ask = (label, target) => ada.send({ label, target, headers: { 'Service-Worker': 'script', 'Sec-Fetch-Site': 'same-origin', 'Sec-Fetch-Mode': 'same-origin', 'Sec-Fetch-Dest': 'serviceworker' } });
  const stable = await version();
  for (const target of ['/', '/x.js', '/_static/out/browser/serviceWorker.js/x', '/_static/out/browser/other.js', '/_static/../x.js', '/proxy/3000/x.js', `/${stable}/vscode-remote-resource?path=/home/coder/project/x.js`, `/${stable}/static/out/vs/workbench/other.js`, `/x/_static/out/browser/serviceWorker.js`]) {
    const answer = await ask('ada', target);
    assert.equal(answer.status, 404, `${target}: ${answer.text.slice(0, 300)}`);
    assert.match(answer.body, /address serves only the editor/, target);
  }
  const own = await ask('ada', '/_static/out/browser/serviceWorker.js');
  assert.equal(own.status, 200, own.text.slice(0, 300));
  assert.match(own.headers['content-type'][0], /javascript/);
  assert.equal((await ask(ECHO, '/x.js')).status, 200, "a port's hostname serves its program's service workers");
});

/** `stable-` and the editor's commit, as in its URLs. */
async function version() {
  const page = await ada.visit('ada', '/?folder=/home/coder/project');
  return /(?:stable|oss)-[0-9a-f]{40}/.exec(page.body)[0];
}

test("a file of the workspace that is opened as a page on the editor's hostname runs no script", async () => {
  give('ada', 'page.html', '<script>document.title = "ran"</script>');
  const answer = await ada.visit('ada', `/${await version()}/vscode-remote-resource?path=${encodeURIComponent('/home/coder/project/page.html')}`);
  assert.equal(answer.status, 200, answer.text.slice(0, 300));
  assert.match(answer.body, /document\.title/, 'the response is the file');
  assert.ok(answer.headers['content-security-policy'].includes('sandbox'), answer.text.slice(0, 800));
});

test('only a sign-out clears what an editor stored in the browser', async () => {
  for (const headers of [{}, { 'Sec-Fetch-Site': 'cross-site', 'Sec-Fetch-Mode': 'no-cors', 'Sec-Fetch-Dest': 'image' }]) {
    for (const target of ['/_csm/clear', '/_csm/clear?left=ada', '/_csm/clear?left=ada.1.x']) {
      const answer = await send({ label: 'ada', target, headers });
      assert.equal(answer.status, 403, target);
      assert.equal(answer.headers['clear-site-data'], undefined, target);
    }
  }
});

test("a link to a folder does not change the folder that the editor opens by default, and a prefetch from another hostname is refused", async () => {
  const ada = await Visitor.owner('ada', 'ada');
  assert.equal((await ada.visit('ada', '/?folder=/home/coder')).status, 200);
  const opened = await ada.visit('ada', '/');
  assert.equal(opened.status, 302);
  assert.match(opened.headers.location[0], /folder=\/home\/coder\/project$/);
  const early = await ada.visit('ada', '/?folder=/tmp', { 'Sec-Fetch-Site': 'same-site', 'Sec-Purpose': 'prefetch' });
  assert.equal(early.status, 403);
  assert.match(early.body, /Request refused/);
});

test("a running workspace that closes a connection without a response is not called stopped, and opens no page that reloads", async () => {
  for (const target of ['/vscode-remote-resource?path=/etc', `/${await version()}/vscode-remote-resource?path=/etc`]) {
    const opened = await ada.visit('ada', target);
    const fetched = await ada.send({ label: 'ada', target });
    for (const answer of [opened, fetched]) {
      assert.equal(answer.status, 502, `${target}: ${answer.text.slice(0, 500)}`);
      assert.match(answer.body, /code-server closed the connection without a response/, target);
      assert.doesNotMatch(answer.body, /live\.js|not running/, target);
    }
  }
});

test("a request that csm can't read gets a page that says so", async () => {
  const many = Array.from({ length: 101 }, (_, at) => [`X-${at}`, '1']);
  for (const [what, headers] of [['a control byte', [['X-A', 'a\x01b']]], ['too many headers', many]]) {
    for (const label of ['ada', ECHO]) {
      const answer = await send({ label, headers: [['Cookie', ada.cookies(label)], ...headers] });
      assert.equal(answer.status, 400, `${what}: ${answer.text.slice(0, 300)}`);
      assert.match(answer.body, /<h1>Request refused<\/h1>/, what);
    }
  }
});
