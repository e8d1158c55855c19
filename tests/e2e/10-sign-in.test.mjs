// Sign-in, sign-out and refusals, as users see them in a browser.
import assert from 'node:assert/strict';
import { after, before, beforeEach, afterEach, test } from 'node:test';
import { atDashboard, atEditor, fillIn, launch, none, person, workbench } from './lib/browser.mjs';
import { running, stopped } from './lib/demo.mjs';
import { origin } from './lib/place.mjs';
import { until } from './lib/until.mjs';

let browser;
let at;
before(async () => (browser = await launch()));
after(() => browser?.close());
beforeEach(async () => (at = await person(browser)));
afterEach(async () => {
  await at.context.close();
  none(at.violations);
});

test('a bookmark of a stopped workspace leads through sign-in and wake page to the editor at the same address', async () => {
  await stopped('ada');
  const { page } = at;
  const deep = `${origin('ada')}/?folder=/home/coder/project&kept=yes`;
  await page.goto(deep);
  assert.equal(new URL(page.url()).host, new URL(origin('')).host, "the sign-in form is on the dashboard's hostname");
  assert.match(await page.locator('.where').innerText(), /to open ada\.code\.localhost/);
  await page.getByLabel('Name').fill('ada');
  const seen = [];
  page.on('framenavigated', (frame) => frame === page.mainFrame() && seen.push(frame.url()));
  const wake = page.waitForSelector('#status progress');
  await fillIn(page, 'ada');
  await wake;
  assert.match(await page.locator('h1').innerText(), /^ada\.code\.localhost$/);
  // From here on the user does nothing.
  await workbench(page);
  assert.ok(seen.includes(deep), `the bookmark's address: ${seen.join(' ')}`);
  assert.equal(new URL(page.url()).searchParams.get('folder'), '/home/coder/project');
  assert.ok(!page.url().includes('code='), 'no code stays in the address');
});

test('a user can sign in and start a workspace with the keyboard only', async () => {
  await stopped('ada');
  const { page } = at;
  await page.goto(origin(''));
  await page.locator('input[name=name]:focus').waitFor();
  await page.keyboard.type('ada');
  await page.keyboard.press('Tab');
  await page.keyboard.type((await import('./lib/place.mjs')).password('ada'));
  await page.keyboard.press('Enter');
  const start = page.locator('#start-ada');
  await start.waitFor();
  for (let tries = 0; !(await start.evaluate((node) => node === document.activeElement)); tries++) {
    assert.ok(tries < 20, 'the Tab key reaches Start');
    await page.keyboard.press('Tab');
  }
  const outline = await start.evaluate((node) => getComputedStyle(node).outlineStyle);
  assert.notEqual(outline, 'none', 'the focus is visible');
  await page.keyboard.press('Enter');
  await page.locator('#ws-ada .state.running').waitFor({ timeout: 60_000 });
});

test('after a wrong password the form keeps the name, and an unknown name gets the same message', async () => {
  const { page } = at;
  await page.goto(origin('ada'));
  const refusals = [];
  for (const [name, secret] of [
    ['ada', 'wrong'],
    ['nobody', 'wrong'],
    ['Not A Name!', 'wrong'],
  ]) {
    const answered = page.waitForResponse((answer) => answer.request().method() === 'POST');
    await fillIn(page, name, secret);
    assert.equal((await answered).status(), 401, name);
    assert.equal(await page.getByLabel('Name').inputValue(), name);
    assert.equal(await page.getByLabel('Password').inputValue(), '');
    refusals.push(await page.getByRole('alert').innerText());
  }
  assert.deepEqual(refusals, Array(3).fill('Wrong name or password.'));
  // The handshake continues: after the right password the visitor reaches the address that they opened.
  await running('ada');
  await fillIn(page, 'ada');
  await workbench(page);
});

test("another user's workspace is refused, and the page names its owner", async () => {
  const { page } = at;
  await atDashboard(page, 'grace');
  const answer = await page.goto(origin('ada'));
  assert.equal(answer.status(), 403);
  assert.match(await page.locator('main').innerText(), /^Not your workspace\n\nThis workspace belongs to ada\. You are signed in as grace\.\n/);
  await page.getByRole('link', { name: 'Your dashboard' }).click();
  await page.getByRole('heading', { name: 'Your workspace' }).waitFor();
});

test("an admin can't open another user's workspace either", async () => {
  const { page } = at;
  await atDashboard(page, 'ada');
  const answer = await page.goto(origin('grace'));
  assert.equal(answer.status(), 403);
  assert.match(await page.locator('main').innerText(), /belongs to grace\. You are signed in as ada/);
});

test('a sign-out ends the session on dashboard and workspace, within the 5 s for which nginx caches an allowed request', async () => {
  await running('grace');
  const { page } = at;
  await atEditor(page, 'grace');
  const tab = await at.context.newPage();
  await tab.goto(origin(''));
  await tab.getByRole('button', { name: 'Sign out' }).click();
  await tab.getByLabel('Password').waitFor();
  const began = Date.now();
  const asks = async () => {
    await page.goto(origin('grace'));
    return page.url().startsWith(`${origin('')}/sign-in?handshake=`);
  };
  await until('the workspace to ask for a sign-in', asks, { seconds: 8 });
  assert.ok(Date.now() - began < 6500, `it took ${Date.now() - began} ms`);
  await tab.goto(origin(''));
  assert.equal(new URL(tab.url()).pathname, '/sign-in');
});

test("an unknown label shows csm's page, not a browser error", async () => {
  const { page } = at;
  const answer = await page.goto(origin('nobody'));
  assert.equal(answer.status(), 404);
  assert.match(await page.locator('main').innerText(), /^Not found\s+There is no workspace at this address/);
  assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector('.panel')).borderTopStyle), 'solid', 'it is styled');
});
