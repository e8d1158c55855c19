// Each layer of the defence alone stops a stranger's body from becoming a request, the others taken away; without all of them it does.
import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { running } from '../e2e/lib/demo.mjs';
import { csmRun, domain, port } from '../e2e/lib/place.mjs';
import { until } from '../e2e/lib/until.mjs';
import { Stage, asCsmWrites, asNixOsWrites } from './lib/stage.mjs';
import { answerTo, dial, talk } from './lib/wire.mjs';

const HIDDEN = 'GET /_csm/static/style.css HTTP/1.1\r\nX-Swallow: ';
const LABELS = ['ada', '3000--ada', 'nobody', ''];

// --- what takes a layer away ---

/** Every body goes on to csm, whoever sends it. */
const passBodies = (text) =>
  text
    .replaceAll('proxy_pass_request_body off;', 'proxy_pass_request_body on;')
    .replaceAll(/if \(\$csm_has_body\) \{[^}]*\}/g, '');
/** The lengths come from a variable that the question's subrequest has already set to nothing, as they did. */
const VARIABLE = `
map $uri $csm_layer_length {
    /_csm/authorize "";
    default         $content_length;
}
`;
const lengthsFromVariable = (text) => text.replaceAll('proxy_set_header Content-Length "";', 'proxy_set_header Content-Length $csm_layer_length;');
/** The lengths are right where a body is passed on: nginx computes them. */
const rightLengths = (text) => text.replaceAll(/proxy_set_header (Content-Length|Transfer-Encoding) "";\n/g, '');
/** The question goes to the front's socket, and csm's connections are kept, as they were. */
const oneSocket = (text) => text.replace('proxy_pass http://csm_question/;', 'proxy_pass http://csm_front/_csm/authorize;');
const keptFront = (text) => text.replace(/(upstream csm_front \{[^}]*front\.sock;)( keepalive \d+;)?/, '$1 keepalive 32;');
const keptHeader = (text) => text.replaceAll('proxy_set_header Connection close;', 'proxy_set_header Connection "";');

const all = (...changes) => (text) => changes.reduce((now, change) => change(now), text);
/** A kept connection to a csm that does not close it. */
const KEPT = { 'nginx.conf': keptFront };

/** As csm writes nginx.conf, and as the NixOS module does, with TLS. */
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

/** Attacks of all kinds, and strangers' visits between them; resolves with what the visits were answered. */
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
  assert.deepEqual([...new Set(statuses)], [401], 'a stranger stays one');
  assert.deepEqual(smuggled(stage).map(({ at, request }) => `${at}: ${request.head}`), [], 'nothing was taken for a request');
  assert.deepEqual(stage.broken, []);
  assert.deepEqual(['ada', 'grace', 'project'].flatMap((one) => stage.at(one)), [], 'nothing came to a workspace');
};

// --- each alone ---

test('all of them: the attack comes to nothing', () => on({}, holds));

test('only that no body is passed on: one kept socket for everything, lengths from a variable', () =>
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

test('only that lengths are right: every body is passed on, over one kept socket', () =>
  on({ ...KEPT, 'front.conf': all(passBodies, rightLengths, keptHeader), 'workspace.conf': all(passBodies, oneSocket) }, async (stage) => {
    const statuses = await siege(stage);
    assert.deepEqual([...new Set(statuses)], [401]);
    assert.deepEqual(smuggled(stage).map(({ request }) => request.head), [], 'no request by itself');
    assert.deepEqual(stage.broken, []);
    assert.ok(stage.at('front').some((request) => request.body.includes('X-Swallow')), 'the bodies did come, as bodies');
  }));

test("only that the question has a socket of its own: the front's connections are spoiled, and answer no question", () =>
  on({ ...KEPT, 'front.conf': all(passBodies, keptHeader), 'workspace.conf': passBodies }, async (stage) => {
    await siege(stage);
    const spoiled = [...smuggled(stage).map(({ at }) => at), ...stage.broken.map(({ at }) => at)];
    assert.deepEqual([...new Set(spoiled)], ['front'], 'the front reads them as requests, the question nothing of them');
    for (const request of stage.at('question')) {
      assert.equal(`${request.method} ${request.target}`, 'GET /');
      assert.equal(request.framed, false);
    }
    assert.deepEqual(['ada', 'grace', 'project'].flatMap((one) => stage.at(one)), [], 'and no workspace is open');
  }));

test('with all of them taken away the attack works', () =>
  on(
    { ...KEPT, 'http.conf': (text) => text + VARIABLE, 'front.conf': all(passBodies, lengthsFromVariable, keptHeader), 'workspace.conf': all(passBodies, oneSocket, lengthsFromVariable) },
    async (stage) => {
      const statuses = await siege(stage);
      assert.ok(smuggled(stage).length > 0, 'a body is read as a request');
      assert.ok(statuses.includes(200), `a stranger gets in: ${statuses}`);
      assert.ok(stage.at('ada').length > 0);
    },
  ));

// --- csm's own: its sockets, spoken to directly ---

const socketOf = (name) => `${csmRun}/${name}.sock`;
const from = (label, site) => `Host: ${label ? `${label}.` : ''}${domain}:${port}\r\nX-Csm-Site: ${site}\r\nX-Csm-Method: GET\r\nX-Csm-Uri: /\r\nX-Csm-Source: 127.0.0.1\r\n`;
const statuses = (text) => [...text.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => Number(status));

/** What comes back, and whether the server closed. Where the connection stays, `enough` answers are waited for. */
async function spoken(name, bytes, enough = Infinity) {
  const socket = await dial({ path: socketOf(name) });
  let ended = false;
  socket.on('end', () => (ended = true));
  const text = (await talk(socket, [bytes], { idle: 5000, done: (got) => statuses(got.toString('latin1')).length >= enough })).toString('latin1');
  return { text, ended };
}

before(() => running('ada'));

test('only that csm closes: two requests on one connection of the front get one answer and the end', async () => {
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
      assert.ok(ended, `${what}: the connection ends`);
      assert.match(text, /\r\nconnection: close\r\n/i, what);
    }
  }
});

test("the front answers no question, and the question's socket nothing else", async () => {
  const asked = await spoken('front', `GET /_csm/authorize HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n`);
  assert.deepEqual(statuses(asked.text), [404]);
  const question = `GET / HTTP/1.1\r\n${from('ada', 'label:ada')}\r\n`;
  const honest = await spoken('question', question + question, 2);
  assert.deepEqual(statuses(honest.text), [401, 401], 'the question, twice on a connection that stays');
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
    assert.ok(ended, `${what}: the connection ends`);
  }
  for (const name of ['Origin', 'Sec-Fetch-Site', 'Sec-Fetch-Mode', 'Sec-Fetch-Dest', 'Sec-Purpose', 'Accept']) {
    const { text } = await spoken('question', framed(`${name}: a\r\n${name}: a`), 1);
    assert.deepEqual(statuses(text), [403], `${name} twice`);
  }
  await until('the question to be answered', async () => statuses((await spoken('question', question, 1)).text)[0] === 401);
});
