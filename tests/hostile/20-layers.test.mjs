// Each layer of the defence alone, with the others removed, prevents that an unauthenticated visitor's body is read as a request. Without
// all layers the attack succeeds.
import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { running } from '../e2e/lib/demo.mjs';
import { csmRun, domain, port } from '../e2e/lib/place.mjs';
import { until } from '../e2e/lib/until.mjs';
import { ALLOWED, Stage, asCsmWrites, asNixOsWrites } from './lib/stage.mjs';
import { answerTo, dial, talk } from './lib/wire.mjs';

const HIDDEN = 'GET /_csm/static/style.css HTTP/1.1\r\nX-Swallow: ';
const LABELS = ['ada', '3000--ada', 'nobody', ''];

// --- edits that remove a layer ---

/** nginx passes every body on to csm. */
const passBodies = (text) =>
  text
    .replaceAll('proxy_pass_request_body off;', 'proxy_pass_request_body on;')
    .replaceAll(/if \(\$csm_has_body\) \{[^}]*\}/g, '');
/** The lengths come from a variable that the auth_request subrequest has already set to an empty value, as in issue 9. */
const VARIABLE = `
map $uri $csm_layer_length {
    /_csm/authorize "";
    default         $content_length;
}
`;
const lengthsFromVariable = (text) => text.replaceAll('proxy_set_header Content-Length "";', 'proxy_set_header Content-Length $csm_layer_length;');
/** nginx computes the lengths, so they are right where it passes a body on. */
const rightLengths = (text) => text.replaceAll(/proxy_set_header (Content-Length|Transfer-Encoding) "";\n/g, '');
/** The auth_request subrequest goes to the front socket, and nginx keeps connections to csm open, as in issue 9. */
const oneSocket = (text) => text.replace('proxy_pass http://csm_question/;', 'proxy_pass http://csm_front/_csm/authorize;');
const keptFront = (text) => text.replace(/(upstream csm_front \{[^}]*front\.sock;)( keepalive \d+;)?/, '$1 keepalive 32;');
const keptHeader = (text) => text.replaceAll('proxy_set_header Connection close;', 'proxy_set_header Connection "";');

const all = (...changes) => (text) => changes.reduce((now, change) => change(now), text);
/** nginx keeps connections open to a csm that does not close them. */
const KEPT = { 'nginx.conf': keptFront };

/** Runs a test with csm's nginx.conf, and with the NixOS module's, which uses TLS. */
async function on(edit, work) {
  for (const configuration of [asCsmWrites.plain, asNixOsWrites]) {
    const stage = await Stage.start(configuration, { edit });
    try {
      await work(stage);
    } finally {
      await stage.stop();
    }
  }
}

const where = (stage, label) => ({ port: stage.hasTls ? stage.tls : stage.plain, secure: stage.hasTls, servername: `${label ? `${label}.` : ''}${stage.domain}` });

async function attack(stage, label = 'ada', hidden = HIDDEN, framed = (body) => `Content-Length: ${body.length}\r\n\r\n${body}`) {
  const socket = await dial(where(stage, label));
  const answer = await talk(socket, [`POST /x HTTP/1.1\r\nHost: ${stage.host(label)}\r\nX-Marker: attack\r\n${framed(hidden)}`], { idle: 150 });
  return answer.toString('latin1');
}

const chunked = (body) => `Transfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
const visit = (stage, label) => answerTo(where(stage, label), `GET /y HTTP/1.1\r\nHost: ${stage.host(label)}\r\nX-Marker: visit\r\nConnection: close\r\n\r\n`);

/** Sends all kinds of attacks, with unauthenticated visits in between; resolves with the visits' statuses. */
async function siege(stage) {
  const statuses = [];
  for (const label of LABELS) {
    for (const framed of [undefined, chunked]) {
      await attack(stage, label, HIDDEN, framed);
      for (let times = 0; times < 3; times++) statuses.push((await visit(stage, 'ada')).status);
    }
  }
  return statuses;
}

const smuggled = (stage) => stage.arrived.filter(({ request }) => /style\.css|X-Swallow/.test(request.head));
const holds = async (stage) => {
  const statuses = await siege(stage);
  assert.deepEqual([...new Set(statuses)], [401], 'an unauthenticated visitor stays unauthenticated');
  assert.deepEqual(smuggled(stage).map(({ at, request }) => `${at}: ${request.head}`), [], 'no body was read as a request');
  assert.deepEqual(stage.broken, []);
  assert.deepEqual(['ada', 'grace', 'project'].flatMap((one) => stage.at(one)), [], 'no request reached a workspace');
};

// --- each layer alone ---

test('with all layers the attack fails', () => on({}, holds));

test('with one layer left, that nginx passes no body on, the attack fails (one keepalive socket for everything, lengths from a variable)', () =>
  on(
    {
      ...KEPT,
      'http.conf': (text) => text + VARIABLE,
      'front.conf': all(lengthsFromVariable, keptHeader),
      'workspace.conf': all(oneSocket, lengthsFromVariable),
    },
    async (stage) => {
      await holds(stage);
      for (const request of [...stage.at('front'), ...stage.at('question')]) assert.equal(request.body, '');
    },
  ));

test('with one layer left, that lengths are right, the attack fails (nginx passes every body on, over one keepalive socket)', () =>
  on({ ...KEPT, 'front.conf': all(passBodies, rightLengths, keptHeader), 'workspace.conf': all(passBodies, oneSocket) }, async (stage) => {
    const statuses = await siege(stage);
    assert.deepEqual([...new Set(statuses)], [401]);
    assert.deepEqual(smuggled(stage).map(({ request }) => request.head), [], 'no body was read as a request');
    assert.deepEqual(stage.broken, []);
    assert.ok(stage.at('front').some((request) => request.body.includes('X-Swallow')), 'the bodies arrived, as bodies');
  }));

test("with one layer left, that the auth_request subrequest has its own socket, attacks affect only the front socket's connections", () =>
  on({ ...KEPT, 'front.conf': all(passBodies, keptHeader), 'workspace.conf': passBodies }, async (stage) => {
    await siege(stage);
    const spoiled = [...smuggled(stage).map(({ at }) => at), ...stage.broken.map(({ at }) => at)];
    assert.deepEqual([...new Set(spoiled)], ['front'], 'the front socket reads bodies as requests, the question socket reads none of them');
    for (const request of stage.at('question')) {
      assert.equal(`${request.method} ${request.target}`, 'GET /');
      assert.equal(request.framed, false);
    }
    assert.deepEqual(['ada', 'grace', 'project'].flatMap((one) => stage.at(one)), [], 'no request reached a workspace');
  }));

test('without all layers the attack succeeds', () =>
  on(
    { ...KEPT, 'http.conf': (text) => text + VARIABLE, 'front.conf': all(passBodies, lengthsFromVariable, keptHeader), 'workspace.conf': all(passBodies, oneSocket, lengthsFromVariable) },
    async (stage) => {
      const statuses = await siege(stage);
      assert.ok(smuggled(stage).length > 0, 'a body is read as a request');
      assert.ok(statuses.includes(200), `an unauthenticated visitor reaches a workspace: ${statuses}`);
      assert.ok(stage.at('ada').length > 0);
    },
  ));

// --- csm's own layers: requests sent directly to its sockets ---

const socketOf = (name) => `${csmRun}/${name}.sock`;
const from = (label, site) => `Host: ${label ? `${label}.` : ''}${domain}:${port}\r\nX-Csm-Site: ${site}\r\nX-Csm-Method: GET\r\nX-Csm-Uri: /\r\nX-Csm-Source: 127.0.0.1\r\n`;
const statuses = (text) => [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => Number(status));

/** Returns the responses, and whether the server closed the connection. If it stays open, waits for `enough` responses. */
async function spoken(name, bytes, enough = Infinity) {
  const socket = await dial({ path: socketOf(name) });
  let ended = false;
  socket.on('end', () => (ended = true));
  const text = (await talk(socket, [bytes], { idle: 5000, done: (got) => statuses(got.toString('latin1')).length >= enough })).toString('latin1');
  return { text, ended };
}

before(() => running('ada'));

test('csm answers one request on a connection to the front socket, and then closes the connection', async () => {
  const page = `GET /sign-in HTTP/1.1\r\n${from('', 'dashboard')}\r\n`;
  const body = 'GET /_csm/static/style.css HTTP/1.1\r\nX-Swallow: ';
  for (const [what, first, status] of [
    ['a page', page, 200],
    ['a body without a length', `POST / HTTP/1.1\r\n${from('', 'dashboard')}\r\n${body}`, 405],
    ['a body with a length', `POST / HTTP/1.1\r\n${from('', 'dashboard')}Content-Length: ${body.length}\r\n\r\n${body}`, 405],
    ['the sign-in of a workspace', `GET /_csm/sign-in HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n${body}`, 401],
    ['the refusal of a workspace', `GET /_csm/refused HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n${body}`, 403],
    ['the wake page', `GET /_csm/wake HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n${body}`, 401],
    ['a wrong site', `GET / HTTP/1.1\r\n${from('ada', 'dashboard')}\r\n${body}`, 421],
  ]) {
    for (const bytes of [first, first + page, first + page + page]) {
      const { text, ended } = await spoken('front', bytes);
      assert.deepEqual(statuses(text), [status], `${what}: ${text.slice(0, 500)}`);
      assert.ok(ended, `${what}: csm closes the connection`);
      assert.match(text, /\r\nconnection: close\r\n/i, what);
    }
  }
});

test('the front socket answers no auth_request subrequest, and the question socket answers nothing else', async () => {
  const asked = await spoken('front', `GET /_csm/authorize HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n`);
  assert.deepEqual(statuses(asked.text), [404]);
  const question = `GET / HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n`;
  const honest = await spoken('question', question + question, 2);
  assert.deepEqual(statuses(honest.text), [401, 401], 'two subrequests on a connection that stays open');
  const framed = (header, body = '') => `GET / HTTP/1.1\r\n${from('ada', 'label:ada')}${header}\r\n\r\n${body}`;
  for (const [what, odd] of [
    ['a page', `GET /_csm/static/style.css HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n`],
    ['a page of the dashboard', `GET /sign-in HTTP/1.1\r\n${from('', 'dashboard')}\r\n`],
    ['another method', `POST / HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n`],
    ['HEAD', `HEAD / HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n`],
    ['a query', `GET /?x HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n`],
    ['another target', `GET // HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n`],
    ['an absolute target', `GET http://x/ HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n`],
    ['a length', framed('Content-Length: 5', 'GET /')],
    ['a length of 0', framed('Content-Length: 0')],
    ['chunks', framed('Transfer-Encoding: chunked', '5\r\nGET /\r\n0\r\n\r\n')],
  ]) {
    const { text, ended } = await spoken('question', odd + question);
    const got = statuses(text);
    assert.ok(got.length === 1 && [400, 403].includes(got[0]), `${what}: ${text.slice(0, 300)}`);
    assert.ok(ended, `${what}: csm closes the connection`);
  }
  for (const name of ['Origin', 'Sec-Fetch-Site', 'Sec-Fetch-Mode', 'Sec-Fetch-Dest', 'Sec-Purpose', 'Accept']) {
    const { text } = await spoken('question', framed(`${name}: a\r\n${name}: a`), 1);
    assert.deepEqual(statuses(text), [403], `${name} twice`);
  }
  await until('the question socket to respond', async () => statuses((await spoken('question', question, 1)).text)[0] === 401);
});

test('while csm does not answer, nginx passes no request on and says so', () =>
  on({ 'nginx.conf': (text) => text.replace('question.sock', 'gone.sock') }, async (stage) => {
    for (const label of ['ada', '3000--ada']) {
      const head = `GET / HTTP/1.1\r\nHost: ${stage.host(label)}\r\nSec-Fetch-Mode: navigate\r\nCookie: ${ALLOWED}\r\nConnection: close\r\n\r\n`;
      const answer = await answerTo(where(stage, label), head);
      assert.equal(answer.status, 503, answer.text.slice(0, 300));
      assert.match(answer.body, /<h1>Not available<\/h1>/);
    }
    assert.deepEqual(stage.arrived, []);
  }));
