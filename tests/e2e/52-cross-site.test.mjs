// Requests that other sites make, and hostnames that csm does not serve.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { fillIn, launch, lend, person } from './lib/browser.mjs';
import { running } from './lib/demo.mjs';
import { echo } from './lib/echo.mjs';
import { NAVIGATE, bytes, host, send, workspace } from './lib/http.mjs';
import { domain, origin, port } from './lib/place.mjs';
import { handshake } from './lib/ws.mjs';
import { Visitor } from './lib/visitor.mjs';

let ada;
let browser;
before(async () => {
  await Promise.all([running('ada'), running('grace')]);
  await echo('grace', 3001);
  ada = await Visitor.owner('ada', 'ada');
  browser = await launch();
});
after(() => browser?.close());

const csrf = async () => /\/stop\?csrf=([\w-]+)"/.exec((await ada.visit('')).body)[1];

test("csm accepts a change only from its own pages, with their token", async () => {
  const token = await csrf();
  const foreign = [origin('grace'), origin('ada'), 'null', undefined, 'https://evil.example', origin('').replace('http', 'https'), `${origin('')}0`, origin('').toUpperCase()];
  for (const Origin of foreign) {
    for (const target of ['/workspaces/ada/stop', '/workspaces/ada/restart', '/sign-out']) {
      const answer = await ada.post(`${target}?csrf=${token}`, {}, { Origin });
      assert.equal(answer.status, 403, `${target} from ${Origin}`);
      assert.match(answer.body, /The request did not come from a page of this site/);
    }
    const api = await ada.send({ target: '/api/v1/workspaces/ada/stop', method: 'POST', headers: { Origin } });
    assert.equal(api.status, 403, `API from ${Origin}`);
  }
  for (const wrong of [undefined, '', token.slice(1), `${token}x`]) {
    const answer = await ada.post(`/workspaces/ada/stop${wrong === undefined ? '' : `?csrf=${wrong}`}`, {});
    assert.equal(answer.status, 403, `token ${wrong}`);
  }
  assert.equal((await workspace('ada')).state, 'running', 'no request stopped the workspace');
  assert.equal((await ada.visit('')).status, 200, 'no request signed the user out');
});

test('only POST is accepted, and no token in a body', async () => {
  const token = await csrf();
  for (const method of ['GET', 'HEAD', 'PUT', 'DELETE', 'PATCH', 'get']) {
    const answer = await ada.send({ target: '/workspaces/ada/stop', method, headers: { Origin: origin('') } });
    assert.ok([404, 405, 400].includes(answer.status), `${method}: ${answer.status}`);
  }
  const plain = await ada.send({
    target: '/workspaces/ada/stop',
    method: 'POST',
    body: `csrf=${token}`,
    headers: { Origin: origin(''), 'Content-Type': 'text/plain' },
  });
  assert.equal(plain.status, 403, 'the body does not reach csm');
  assert.equal((await workspace('ada')).state, 'running');
});

test("another workspace's page in a real browser can't stop a workspace, sign out, read or connect", async () => {
  const { page, context } = await person(browser);
  await lend(context, 'grace', '3001--grace');
  await page.goto(origin('ada'));
  await fillIn(page, 'ada');
  await page.waitForURL(`${origin('ada')}/**`);
  await page.goto(origin('3001--grace'));
  const got = await page.evaluate(
    async ({ dashboard, ada }) => {
      const tell = (work) => work.then((answer) => `${answer.type} ${answer.status}`).catch((error) => error.name);
      const form = (type) => ({ method: 'POST', mode: 'no-cors', credentials: 'include', body: 'csrf=x', headers: { 'content-type': type } });
      const socket = (url) =>
        new Promise((resolve) => {
          const one = new WebSocket(url);
          one.onopen = () => resolve('open');
          one.onerror = () => resolve('refused');
        });
      return {
        form: await tell(fetch(`${dashboard}/workspaces/ada/stop`, form('application/x-www-form-urlencoded'))),
        plain: await tell(fetch(`${dashboard}/api/v1/workspaces/ada/stop`, form('text/plain'))),
        out: await tell(fetch(`${dashboard}/sign-out`, form('application/x-www-form-urlencoded'))),
        read: await tell(fetch(`${dashboard}/api/v1/workspaces`, { credentials: 'include' })),
        editor: await tell(fetch(`${ada}/healthz`, { credentials: 'include' })),
        socket: await socket(`${ada.replace('http', 'ws')}/`),
      };
    },
    { dashboard: origin(''), ada: origin('ada') },
  );
  assert.equal(got.read, 'TypeError', 'unreadable');
  assert.equal(got.editor, 'TypeError', 'unreadable');
  assert.equal(got.socket, 'refused');
  assert.equal((await workspace('ada')).state, 'running', JSON.stringify(got));
  // A form that navigates sends the cookies, and csm must refuse it too.
  await page.setContent(`<form method="post" action="${origin('')}/sign-out"><button>x</button></form>`);
  const answered = page.waitForResponse((answer) => answer.url().endsWith('/sign-out'));
  await page.getByRole('button').click();
  assert.equal((await answered).status(), 403);
  await page.goto(origin(''));
  assert.match(await page.locator('.who').innerText(), /^ada/, 'still signed in');
  await context.close();
});

test("only pages of an editor's own hostname can open its WebSocket", async () => {
  const cookies = { Cookie: ada.cookies('ada') };
  const connect = (from, headers = {}) => handshake({ label: 'ada', from, headers: { ...cookies, ...headers }, target: '/stable-x?type=Management' });
  const own = await connect(origin('ada'));
  assert.equal(own.status, 101, 'its own page connects');
  own.socket.destroy();
  const others = [null, 'null', origin('grace'), origin(''), origin('3001--ada'), 'http://evil.example', `http://ada.${domain}`, `http://ada.${domain}:${port + 1}`,
    origin('ada').replace('http:', 'https:'), origin('ADA'), `${origin('ada')}.evil.example`, `${origin('ada')}/`, `http://evil@ada.${domain}:${port}`];
  for (const from of others) {
    for (const upgrade of ['websocket', 'WebSocket', 'WEBSOCKET']) {
      const answer = await handshake({ label: 'ada', from, upgrade, headers: cookies, target: '/stable-x?type=Management' });
      assert.equal(answer.status, 403, `${upgrade} from ${from}`);
    }
  }
  const stranger = await handshake({ label: 'ada', target: '/stable-x?type=Management' });
  assert.equal(stranger.status, 401, 'without a cookie the response is 401, not a redirect');
  const spoofed = await connect('http://evil.example', { Forwarded: 'host=evil.example', 'X-Forwarded-Host': 'evil.example' });
  assert.equal(spoofed.status, 403);
});

test('the same rule applies to a request with a body', async () => {
  for (const Origin of [undefined, 'null', origin('grace'), origin('')]) {
    const answer = await ada.send({ label: 'ada', target: '/mint-key', method: 'POST', headers: { Origin } });
    assert.equal(answer.status, 403, `from ${Origin}`);
    assert.match(answer.body, /Request refused/);
  }
});

test("pages of other workspaces may link to an editor, but can't embed or fetch it", async () => {
  const cookie = ada.cookies('ada');
  const from = (site, mode, dest) => send({ label: 'ada', target: '/healthz', headers: { Cookie: cookie, 'Sec-Fetch-Site': site, 'Sec-Fetch-Mode': mode, 'Sec-Fetch-Dest': dest } });
  assert.equal((await from('same-site', 'navigate', 'document')).status, 200, 'a link');
  assert.equal((await from('none', 'navigate', 'document')).status, 200, 'the address bar');
  assert.equal((await from('same-site', 'no-cors', 'image')).status, 403, 'an image');
  assert.equal((await from('same-site', 'no-cors', 'script')).status, 403, 'a script');
  assert.equal((await from('cross-site', 'cors', 'empty')).status, 403, 'a fetch');
  assert.equal((await from('same-site', 'navigate', 'iframe')).status, 403, 'a frame');
});

test('requests for other hostnames are misdirected, and sign in no user', async () => {
  const session = `__Host-csm-session=${ada.cookie('', '__Host-csm-session')}`;
  const token = ada.cookies('ada');
  const wrong = ['evil.example', `${domain}.evil.example:${port}`, `evil${domain}:${port}`, `ada.${domain}.:${port}`, `ada.${domain}`, `ada.${domain}:${port + 1}`,
    `a.ada.${domain}:${port}`, `127.0.0.1:${port}`, `localhost:${port}`, `[::1]:${port}`, `evil@${host('ada')}`, `${host('ada')}@evil.example`, `xada.${domain}:0${port}`];
  for (const Host of wrong) {
    const answer = await send({ target: '/', headers: { ...NAVIGATE, Host, Cookie: `${session}; ${token}` } });
    assert.ok([400, 421].includes(answer.status), `${Host}: ${answer.status}`);
    assert.equal(answer.headers.location, undefined, Host);
  }
});

test('a second Host, or a target with another hostname, is refused', async () => {
  const session = `__Host-csm-session=${ada.cookie('', '__Host-csm-session')}`;
  const two = await send({ headers: [['Host', host('')], ['Host', host('ada')], ['Cookie', session]] });
  assert.equal(two.status, 400);
  const none = await bytes(`GET / HTTP/1.1\r\nCookie: ${session}\r\nConnection: close\r\n\r\n`);
  assert.equal(none.status, 400);
  // nginx selects the server block by the target, and the programs behind it use Host: the two must agree.
  for (const [target, Host] of [
    [`http://${host('')}/`, host('ada')],
    [`http://${host('ada')}/`, host('')],
    [`http://${host('')}/`, 'evil.example'],
    ['http://evil.example/', host('')],
  ]) {
    const answer = await send({ target, headers: { ...NAVIGATE, Host, Cookie: `${session}; ${ada.cookies('ada')}` } });
    assert.ok([400, 421].includes(answer.status), `${target} with Host ${Host}: ${answer.status}`);
  }
  const pinned = await send({ headers: { ...NAVIGATE, 'X-Csm-Site': 'label:ada', Host: host('grace'), Cookie: ada.cookies('ada') } });
  assert.equal(pinned.status, 303, "only nginx sets csm's headers");
});
