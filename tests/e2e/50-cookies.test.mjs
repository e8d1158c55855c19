// Cookies that pages of other workspaces set, and csm's cookies, which must not reach a workspace.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fillIn, launch, lend, person, workbench } from './lib/browser.mjs';
import { running } from './lib/demo.mjs';
import { echo } from './lib/echo.mjs';
import { NAVIGATE, host, send } from './lib/http.mjs';
import { domain, origin } from './lib/place.mjs';
import { Visitor } from './lib/visitor.mjs';

const SESSION = '__Host-csm-session';
const WORKSPACE = '__Host-csm-workspace';
let ada;
let grace;
let browser;

before(async () => {
  await Promise.all([running('ada'), running('grace')]);
  await Promise.all([echo('ada', 3001), echo('grace', 3001)]);
  [ada, grace] = await Promise.all([Visitor.owner('ada', 'ada', '3001--ada'), Visitor.owner('grace', 'grace', '3001--grace')]);
  browser = await launch();
});
after(() => browser?.close());

/** Sends a request with exactly this Cookie header; the response shows which user csm takes it for. */
const dashboard = (cookie) => send({ headers: { ...NAVIGATE, Cookie: cookie } });
const port = (cookie) => send({ label: '3001--ada', headers: { ...NAVIGATE, Cookie: cookie } });

test('each cookie is host-only, HttpOnly and has the __Host- prefix', async () => {
  const visitor = new Visitor();
  const signedIn = await visitor.signIn('ada');
  const entered = await visitor.enter('ada');
  const set = [...signedIn.headers['set-cookie'], ...entered.headers['set-cookie']];
  assert.ok(set.length >= 4, set.join('\n'));
  // Each is set after its partitioned twin is deleted, because some browsers delete the cookie itself then.
  const deletes = (one) => one.includes('Partitioned; Max-Age=0');
  assert.deepEqual(set.filter(deletes).map((one) => one.split('=')[0]).sort(), set.filter((one) => !deletes(one)).map((one) => one.split('=')[0]).sort());
  assert.ok(signedIn.headers['set-cookie'].slice(0, 2).every(deletes), set.join('\n'));
  for (const one of set.filter((one) => !deletes(one))) {
    assert.match(one, /^__Host-csm-[a-z]+=[^;]*; Path=\/; Secure; HttpOnly; SameSite=Lax; Max-Age=\d+$/);
  }
});

test("a cookie whose name only decodes to that of csm's cookie is ignored", async () => {
  const value = ada.cookie('', SESSION);
  assert.equal((await dashboard(`${SESSION}=${value}`)).status, 200, 'the cookie itself is valid');
  for (const name of ['%5F%5FHost-csm-session', '__host-csm-session', '__Host-csm-session%00', ' __Host-csm-session x', '__Host-csm-sessio', '"__Host-csm-session"']) {
    const answer = await dashboard(`${name}=${value}`);
    assert.equal(answer.headers.location?.[0], '/sign-in', name);
  }
});

test('an invalid byte, or a decoy with another spelling, neither signs in nor signs out', async () => {
  const mine = `${SESSION}=${ada.cookie('', SESSION)}`;
  const others = grace.cookie('', SESSION);
  for (const decoy of ['a=\xff\xfe', `%5F%5FHost-csm-session=${others}`, '=', 'x', `a="b; c="`, 'é=ü']) {
    for (const cookie of [`${decoy}; ${mine}`, `${mine}; ${decoy}`]) {
      const answer = await dashboard(cookie);
      assert.equal(answer.status, 200, decoy);
      assert.match(answer.body, /<span class="who">ada/, decoy);
    }
  }
});

test('a cookie that occurs twice is ignored, in either order', async () => {
  const [mine, others] = [ada, grace].map((one) => `${SESSION}=${one.cookie('', SESSION)}`);
  for (const cookie of [`${mine}; ${others}`, `${others}; ${mine}`, `${mine}; ${mine}`, `${mine};${SESSION}=`]) {
    assert.equal((await dashboard(cookie)).headers.location?.[0], '/sign-in', cookie);
  }
  const twoHeaders = await send({ headers: [...Object.entries(NAVIGATE), ['Cookie', mine], ['Cookie', others]] });
  assert.notEqual(twoHeaders.status, 200, 'in two headers');
  const token = `${WORKSPACE}=${ada.cookie('3001--ada', WORKSPACE)}`;
  assert.equal((await port(token)).status, 200);
  assert.equal((await port(`${token}; ${token}`)).status, 303);
  // csm sets the others on other hostnames. nginx removes one of each, so the second one would reach the program.
  for (const name of [SESSION, '__Host-csm-nonce', '__Host-csm-device']) {
    for (const cookie of [`${token}; ${name}=a; ${name}=b`, `${name}=a; ${token}; x=1; ${name}=b`]) {
      assert.equal((await port(cookie)).status, 303, cookie.replace(token, 'token'));
    }
    assert.equal((await port(`${token}; ${name}=a`)).status, 200, `${name} once`);
  }
});

test('a token is valid only on its own hostname', async () => {
  const token = ada.cookie('ada', WORKSPACE);
  assert.equal((await send({ label: 'ada', target: '/healthz', headers: { Cookie: `${WORKSPACE}=${token}` } })).status, 200);
  for (const label of ['3001--ada', 'grace', '3001--grace']) {
    const answer = await send({ label, headers: { ...NAVIGATE, Cookie: `${WORKSPACE}=${token}` } });
    assert.equal(answer.status, 303, label);
    assert.ok(answer.headers.location[0].startsWith(`${origin('')}/open?handshake=`), label);
  }
  // A token is not a session, and a session is not a token.
  assert.equal((await dashboard(`${SESSION}=${token}`)).headers.location?.[0], '/sign-in');
  assert.equal((await port(`${WORKSPACE}=${ada.cookie('', SESSION)}`)).status, 303);
});

test("csm's cookies never reach a workspace's programs, whatever cookies surround them", async () => {
  const token = ada.cookie('3001--ada', WORKSPACE);
  const ours = ['session', 'nonce', 'device'].map((name) => `__Host-csm-${name}=canary-${name}`);
  const orders = [
    [`mine=1`, `${WORKSPACE}=${token}`, ...ours, 'yours=2'],
    [...ours, `${WORKSPACE}=${token}`, `mine=1`, 'yours=2'],
    [`mine=1`, 'yours=2', ...ours.toReversed(), `${WORKSPACE}=${token}`],
  ];
  for (const [order, glue] of orders.flatMap((order) => ['; ', ';', ' ;  '].map((glue) => [order, glue]))) {
    const answer = await port(order.join(glue));
    assert.equal(answer.status, 200, answer.body);
    const got = JSON.parse(answer.body).headers;
    assert.ok(!JSON.stringify(got).includes('csm-'), JSON.stringify(got.cookie));
    assert.ok(!JSON.stringify(got).includes(token.slice(0, 20)));
    assert.match(got.cookie[0], /mine=1/, "the program's own cookies reach it");
    assert.match(got.cookie[0], /yours=2/);
  }
  const alone = JSON.parse((await port(`${WORKSPACE}=${token}`)).body).headers;
  assert.equal((alone.cookie ?? ['']).join('').trim(), '', 'without other cookies the header is empty');
});

test("a backend gets one Host, and no forwarded host from the visitor", async () => {
  const cookie = `${WORKSPACE}=${ada.cookie('3001--ada', WORKSPACE)}`;
  const spoofed = { Cookie: cookie, Forwarded: 'host=evil.example', 'X-Forwarded-Host': 'evil.example', 'X-Csm-Site': 'label:grace' };
  const answer = await send({ label: '3001--ada', headers: { ...NAVIGATE, ...spoofed } });
  const got = JSON.parse(answer.body).headers;
  assert.ok(!JSON.stringify([got.host, got.forwarded, got['x-forwarded-host']]).includes('evil'), JSON.stringify(got));
  assert.deepEqual(got.host.length, 1);
});

test("in a real browser another workspace's domain-wide cookies change no user's identity", async () => {
  const { context, page } = await person(browser);
  // grace serves hostile pages on a port's hostname of her workspace. ada, signed in to her own workspace, opens one of them.
  await lend(context, 'grace', '3001--grace');
  await page.goto(origin('ada'));
  await fillIn(page, 'ada');
  await workbench(page);
  const stolen = grace.cookie('', SESSION);
  const plants = [
    `csm=1; Domain=${domain}; Path=/`,
    `__Host-csm-session=${stolen}; Domain=${domain}; Path=/; Secure`,
    `%5F%5FHost-csm-session=${stolen}; Domain=${domain}; Path=/`,
    `__host-csm-workspace=x; Domain=${domain}; Path=/`,
    `evil=\u00ff; Domain=${domain}; Path=/`,
  ];
  const query = plants.map((plant) => `toss=${encodeURIComponent(plant)}`).join('&');
  await page.goto(`${origin('3001--grace')}/?${query}`);
  const arrived = (await context.cookies(origin('ada'))).map((one) => one.name);
  assert.ok(arrived.includes('csm'), `the browser accepted the other workspace's cookies: ${arrived}`);
  await page.goto(origin(''));
  assert.match(await page.locator('.who').innerText(), /^ada/);
  await page.goto(origin('ada'));
  await workbench(page);
  await context.close();
});

test("another workspace's page that floods the cookie jar can at worst sign the user out, never sign in another user", async () => {
  const { context, page } = await person(browser);
  await lend(context, 'grace', '3001--grace');
  await page.goto(origin(''));
  await fillIn(page, 'ada');
  await page.locator('.who').waitFor();
  await page.goto(origin('3001--grace'));
  await page.evaluate((domain) => {
    for (let at = 0; at < 400; at++) document.cookie = `flood${at}=x; Domain=${domain}; Path=/`;
  }, domain);
  const answer = await page.goto(origin(''));
  const who = await page.locator('.who').allInnerTexts();
  assert.ok(answer.status() < 500, `${answer.status()}`);
  assert.ok(who.every((name) => name.startsWith('ada')), `${who}`);
  await context.close();
  assert.equal(host(''), new URL(origin('')).host);
});

// Chromium stores a cookie with the attribute `Partitioned` beside one of the same name without it, and sends both.
test("a page that sets csm's cookies a second time locks no user out: the next visit deletes them", async () => {
  const { context, page } = await person(browser);
  const site = origin('3001--ada');
  const twice = (name) => `${name}=x; Path=/; Secure; Partitioned; SameSite=None; Max-Age=31536000`;
  const arrives = async (what) => {
    const answer = await page.goto(`${site}/`);
    assert.equal(answer.status(), 200, what);
    assert.equal(page.url(), `${site}/`, what);
  };
  await page.goto(site);
  await fillIn(page, 'ada');
  await page.waitForURL(`${site}/**`);
  for (const name of [WORKSPACE, '__Host-csm-nonce']) {
    await page.evaluate((cookie) => (document.cookie = cookie), twice(name));
    await arrives(name);
    // Without a session on this hostname the visit goes through the sign-in.
    await page.evaluate((cookie) => (document.cookie = cookie), twice(name));
    await context.clearCookies({ name: WORKSPACE, domain: new URL(site).hostname });
    await arrives(`${name}, signed out on this hostname`);
    assert.ok(!(await page.evaluate(() => document.cookie)).includes('csm-'), `${name}, after a sign-in`);
  }
  for (const name of [SESSION, '__Host-csm-device']) {
    const planted = await page.evaluate(([plain, partitioned]) => {
      document.cookie = plain;
      document.cookie = partitioned;
      return document.cookie;
    }, [`${name}=y; Path=/; Secure`, twice(name)]);
    assert.equal(planted.split(`${name}=`).length, 3, `the browser stores both: ${planted}`);
    const answer = await page.goto(`${site}/`);
    assert.equal(answer.status(), 200, name);
    const reached = JSON.parse(await answer.text()).headers;
    assert.ok(!JSON.stringify(reached).includes('csm-'), `the program got ${reached.cookie}`);
  }
  await context.close();
});
