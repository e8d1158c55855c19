// Which requests wake a workspace, and which never do.
import assert from 'node:assert/strict';
import { before, beforeEach, test } from 'node:test';
import { reaches, stopped } from './lib/demo.mjs';
import { NAVIGATE, send, workspace } from './lib/http.mjs';
import { inAccount, origin } from './lib/place.mjs';
import { handshake } from './lib/ws.mjs';
import { Visitor } from './lib/visitor.mjs';

let ada;
before(async () => (ada = await Visitor.owner('ada', 'ada', '3001--ada')));
beforeEach(() => stopped('ada'));

/** The number of container starts since a time, from Podman's events: evidence that does not come from csm. */
async function starts(since) {
  // Podman cuts the fraction of a second off.
  const until = new Date(Date.now() + 1000).toISOString();
  const asked = ['podman', 'events', '--stream=false', '--since', since, '--until', until, '--filter', 'container=csm-ada', '--filter', 'event=start'];
  const { status, stdout, stderr } = await inAccount(asked);
  assert.equal(status, 0, stderr);
  return stdout.split('\n').filter(Boolean).length;
}

test('200 visits of unauthenticated visitors start no workspace', async () => {
  const since = new Date().toISOString();
  const visits = Array.from({ length: 200 }, (_, at) => send({ label: at % 2 ? 'ada' : '3001--ada', headers: NAVIGATE }));
  for (const answer of await Promise.all(visits)) {
    assert.equal(answer.status, 303);
    assert.ok(answer.headers.location[0].startsWith(`${origin('')}/open?handshake=`));
  }
  assert.equal((await workspace('ada')).state, 'stopped');
  assert.equal(await starts(since), 0);
});

test('assets, fetches, WebSockets, prefetches, POST requests and other users start no workspace', async () => {
  const since = new Date().toISOString();
  const visit = (headers, rest = {}) => ada.send({ label: 'ada', headers, ...rest });
  const asleep = async (answer, what) => {
    assert.equal(answer.status, 503, what);
    assert.match(answer.body, /the workspace is not running; open it in a browser/, what);
  };
  await asleep(await visit({ 'Sec-Fetch-Mode': 'no-cors', 'Sec-Fetch-Dest': 'image' }), 'an image');
  await asleep(await visit({ 'Sec-Fetch-Mode': 'cors', 'Sec-Fetch-Site': 'same-origin' }), 'a fetch');
  await asleep(await visit({}), 'a program');
  await asleep(await visit({ ...NAVIGATE, 'Sec-Purpose': 'prefetch' }), 'a prefetch');
  await asleep(await visit({ ...NAVIGATE, 'Sec-Purpose': 'prefetch;prerender' }), 'a prerender');
  await asleep(await visit({ Origin: origin('ada'), Accept: 'text/html' }, { method: 'POST' }), 'a post');
  const socket = await handshake({ label: 'ada', headers: { Cookie: ada.cookies('ada') } });
  assert.equal(socket.status, 503, 'a WebSocket');
  const grace = new Visitor();
  await grace.signIn('grace');
  const begun = await grace.visit('ada');
  assert.equal((await grace.visit('', begun.headers.location[0].slice(origin('').length))).status, 403);
  assert.equal((await workspace('ada')).state, 'stopped');
  assert.equal(await starts(since), 0);
});

test("the owner's visit wakes a workspace, and a hundred concurrent visits start it once", async () => {
  const since = new Date().toISOString();
  const visits = Array.from({ length: 100 }, () => ada.visit('ada'));
  const answers = await Promise.all(visits);
  for (const answer of answers) assert.ok([503, 302, 200].includes(answer.status), `${answer.status}`);
  assert.ok(answers.some((answer) => answer.status === 503 && answer.body.includes('The editor opens automatically')));
  await reaches('ada', 'running');
  assert.equal((await workspace('ada')).reason, 'opened by ada');
  assert.equal(await starts(since), 1);
});

test("a visit to a port's hostname wakes the workspace too", async () => {
  const answer = await ada.visit('3001--ada');
  assert.equal(answer.status, 503);
  await reaches('ada', 'running');
});

test('malformed requests are refused and never reach a workspace', async () => {
  const cookie = ada.cookies('ada');
  for (const target of ['/_csm/authorize', '/_csm/wake', '/_csm/sign-in', '/%2e%2e/_csm/authorize', '/_csm/../_csm/authorize', '/_csm//authorize']) {
    const answer = await send({ label: 'ada', target });
    assert.ok(answer.status >= 300, `${target}: ${answer.status}`);
    assert.notEqual(answer.status, 204, target);
  }
  for (const target of ['/%', '/%zz', '/\x80\xff', `/${'a'.repeat(9000)}`, '/%00', '*']) {
    const answer = await send({ label: 'ada', target });
    assert.ok(answer.status >= 300 && answer.status !== 503, `${JSON.stringify(target.slice(0, 20))}: ${answer.status}`);
    assert.ok(!answer.body.includes('code-server'), target);
  }
  assert.ok(cookie.includes('__Host-csm-workspace='));
});
