// nginx, csm and code-server must never read an unauthenticated visitor's body as a request. Runs against the real programs.
import assert from 'node:assert/strict';
import { connect as connectHttp2 } from 'node:http2';
import { before, beforeEach, test } from 'node:test';
import { running } from '../e2e/lib/demo.mjs';
import { workspace } from '../e2e/lib/http.mjs';
import { demoLog, domain, port, read } from '../e2e/lib/place.mjs';
import { Visitor } from '../e2e/lib/visitor.mjs';
import { PREFACE, endedStreams, request } from './lib/h2.mjs';
import { overTls } from './lib/stage.mjs';
import { answerTo, dial, talk } from './lib/wire.mjs';

let ada;
let grace;
// An attack may stop a workspace; starting both again lets the next test run.
beforeEach(() => Promise.all([running('ada'), running('grace')]));
before(async () => {
  ada = await Visitor.owner('ada', 'ada');
  grace = await Visitor.owner('grace', 'grace');
});

/** nginx's listener: its port, and whether it uses TLS. */
class Door {
  constructor(listens = port, secure = false) {
    [this.port, this.secure] = [listens, secure];
    this.name = secure ? 'TLS' : 'plain';
  }

  host(label) {
    return `${label ? `${label}.` : ''}${domain}:${this.port}`;
  }

  origin(label) {
    return `http${this.secure ? 's' : ''}://${this.host(label)}`;
  }

  where(label, alpn) {
    return { port: this.port, secure: this.secure, servername: `${label ? `${label}.` : ''}${domain}`, alpn };
  }

  send(label, ...parts) {
    return answerTo(this.where(label), ...parts);
  }

  get(label, { target = '/', cookie = '', headers = '' } = {}) {
    const more = `${cookie ? `Cookie: ${cookie}\r\n` : ''}${headers}`;
    return this.send(label, `GET ${target} HTTP/1.1\r\nHost: ${this.host(label)}\r\n${more}Connection: close\r\n\r\n`);
  }

  upgrade(label) {
    const headers = `Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nOrigin: ${this.origin(label)}\r\n`;
    return this.send(label, `GET /stable-x?type=Management HTTP/1.1\r\nHost: ${this.host(label)}\r\n${headers}\r\n`);
  }

  /** After an attack unauthenticated visitors are still refused, and another user's requests still succeed. */
  async holds(what) {
    const strangers = await Promise.all([...Array.from({ length: 4 }, () => this.get('ada')), this.upgrade('ada'), this.get('3000--ada')]);
    for (const answer of strangers) assert.equal(answer.status, 401, `${what}: an unauthenticated visitor gets\n${answer.text.slice(0, 300)}`);
    const [healthz, dashboard] = await Promise.all([
      this.get('grace', { target: '/healthz', cookie: grace.cookies('grace') }),
      this.get('', { cookie: grace.cookies('') }),
    ]);
    assert.equal(healthz.status, 200, `${what}: grace's editor\n${healthz.text.slice(0, 300)}`);
    assert.match(healthz.body, /"status"/);
    assert.equal(dashboard.status, 200, `${what}: grace's dashboard\n${dashboard.text.slice(0, 300)}`);
    assert.match(dashboard.body, /Sign out/);
  }
}

const STYLE = 'GET /_csm/static/style.css HTTP/1.1\r\nX-Swallow: ';
const chunks = (body) => `${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;

/** Ways to frame the hidden request as a body. nginx itself refuses those marked `malformed`. */
const FRAMINGS = [
  ['a length', 'POST', (body) => `Content-Length: ${body.length}\r\n\r\n${body}`],
  ['chunks', 'POST', (body) => `Transfer-Encoding: chunked\r\n\r\n${chunks(body)}`],
  ['a length on GET', 'GET', (body) => `Content-Length: ${body.length}\r\n\r\n${body}`],
  ['chunks on GET', 'GET', (body) => `Transfer-Encoding: chunked\r\n\r\n${chunks(body)}`],
  ['a length on OPTIONS', 'OPTIONS', (body) => `Content-Length: ${body.length}\r\n\r\n${body}`],
  ['a length of many digits', 'POST', (body) => `Content-Length: 000000${body.length}\r\n\r\n${body}`],
  ['an expectation', 'POST', (body) => `Expect: 100-continue\r\nContent-Length: ${body.length}\r\n\r\n${body}`],
  ['an upgrade', 'POST', (body) => `Upgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: ${body.length}\r\n\r\n${body}`],
  ['two lengths', 'POST', (body) => `Content-Length: 0\r\nContent-Length: ${body.length}\r\n\r\n${body}`, 'malformed'],
  ['a length and chunks', 'POST', (body) => `Content-Length: ${body.length}\r\nTransfer-Encoding: chunked\r\n\r\n${chunks(body)}`, 'malformed'],
  ['an unknown transfer coding', 'POST', (body) => `Transfer-Encoding: xchunked\r\nContent-Length: ${body.length}\r\n\r\n${body}`, 'malformed'],
];

const attack = (door, label, framing, { target = '/', hidden = STYLE, host = door.host(label) } = {}) =>
  door.send(label, `${framing[1]} ${target} HTTP/1.1\r\nHost: ${host}\r\n${framing[2](hidden)}`);

async function onHosts(door) {
  for (const framing of FRAMINGS) {
    for (const label of ['ada', '3000--ada', 'nobody', '3000--nobody']) {
      const answer = await attack(door, label, framing);
      const what = `${framing[0]} on ${label}, ${door.name}`;
      if (framing[3]) assert.ok([400, 501].includes(answer.status), `${what}: ${answer.text.slice(0, 200)}`);
      else {
        assert.ok([401, 403, 404].includes(answer.status), `${what}: ${answer.text.slice(0, 200)}`);
        assert.match(answer.body, /signed out|request refused|no workspace|not found|nothing here/i, what);
      }
      await door.holds(what);
    }
  }
}

async function onTargets(door) {
  for (const framing of FRAMINGS.slice(0, 4)) {
    for (const label of ['ada', '3000--ada', '']) {
      for (const target of ['/_csm/static/style.css', '/_csm/authorize', '/_csm/sign-in', '/_csm/wake', '/_csm/callback?code=x', '/_csm/nothing', '/api/v1/workspaces', '/sign-in', '/nothing']) {
        const answer = await attack(door, label, framing, { target });
        assert.ok(answer.status >= 200, `${label}${target}: ${answer.text.slice(0, 100)}`);
        await door.holds(`${framing[0]} on ${label}${target}, ${door.name}`);
      }
    }
  }
}

async function asAdmin(door) {
  const hidden = `POST /api/v1/workspaces/grace/stop HTTP/1.1\r\nOrigin: ${door.origin('')}\r\nX-Swallow: `;
  for (const framing of FRAMINGS.slice(0, 4)) {
    for (const label of ['ada', '']) {
      await attack(door, label, framing, { hidden });
      for (let times = 0; times < 4; times++) {
        const answer = await door.get('', { cookie: ada.cookies('') });
        assert.equal(answer.status, 200, `ada's dashboard: ${answer.text.slice(0, 300)}`);
        assert.match(answer.body, /Sign out/);
      }
      assert.equal((await workspace('grace')).state, 'running', `${framing[0]} on ${label}`);
    }
  }
}

test("an unauthenticated visitor's body opens no workspace", () => onHosts(new Door()));
test("an unauthenticated visitor's body to any target opens no workspace", () => onTargets(new Door()));
test("an unauthenticated visitor's body does not become an admin's command", () => asAdmin(new Door()));

test('a request with a wrong Host is misdirected, whatever its body', async () => {
  const door = new Door();
  for (const framing of FRAMINGS) {
    for (const host of ['evil.example', `evil.${domain}.example`, `ada.${domain}`, `ada.${domain}:${port + 1}`]) {
      const answer = await attack(door, 'ada', framing, { host });
      assert.ok((framing[3] ? [400, 501] : [421, 403]).includes(answer.status), `${framing[0]} for ${host}: ${answer.text.slice(0, 200)}`);
      await door.holds(`${framing[0]} for ${host}`);
    }
  }
});

test("a visitor can't set the headers by which nginx informs csm", async () => {
  const door = new Door();
  const from = read(demoLog).length;
  const form = 'name=ada&password=wrong&handshake=';
  const forged = 'X-Csm-Source: 6.6.6.6\r\nX-Csm-Site: dashboard\r\nX-Csm-Method: GET\r\n';
  const post = `POST /sign-in HTTP/1.1\r\nHost: ${door.host('')}\r\nOrigin: ${door.origin('')}\r\nContent-Type: application/x-www-form-urlencoded\r\n${forged}Content-Length: ${form.length}\r\n\r\n${form}`;
  const refused = await door.send('', post);
  assert.match(refused.text, /Wrong name or password/, 'the response is from the sign-in form');
  for (const framing of FRAMINGS.slice(0, 4)) {
    await attack(door, 'ada', framing, { hidden: post });
    await door.holds(`a hidden sign-in, by ${framing[0]}`);
  }
  const site = await door.get('ada', { headers: 'X-Csm-Site: label:grace\r\nSec-Fetch-Mode: navigate\r\n', cookie: grace.cookies('grace') });
  assert.equal(site.status, 303, 'the site is still that of the server block');
  assert.ok(!read(demoLog).slice(from).includes('6.6.6.6'), 'csm does not use the forged source address');
});

/** The attacks over HTTP/2, in which a body needs no length. */
async function overHttp2(door) {
  const own = door.host('ada');
  const pseudo = (method, target = '/') => [[':method', method], [':scheme', 'https'], [':authority', own], [':path', target]];
  const cases = {
    'no length': [pseudo('POST'), [STYLE]],
    'no length on GET': [pseudo('GET'), [STYLE]],
    'late DATA': [pseudo('POST'), ['', STYLE.slice(0, 9), STYLE.slice(9)]],
    'a length': [[...pseudo('POST'), ['content-length', String(STYLE.length)]], [STYLE]],
    'a length of 0': [[...pseudo('POST'), ['content-length', '0']], [STYLE]],
    'a length that is too short': [[...pseudo('POST'), ['content-length', '3']], [STYLE]],
    'a coding': [[...pseudo('POST'), ['transfer-encoding', 'chunked']], [chunks(STYLE)]],
    'a line break in a header': [[...pseudo('GET'), ['x-a', `b\r\nContent-Length: 0\r\n\r\n${STYLE}`]], []],
    'a line break in the path': [pseudo('GET', `/x HTTP/1.1\r\n\r\n${STYLE}`), []],
    'capitals': [[...pseudo('POST'), ['X-Csm-Site', 'dashboard'], ['Content-Length', '0']], [STYLE]],
    'a second Host': [[...pseudo('POST'), ['host', door.host('grace')]], [STYLE]],
    'a body without an end': [pseudo('POST'), [STYLE], { ends: false }],
  };
  for (const [what, [pairs, parts, options]] of Object.entries(cases)) {
    for (const split of [true, false]) {
      const frames = [PREFACE, ...request(1, pairs, parts, options)];
      const socket = await dial(door.where('ada', 'h2'));
      const text = await talk(socket, split ? frames : [Buffer.concat(frames)], { idle: 500, done: (bytes) => endedStreams(bytes) >= 1 });
      assert.ok(!text.includes('workbench'), `${what}: no editor`);
      await door.holds(`HTTP/2: ${what}`);
    }
  }
  // A conforming client reads the refusal's status.
  const client = connectHttp2(door.origin('ada'), { rejectUnauthorized: false, lookup: (name, options, done) => done(null, options.all ? [{ address: '127.0.0.1', family: 4 }] : '127.0.0.1', 4) });
  const stream = client.request({ ':method': 'POST', ':path': '/' });
  stream.end(STYLE);
  const status = await new Promise((resolve, reject) => stream.on('response', (headers) => resolve(headers[':status'])).on('error', reject));
  client.close();
  assert.equal(status, 401);
}

test('the same attacks fail over TLS, with HTTP/1.1 and HTTP/2', () =>
  overTls(async (listens) => {
    const door = new Door(listens, true);
    await door.holds('before');
    await onHosts(door);
    await asAdmin(door);
    await overHttp2(door);
  }));
