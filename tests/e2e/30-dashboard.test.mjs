// The dashboard: which user sees which workspace, and updates without a reload.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { atDashboard, card, launch, none, person, state } from './lib/browser.mjs';
import { operator } from './lib/http.mjs';
import { reaches, running, stopped } from './lib/demo.mjs';

let browser;
before(async () => (browser = await launch()));
after(() => browser?.close());

test('an admin sees all workspaces, other users only their own', async () => {
  const [ada, grace] = [await person(browser), await person(browser)];
  await atDashboard(ada.page, 'ada');
  await atDashboard(grace.page, 'grace');
  assert.deepEqual(await ada.page.locator('h2').allInnerTexts(), ['ada', 'grace'], "the admin's own workspace first");
  assert.deepEqual(await grace.page.locator('h2').allInnerTexts(), ['grace']);
  assert.equal(await card(ada.page, 'grace').getByRole('link', { name: 'Open' }).count(), 0, "no link to another user's workspace");
  assert.equal(await grace.page.locator('.notice').count(), 0, 'only admins see notices about the host');
  const log = await grace.page.goto(`${new URL(grace.page.url()).origin}/workspaces/ada/log`);
  assert.equal(log.status(), 404);
  assert.match(await grace.page.locator('main').innerText(), /There is no workspace "ada"\./);
  for (const one of [ada, grace]) {
    await one.context.close();
    none(one.violations);
  }
});

test('the dashboard shows changes from elsewhere without a reload', async () => {
  await stopped('grace');
  const { page, context, violations } = await person(browser);
  await atDashboard(page, 'ada');
  await page.evaluate(() => (window.unreloaded = true));
  const words = [];
  await page.exposeFunction('noted', (word) => words.push(word));
  await page.evaluate(() =>
    new MutationObserver(() => window.noted(document.querySelector('#ws-grace .state').textContent)).observe(
      document.querySelector('main'),
      { childList: true },
    ),
  );
  await operator('/api/v1/workspaces/grace/start', { method: 'POST' });
  await page.locator('#ws-grace .state.running').waitFor({ timeout: 60_000 });
  assert.ok(words.includes('starting'), `the dashboard also showed the intermediate state: ${words}`);
  assert.match(await card(page, 'grace').locator('.reason').innerText(), /started by the command line/);
  // csm measures while a dashboard is open.
  await card(page, 'grace').locator('meter').first().waitFor();
  assert.match(await card(page, 'grace').locator('dl').innerText(), /\d+ (MiB|GiB) of 3 GiB/);
  await operator('/api/v1/workspaces/grace/stop', { method: 'POST' });
  await page.locator('#ws-grace .state.stopped').waitFor();
  assert.equal(await page.evaluate(() => window.unreloaded), true);
  await context.close();
  none(violations);
});

test('the buttons work with pointer and keyboard, and keep the keyboard focus', async () => {
  await running('ada');
  const { page, context, violations } = await person(browser);
  await atDashboard(page, 'ada');
  await page.locator('#restart-ada').click();
  await page.locator('#ws-ada .state.running').waitFor({ timeout: 60_000 });
  await reaches('ada', 'running');
  await page.locator('#stop-ada').focus();
  await page.keyboard.press('Enter');
  await page.locator('#ws-ada .state.stopped').waitFor();
  await page.locator('#start-ada').click();
  await page.locator('#ws-ada .state.running').waitFor({ timeout: 60_000 });
  assert.equal(await state(page, 'ada').innerText(), 'running');
  await context.close();
  none(violations);
});

test("the log page shows the workspace's output", async () => {
  await running('ada');
  const { page, context, violations } = await person(browser);
  await atDashboard(page, 'ada');
  await page.locator('#log-ada').click();
  await page.getByRole('heading', { name: 'Log of ada' }).waitFor();
  assert.match(await page.getByLabel('Log', { exact: true }).innerText(), /code-server \d+\.\d+|HTTP server listening/);
  await context.close();
  none(violations);
});

test("the dashboard names the limits that this host can't enforce", async (t) => {
  const notes = await operator('/api/v1/workspaces').then(() => operator('/metrics'));
  assert.equal(notes.status, 200);
  const { page, context } = await person(browser);
  await atDashboard(page, 'ada');
  const shown = await page.locator('#notices').innerText();
  await context.close();
  const { inAccount } = await import('./lib/place.mjs');
  const asked = await inAccount(['podman', 'info', '--format', '{{json .Host.CgroupControllers}}']);
  const controllers = JSON.parse(asked.stdout) ?? [];
  const missing = ['memory', 'cpu', 'pids'].filter((one) => !controllers.includes(one));
  if (missing.length === 0) return t.skip('this host enforces every limit, so the dashboard shows no notice');
  for (const word of missing) assert.match(shown, new RegExp({ memory: 'memory', cpu: 'CPU', pids: 'process|task' }[word], 'i'));
});
