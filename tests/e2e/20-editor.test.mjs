// What users do in the editor, and its effect on the host.
import assert from 'node:assert/strict';
import { rmSync, statSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { atDashboard, atEditor, command, launch, none, openFile, person, showTerminal, terminal, type, workbench } from './lib/browser.mjs';
import { give, reaches, running, stopped } from './lib/demo.mjs';
import { workspace } from './lib/http.mjs';
import { accountId, hostFile, inside, origin, read } from './lib/place.mjs';
import { until } from './lib/until.mjs';

let browser;
before(async () => {
  browser = await launch();
  await running('ada');
});
after(() => browser?.close());

async function editor(run, path, options) {
  const at = await person(browser, options);
  try {
    await atEditor(at.page, 'ada', path);
    await run(at.page, at.context);
  } finally {
    await at.context.close();
  }
  none(at.violations);
}

test('a command in the terminal creates a file on the host that belongs to the account', () =>
  editor(async (page) => {
    await terminal(page);
    await type(page, 'cd ~/project && echo "$(id -un) $(hostname)" > made-in-terminal');
    const path = hostFile('ada', 'workspace/made-in-terminal');
    await until('the file on the host', () => read(path) === 'coder ada\n');
    assert.equal(statSync(path).uid, accountId(), "the account's own, not a subordinate id's");
  }));

/** The columns that the terminal draws, and those that its panel has room for: the cursor's input is one cell. */
const columns = (page) =>
  page.locator('.terminal-wrapper.active').evaluate((wrapper) => {
    const cell = Number.parseFloat(wrapper.querySelector('.xterm-helper-textarea').style.width);
    const fit = (box) => Math.floor(box.getBoundingClientRect().width / cell + 0.01);
    return { drawn: fit(wrapper.querySelector('.xterm-screen')), room: fit(wrapper) };
  });

/** What a program in the terminal takes for its width, once that is what the terminal draws. */
async function isAsWideAsItsPanel(page) {
  const path = hostFile('ada', 'workspace/columns');
  await until('a program in the terminal to see all columns of the panel', async () => {
    await type(page, 'tput cols > ~/project/columns');
    const { drawn, room } = await columns(page);
    const seen = await until('the columns', () => read(path), { seconds: 5 }).finally(() => rmSync(path, { force: true }));
    // What is left is for the scroll bar and the margins.
    assert(room - drawn <= 6, `${drawn} columns are drawn where ${room} fit`);
    assert.equal(Number(seen), drawn);
    return drawn;
  });
  return (await columns(page)).drawn;
}

test("a terminal of a fresh editor is as wide as its panel, and stays so when the browser's window grows", async () => {
  await stopped('ada');
  await running('ada');
  const narrow = { width: 1000, height: 800 };
  await editor(async (page) => {
    await terminal(page);
    const before = await isAsWideAsItsPanel(page);
    await page.setViewportSize({ width: 1900, height: 800 });
    assert((await isAsWideAsItsPanel(page)) > before * 2);
  }, '/', { viewport: narrow });
  // The next one has a terminal for a wide window from the start.
  await stopped('ada');
  await running('ada');
  await editor(async (page) => {
    await terminal(page);
    await isAsWideAsItsPanel(page);
  }, '/', { viewport: { width: 1900, height: 800 } });
});

const sessions = () => inside('ada', 'tmux', 'list-sessions', '-F', '#{session_name} #{session_attached}');

test('a program in a terminal continues when the tab closes, and another browser shows it', async () => {
  const runs = async () => (await inside('ada', 'sh', '-c', 'pgrep -fx "sleep 4242" || true')) !== '';
  // After a stop and a start no tmux session is left from earlier tests.
  await stopped('ada');
  await running('ada');
  await editor(async (page) => {
    await terminal(page);
    await type(page, 'sleep 4242');
    await until('the program to run', runs);
  });
  assert(await runs(), 'it still runs');
  await editor(async (page) => {
    // The editor restores the terminal, or opens a new one, in which tmux can switch to the session.
    await showTerminal(page);
    await until('the program to exit', async () => {
      // While the editor starts, parts of it take the keyboard.
      await page.locator('.terminal-wrapper.active .xterm-helper-textarea').focus();
      await type(page, 'tmux switch-client -t =0');
      await page.keyboard.press('Control+C');
      return !(await runs());
    });
  });
});

test('an idle terminal uses one tmux session, and keeps it', async () => {
  await stopped('ada');
  await running('ada');
  await editor(async (page) => {
    await terminal(page);
    await until('one attached tmux session', async () => (await sessions()).trim() === '0 1');
    // Extensions that start later must not make the editor replace it.
    await page.locator('.statusbar-item[id*="scm"], .statusbar-item[id*="problems"]').first().waitFor();
    await command(page, 'Developer: Show Running Extensions');
    await page.getByText(/vscode\.git\b|Git$/).first().waitFor();
    assert.equal((await sessions()).trim(), '0 1');
  });
});

test('a file saved in the editor changes on the host', async () => {
  const path = give('ada', 'edited.txt', 'before\n');
  await editor(async (page) => {
    await openFile(page, 'edited.txt');
    await page.keyboard.press('Control+Home');
    await page.keyboard.type('after and ');
    await page.keyboard.press('Control+S');
    await until('the change on the host', () => read(path) === 'after and before\n');
  });
});

test('a Markdown preview, which is a nested frame, is shown', async () => {
  give('ada', 'preview.md', '# A heading of the preview\n');
  await editor(async (page) => {
    await openFile(page, 'preview.md');
    await command(page, 'Markdown: Open Preview');
    const preview = page.frameLocator('iframe.webview.ready').frameLocator('iframe#active-frame');
    await preview.getByRole('heading', { name: 'A heading of the preview' }).waitFor({ timeout: 60_000 });
  });
});

test('a workspace that is stopped from the dashboard and woken by a bookmark has the same files', async () => {
  const path = give('ada', 'kept.txt', 'kept\n');
  const at = await person(browser);
  await atDashboard(at.page, 'ada');
  await at.page.locator('#stop-ada').click();
  await at.page.locator('#ws-ada .state.stopped').waitFor();
  assert.match(await at.page.locator('#ws-ada .reason').innerText(), /stopped by ada/);
  await reaches('ada', 'stopped');
  await at.page.goto(`${origin('ada')}/?folder=/home/coder/project`);
  await workbench(at.page);
  await openFile(at.page, 'kept.txt');
  assert.equal(read(path), 'kept\n');
  assert.equal((await inside('ada', 'cat', '/home/coder/project/kept.txt')).trim(), 'kept');
  await at.context.close();
  none(at.violations);
});

test('an open editor reconnects automatically, and its attempts do not wake a stopped workspace', async () => {
  await running('ada');
  const at = await person(browser);
  await atEditor(at.page, 'ada');
  let tries = 0;
  at.page.on('websocket', () => tries++);
  await stopped('ada');
  const before = tries;
  await until('the editor to have tried four times more', () => tries >= before + 4, { seconds: 60 });
  assert.equal((await workspace('ada')).state, 'stopped');
  assert.equal((await workspace('ada')).reason, 'stopped by the command line');
  await at.context.close();
});
