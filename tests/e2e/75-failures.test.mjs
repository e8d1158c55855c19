// Workspaces that can't start: the page shows the reason, and other workspaces are not affected.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { after, before, test } from 'node:test';
import { atDashboard, fillIn, launch, none, person, workbench } from './lib/browser.mjs';
import { declare, putInForce, reaches, running, stopped } from './lib/demo.mjs';
import { operator, workspace } from './lib/http.mjs';
import { csm, inAccount, inside, origin } from './lib/place.mjs';

const BROKEN = 'localhost/csm-test-broken:latest';
let browser;
let good;

/** A minimal image, whose only program is a shell that prints a line and exits. */
async function makeBrokenImage() {
  const root = mkdtempSync(`${tmpdir()}/csm-broken-`);
  mkdirSync(`${root}/bin`);
  writeFileSync(`${root}/sh.c`, '#include <stdio.h>\nint main(void) { fprintf(stderr, "broken on purpose\\n"); return 7; }\n');
  execFileSync('cc', ['-static', '-o', `${root}/bin/sh`, `${root}/sh.c`]);
  const tar = execFileSync('tar', ['-C', root, '-c', 'bin']);
  const imported = await inAccount(['podman', 'import', '-', BROKEN], { input: tar });
  assert.equal(imported.status, 0, imported.stderr);
}

before(async () => {
  browser = await launch();
  await makeBrokenImage();
  await running('ada');
});
after(async () => {
  await browser?.close();
  if (good) await putInForce(good);
  await stopped('grace');
  await inAccount(['podman', 'rm', '--force', 'csm-grace']);
  await inAccount(['podman', 'rmi', '--force', BROKEN]);
});

const use = async (image) => {
  await stopped('grace');
  const before = await declare((manifest) => (manifest.users.grace.image = image));
  good ??= before;
};

test('an image that exits immediately: wake page, dashboard and command line show the exit code and the last output', async () => {
  await use(BROKEN);
  const ada = (await inside('ada', 'cat', '/proc/1/stat')).split(' ')[21];
  const { page, context, violations } = await person(browser);
  await page.goto(origin('grace'));
  await fillIn(page, 'grace');
  const status = page.locator('#status');
  await status.getByText('failed', { exact: true }).waitFor();
  assert.match(await status.innerText(), /starting failed/);
  assert.match(await status.innerText(), /exited immediately with code 7; see the log/);
  assert.match(await status.locator('pre').innerText(), /broken on purpose/);

  // A reload shows the failure again; only the button starts the workspace.
  const failedAt = (await workspace('grace')).at;
  await page.reload();
  await status.getByText('failed', { exact: true }).waitFor();
  assert.equal((await workspace('grace')).at, failedAt, 'no second try');

  const dashboard = await person(browser);
  await atDashboard(dashboard.page, 'ada');
  const card = dashboard.page.locator('#ws-grace');
  assert.match(await card.innerText(), /exited immediately with code 7/);
  assert.match(await card.locator('pre').innerText(), /broken on purpose/);
  const started = await csm('start', 'grace');
  assert.equal(started.status, 1);
  assert.match(started.stderr, /broken on purpose/);
  assert.match(started.stderr, /grace: starting failed: exited immediately with code 7/);

  assert.equal((await inside('ada', 'cat', '/proc/1/stat')).split(' ')[21], ada, "ada's workspace was not restarted");
  await declare((manifest) => delete manifest.users.grace.image);
  await page.getByRole('button', { name: 'Try again' }).click();
  await workbench(page);
  await Promise.all([context.close(), dashboard.context.close()]);
  none([...violations, ...dashboard.violations]);
});

test('an image that does not exist: the message names the image and the fix', async () => {
  await use('localhost/there-is-no-such-image:1');
  const { page, context } = await person(browser);
  await page.goto(origin('grace'));
  await fillIn(page, 'grace');
  await page.locator('#status').getByText('failed', { exact: true }).waitFor({ timeout: 60_000 });
  const told = await page.locator('#status').innerText();
  assert.match(told, /can't pull image localhost\/there-is-no-such-image:1: /);
  assert.match(told, /check the image's name and the registry/);
  assert.equal((await operator('/healthz')).body, 'ok\n', "one user's image raises no alarm for the host");
  assert.equal((await workspace('ada')).state, 'running');
  await context.close();
});

test('a workspace that is killed outside csm is shown as failed, with its exit code, and is not restarted automatically', async () => {
  await declare((manifest) => delete manifest.users.grace.image);
  await running('grace');
  const { page, context } = await person(browser);
  await atDashboard(page, 'grace');
  await inAccount(['podman', 'kill', '--signal', 'KILL', 'csm-grace']);
  await page.locator('#ws-grace .state.failed').waitFor();
  assert.match(await page.locator('#ws-grace .reason').innerText(), /exited with code 137/);
  await page.locator('#start-grace').click();
  await reaches('grace', 'running');
  await context.close();
});
