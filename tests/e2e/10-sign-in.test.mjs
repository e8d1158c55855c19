// Signing in, out, and being told no, as people do it in a browser.
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

test('a bookmark of a sleeping workspace: sign in, see it wake, land in the editor at the same address', async () => {
  await stopped('ada');
  const { page } = at;
  const deep = `${origin('ada')}/?folder=/home/coder/project&kept=yes`;
  await page.goto(deep);
  assert.equal(new URL(page.url()).host, new URL(origin('')).host, 'the password is asked on the dashboard host');
  assert.match(await page.locator('.where').innerText(), /to open ada\.code\.localhost/);
  await page.getByLabel('Name').fill('ada');
  const seen = [];
  page.on('framenavigated', (frame) => frame === page.mainFrame() && seen.push(frame.url()));
  const wake = page.waitForSelector('#status progress');
  await fillIn(page, 'ada');
  await wake;
  assert.match(await page.locator('h1').innerText(), /^ada\.code\.localhost$/);
  // Nobody touches anything from here on.
  await workbench(page);
  assert.ok(seen.includes(deep), `the bookmark's address: ${seen.join(' ')}`);
  assert.equal(new URL(page.url()).searchParams.get('folder'), '/home/coder/project');
  assert.ok(!page.url().includes('code='), 'no code stays in the address');
});

test('keyboard alone: sign in and start', async () => {
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
    assert.ok(tries < 20, 'Start is reached with the Tab key');
    await page.keyboard.press('Tab');
  }
  const outline = await start.evaluate((node) => getComputedStyle(node).outlineStyle);
  assert.notEqual(outline, 'none', 'the focus is visible');
  await page.keyboard.press('Enter');
  await page.locator('#ws-ada .state.running').waitFor({ timeout: 60_000 });
});

test('a wrong password stays on the form, keeps the name, and an unknown name gets the same words', async () => {
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
  assert.deepEqual(refusals, Array(3).fill('That name and password do not belong together.'));
  // The handshake is still the same: the right password leads on to where the visitor was going.
  await running('ada');
  await fillIn(page, 'ada');
  await workbench(page);
});

test("another person's workspace is refused, and the page says whose it is", async () => {
  const { page } = at;
  await atDashboard(page, 'grace');
  const answer = await page.goto(origin('ada'));
  assert.equal(answer.status(), 403);
  assert.match(await page.locator('main').innerText(), /^Not yours\n\nThis workspace belongs to ada\. You are signed in as grace\.\n/);
  await page.getByRole('link', { name: 'Your dashboard' }).click();
  await page.getByRole('heading', { name: 'Your workspace' }).waitFor();
});

test('an admin does not get into the workspace of another either', async () => {
  const { page } = at;
  await atDashboard(page, 'ada');
  const answer = await page.goto(origin('grace'));
  assert.equal(answer.status(), 403);
  assert.match(await page.locator('main').innerText(), /belongs to grace\. You are signed in as ada/);
});

test('signing out ends dashboard and workspace alike, within the 5 s for which an answer is kept', async () => {
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

test('a label that nobody has is a page, not an error of the browser', async () => {
  const { page } = at;
  const answer = await page.goto(origin('nobody'));
  assert.equal(answer.status(), 404);
  assert.match(await page.locator('main').innerText(), /^Nothing here\s+No workspace has this address/);
  assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector('.panel')).borderTopStyle), 'solid', 'it is styled');
});
