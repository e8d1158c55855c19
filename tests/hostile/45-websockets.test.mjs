// Bytes that follow a WebSocket's handshake on the same connection: they must be its program's, or a request that is judged by itself.
import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { running } from '../e2e/lib/demo.mjs';
import { NAVIGATE, host } from '../e2e/lib/http.mjs';
import { origin, port } from '../e2e/lib/place.mjs';
import { Visitor } from '../e2e/lib/visitor.mjs';
import { program } from './lib/program.mjs';
import { answerTo, dial, talk } from './lib/wire.mjs';

const LABEL = '3060--ada';
let ada;
before(async () => {
  await Promise.all([running('ada'), running('grace')]);
  await program('ada', 'upgrade.mjs', 3060);
  ada = await Visitor.owner('ada', 'ada', LABEL);
});

const KEY = 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n';
const upgrade = (label, target, { from = origin(label), cookie = ada.cookies(label), rest = '' } = {}) =>
  `GET ${target} HTTP/1.1\r\nHost: ${host(label)}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n${KEY}${from === null ? '' : `Origin: ${from}\r\n`}${cookie ? `Cookie: ${cookie}\r\n` : ''}${rest}\r\n`;
/** A request without a cookie: wherever it is read as one, it is redirected to the sign-in or refused. */
const second = (label, target) => `GET ${target} HTTP/1.1\r\nHost: ${host(label)}\r\nSec-Fetch-Mode: navigate\r\nConnection: close\r\n\r\n`;
const exchange = async (...parts) => (await talk(await dial({ port }), parts, { idle: 1500 })).toString('latin1');
const statuses = (text) => [...text.matchAll(/HTTP\/1\.1 (\d{3})/g)].map((match) => Number(match[1]));
const seen = async () => JSON.parse((await ada.send({ label: LABEL, target: '/seen', headers: NAVIGATE })).body);

test('a request that follows a refused handshake is judged by itself', async () => {
  const before = await seen();
  for (const [what, first, status] of [
    ['a foreign Origin', upgrade(LABEL, '/accept', { from: 'http://evil.example' }), 403],
    ['no Origin', upgrade(LABEL, '/accept', { from: null }), 403],
    ['no cookie', upgrade(LABEL, '/accept', { cookie: '' }), 401],
    ['a foreign Origin, to the editor', upgrade('ada', '/', { from: 'http://evil.example' }), 403],
    ['a foreign Origin and a body', upgrade(LABEL, '/accept', { from: 'http://evil.example', rest: 'Content-Length: 5\r\n' }) + 'hello', 403],
  ]) {
    for (const target of ['/smuggled', '/_csm/authorize', '/_csm/wake']) {
      const answers = statuses(await exchange(first + second(LABEL, target)));
      assert.equal(answers[0], status, what);
      assert.ok(answers.length <= 2, `${what}: ${answers}`);
      assert.ok(answers.slice(1).every((one) => [303, 401, 403, 404].includes(one)), `${what}, ${target}: ${answers}`);
    }
  }
  assert.deepEqual(await seen(), before, 'nothing reached the program');
});

test('bytes that follow an accepted handshake reach its program only, also if they come before the response', async () => {
  for (const parts of [
    [upgrade(LABEL, '/accept') + second('grace', '/_csm/authorize')],
    [upgrade(LABEL, '/accept'), second('grace', '/_csm/authorize')],
  ]) {
    const text = await exchange(...parts);
    assert.deepEqual(statuses(text.slice(0, text.indexOf('\r\n\r\n'))), [101], text.slice(0, 300));
    const rest = text.slice(text.indexOf('\r\n\r\n') + 4);
    assert.equal(rest, second('grace', '/_csm/authorize'), 'the program returned the bytes, and nothing else answered them');
  }
  assert.ok(!(await seen()).includes('/_csm/authorize'));
});

test('a request that follows a handshake that the program refuses is judged by itself', async () => {
  const before = (await seen()).filter((one) => !one.startsWith('upgrade'));
  const answers = statuses(await exchange(upgrade(LABEL, '/refuse') + second(LABEL, '/smuggled')));
  assert.equal(answers[0], 200);
  assert.ok(answers.slice(1).every((one) => one === 303), `${answers}`);
  assert.deepEqual((await seen()).filter((one) => !one.startsWith('upgrade')), before);
  // The connection to code-server is not used again with bytes on it.
  for (let times = 0; times < 20; times++) {
    assert.equal((await ada.send({ label: LABEL, target: '/seen', headers: NAVIGATE })).status, 200);
    assert.equal((await ada.send({ label: 'ada', target: '/healthz', headers: NAVIGATE })).status, 200);
  }
});

test('several values of Upgrade, or another protocol, are not a way around the Origin', async () => {
  const before = await seen();
  for (const headers of ['Upgrade: h2c\r\n', 'Upgrade: websocket, h2c\r\n', 'Upgrade:\r\nUpgrade: websocket\r\n', 'Upgrade: x\r\nUpgrade: websocket\r\n', 'upgrade:websocket\r\n', 'Upgrade: \twebsocket\r\n']) {
    const refused = await answerTo({ port }, `GET /accept HTTP/1.1\r\nHost: ${host(LABEL)}\r\nConnection: Upgrade\r\n${headers}${KEY}Origin: http://evil.example\r\nCookie: ${ada.cookies(LABEL)}\r\n\r\n`);
    assert.equal(refused.status, 403, `${JSON.stringify(headers)}: ${refused.text.slice(0, 300)}`);
    const without = await answerTo({ port }, `GET /accept HTTP/1.1\r\nHost: ${host(LABEL)}\r\nConnection: Upgrade\r\n${headers}${KEY}Cookie: ${ada.cookies(LABEL)}\r\n\r\n`);
    assert.notEqual(without.status, 101, `${JSON.stringify(headers)} without an Origin: ${without.text.slice(0, 300)}`);
  }
  assert.deepEqual((await seen()).filter((one) => one.startsWith('upgrade')), before.filter((one) => one.startsWith('upgrade')));
});
