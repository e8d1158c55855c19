// Ports of a workspace, each on a separate hostname.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { atDashboard, fillIn, launch, none, person, terminal, atEditor, type } from './lib/browser.mjs';
import { give, running } from './lib/demo.mjs';
import { echo } from './lib/echo.mjs';
import { send } from './lib/http.mjs';
import { origin } from './lib/place.mjs';
import { until } from './lib/until.mjs';
import { handshake, say } from './lib/ws.mjs';
import { Visitor } from './lib/visitor.mjs';

let browser;
before(async () => {
  browser = await launch();
  await running('ada');
});
after(() => browser?.close());

test('the owner can open a web server that runs in a terminal', async () => {
  give('ada', 'index-of-test.html', '<h1>Served from inside</h1>');
  const { page, context, violations } = await person(browser);
  await atEditor(page, 'ada');
  await terminal(page);
  await type(page, 'cd ~/project && python3 -m http.server 3000');
  const tab = await context.newPage();
  const open = async () => {
    await tab.goto(`${origin('3000--ada')}/index-of-test.html`);
    return (await tab.locator('h1').allInnerTexts()).includes('Served from inside');
  };
  await until('the page', open, { seconds: 40, every: 500 });
  await context.close();
  none(violations);
});

test("a port is open to no other visitor: unauthenticated visitors get the sign-in, other users a page that names the owner", async () => {
  const anonymous = await send({ label: '3000--ada', headers: { 'Sec-Fetch-Mode': 'navigate' } });
  assert.equal(anonymous.status, 303);
  assert.ok(anonymous.headers.location[0].startsWith(`${origin('')}/open?handshake=`));
  const { page, context } = await person(browser);
  await page.goto(origin('3000--ada'));
  assert.match(await page.locator('.where').innerText(), /to open 3000--ada\.code\.localhost/);
  await fillIn(page, 'grace');
  await page.getByText('This workspace belongs to ada. You are signed in as grace.').waitFor();
  await context.close();
  const admin = await person(browser);
  await atDashboard(admin.page, 'ada');
  const answer = await admin.page.goto(origin('3000--grace'));
  assert.equal(answer.status(), 403);
  await admin.context.close();
});

test('uploads to a port have no size limit', async () => {
  await echo('ada', 3001);
  const owner = await Visitor.owner('ada', '3001--ada');
  const answer = await owner.send({ label: '3001--ada', method: 'POST', headers: { Origin: origin('3001--ada') }, body: 'x'.repeat(20 << 20) });
  assert.equal(answer.status, 200, answer.text.slice(0, 500));
  assert.equal(JSON.parse(answer.body).received, 20 << 20);
});

test('WebSockets to a port work', async () => {
  await echo('ada', 3001);
  const owner = await Visitor.owner('ada', '3001--ada');
  const open = await handshake({ label: '3001--ada', headers: { Cookie: owner.cookies('3001--ada') } });
  assert.equal(open.status, 101, open.body);
  assert.equal(await say(open.socket, 'hello'), 'hello');
  open.socket.destroy();
});

test("a port's page in a real browser can use its own WebSocket", async () => {
  await echo('ada', 3001);
  const { page, context } = await person(browser);
  await page.goto(origin('3001--ada'));
  await fillIn(page, 'ada');
  await page.waitForURL(`${origin('3001--ada')}/**`);
  const heard = await page.evaluate(
    () =>
      new Promise((resolve, reject) => {
        const socket = new WebSocket(`ws://${location.host}/`);
        socket.onopen = () => socket.send('ping');
        socket.onmessage = (event) => resolve(event.data);
        socket.onerror = () => reject(new Error('refused'));
      }),
  );
  assert.equal(heard, 'ping');
  await context.close();
});

test('a port without a listener does not show the wake page', async () => {
  const owner = await Visitor.owner('ada', '3999--ada');
  const answer = await owner.visit('3999--ada', '/');
  assert.notEqual(answer.status, 503, 'no wake page');
  assert.ok(answer.status >= 400 && answer.status < 600, `${answer.status}`);
  assert.match(answer.body, /ECONNREFUSED|refused|3999/, answer.body);
});
