// The handshake, by which a session on the dashboard leads to a workspace's cookie.
import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { running } from './lib/demo.mjs';
import { NAVIGATE, host, send } from './lib/http.mjs';
import { demoLog, origin, read } from './lib/place.mjs';
import { Visitor, to } from './lib/visitor.mjs';

before(() => running('ada'));

const HOSTILE = [
  '//evil.example/',
  '///evil.example/',
  '////evil.example',
  '/\\evil.example/',
  '/\\\\evil.example',
  '/%5Cevil.example',
  '/%09/evil.example',
  '/%2F%2Fevil.example',
  '/.//evil.example',
  '/@evil.example/',
  '/:80@evil.example/',
  '/;@evil.example',
  '/?to=//evil.example',
  '/https://evil.example/',
  '/javascript:alert(1)',
  '/%0d%0aLocation:%20//evil.example',
  '/%E3%80%82evil.example',
];

test('no target of a handshake leads to another hostname', async () => {
  for (const target of HOSTILE) {
    if (/[\\#]/.test(target)) {
      // Programs read such a target in different ways, so nginx refuses it.
      assert.equal((await send({ label: 'ada', target, headers: NAVIGATE })).status, 400, target);
      continue;
    }
    // A new browser each time: one that is signed in to the workspace needs no handshake.
    const visitor = new Visitor();
    await visitor.signIn('ada');
    const landed = await visitor.enter('ada', target);
    assert.equal(landed.status, 303, `${target}: ${landed.body}`);
    // As a browser resolves the URL, it has the same hostname, whatever the path looks like.
    to(landed, 'ada');
    assert.ok(landed.headers.location[0].startsWith(`${origin('ada')}/`), landed.headers.location[0]);
    assert.equal(landed.headers.location.length, 1, 'one Location');
  }
});

test('nginx refuses a target that is not a path, or csm ignores it', async () => {
  for (const target of ['/#//evil.example', '/\t/evil.example', '/ /evil.example', 'evil.example', '//', '/\x01']) {
    const answer = await send({ label: 'ada', target, headers: NAVIGATE });
    if (answer.status !== 303) assert.equal(answer.status, 400, JSON.stringify(target));
    else assert.ok(answer.headers.location[0].startsWith(`${origin('')}/open?handshake=`), answer.headers.location[0]);
  }
});

test('csm ignores or refuses a handshake id that it did not create', async () => {
  const visitor = new Visitor();
  for (const id of ['//evil.example', 'a%0d%0aX: y', '"><script>', 'x&y=//evil', 'A'.repeat(5000)]) {
    const form = await visitor.visit('', `/sign-in?handshake=${encodeURIComponent(id)}`);
    assert.ok(!form.body.includes('<script>'), 'escaped');
    const { headers } = await new Visitor().signIn('ada', id);
    assert.match(headers.location[0], /^\/(open\?handshake=[\w-]*)?$/);
  }
  const signedIn = new Visitor();
  await signedIn.signIn('ada');
  const stale = await signedIn.visit('', '/open?handshake=neverbegun');
  assert.equal(stale.status, 400);
  assert.match(stale.body, /This sign-in has expired/);
});

test('a code is valid once', async () => {
  const visitor = new Visitor();
  await visitor.signIn('ada');
  const { callback } = await visitor.handshake('ada', '/there');
  const nonce = visitor.cookie('ada', '__Host-csm-nonce');
  assert.equal((await visitor.visit('ada', callback)).status, 303);
  const replay = await visitor.visit('ada', callback, { Cookie: `__Host-csm-nonce=${nonce}` });
  assert.equal(replay.status, 400);
  assert.match(replay.body, /This sign-in has expired/);
  assert.equal(replay.headers['set-cookie'], undefined);
});

test('a code is valid only on its own hostname, in the browser that started the handshake', async () => {
  const visitor = new Visitor();
  await visitor.signIn('ada');
  for (const spoil of [
    (callback, cookie) => ({ label: '3001--ada', target: callback, headers: { ...NAVIGATE, Cookie: cookie } }),
    (callback, cookie) => ({ label: 'grace', target: callback, headers: { ...NAVIGATE, Cookie: cookie } }),
    (callback) => ({ label: 'ada', target: callback, headers: NAVIGATE }),
    (callback) => ({ label: 'ada', target: callback, headers: { ...NAVIGATE, Cookie: `__Host-csm-nonce=${'x'.repeat(43)}` } }),
    (callback, cookie) => ({ label: 'ada', target: callback, headers: { ...NAVIGATE, Cookie: `${cookie}; ${cookie}` } }),
  ]) {
    const { callback } = await visitor.handshake('ada');
    const cookie = `__Host-csm-nonce=${visitor.cookie('ada', '__Host-csm-nonce')}`;
    const answer = await send(spoil(callback, cookie));
    assert.equal(answer.status, 400, answer.body);
    // A nonce that occurs twice is deleted.
    assert.ok((answer.headers['set-cookie'] ?? []).every((set) => set.endsWith('Partitioned; Max-Age=0')), answer.text.slice(0, 500));
    // The attempt used the code up: even the right browser can't use it now.
    assert.equal((await visitor.visit('ada', callback)).status, 400);
  }
  const { callback } = await visitor.handshake('ada');
  const guess = await visitor.visit('ada', `${callback}x`);
  assert.equal(guess.status, 400, 'a wrong code');
  assert.equal((await visitor.visit('ada', callback)).status, 303, 'a wrong code does not use up the right one');
});

test('a user without access gets no code, and no page can leak one', async () => {
  const grace = new Visitor();
  await grace.signIn('grace');
  const begun = await grace.visit('ada', '/');
  const answer = await grace.visit('', to(begun, ''));
  assert.equal(answer.status, 403);
  assert.ok(!answer.body.includes('code='));
  const ada = new Visitor();
  await ada.signIn('ada');
  const landed = await ada.enter('ada');
  assert.equal(landed.headers['referrer-policy'][0], 'no-referrer');
  assert.equal(landed.headers['cache-control'][0], 'no-store');
});

test('many handshakes of unauthenticated visitors store nothing, and a user who started one before them can complete it', async () => {
  const before = new Visitor();
  const begun = await before.visit('ada', '/there');
  const many = Array.from({ length: 200 }, () => send({ label: 'ada', headers: NAVIGATE }));
  for (const answer of await Promise.all(many)) assert.equal(answer.status, 303);
  await before.signIn('ada');
  const granted = await before.visit('', to(begun, ''));
  assert.equal((await before.visit('ada', to(granted, 'ada'))).headers.location[0], `${origin('ada')}/there`);
});

test("no response of csm's can be framed, sniffed or cached", async () => {
  const visitor = await Visitor.owner('ada');
  for (const [label, target] of [['', '/'], ['', '/sign-in'], ['', '/nothing'], ['nobody', '/'], ['ada', '/_csm/nothing']]) {
    const { headers } = await visitor.visit(label, target);
    assert.match(headers['content-security-policy'][0], /default-src 'none'.*frame-ancestors 'none'/, target);
    assert.equal(headers['x-frame-options'][0], 'DENY');
    assert.equal(headers['x-content-type-options'][0], 'nosniff');
    // With no-referrer browsers would send `Origin: null` with csm's own forms.
    assert.equal(headers['referrer-policy'][0], 'same-origin');
    assert.equal(headers['cache-control'][0], 'no-store');
    assert.equal(headers.server?.[0] ?? 'nginx', 'nginx', 'no version');
  }
  assert.equal(host('ada').includes(':'), true);
  assert.ok(!read(demoLog).includes('panicked'), 'no part of csm panicked');
});
