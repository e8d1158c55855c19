// tmux in the editor's terminals: the verdict, csm's announcements, and the user's configuration. Like agents.test.mjs this runs in a
// workspace. Another tmux is the terminal in which it is seen.
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, test } from 'node:test';

let home;
let environment;
const tmux = (...words) => execFileSync('tmux', words, { env: environment, encoding: 'utf8' });
const screen = () => tmux('-L', 'outer', 'capture-pane', '-p');
const announce = (text) => writeFileSync(`${home}/announcement`, `${text}\n`);

beforeEach(() => {
  home = mkdtempSync('/tmp/tmux-');
  mkdirSync(`${home}/sockets`);
  environment = {
    ...process.env,
    HOME: home,
    TMUX_TMPDIR: `${home}/sockets`,
    CSM_ANNOUNCEMENT: `${home}/announcement`,
    CSM_ANNOUNCE_INTERVAL: '1',
  };
  delete environment.TMUX;
  delete environment.XDG_CONFIG_HOME;
});
afterEach(() => {
  for (const name of ['default', 'outer']) spawnSync('tmux', ['-L', name, 'kill-server'], { env: environment });
  rmSync(home, { recursive: true });
});

async function shows(wanted) {
  for (const end = Date.now() + 60_000; !wanted.test(screen()); await new Promise((resolve) => setTimeout(resolve, 100))) {
    if (Date.now() > end) throw new Error(`waited for ${wanted}; the screen shows:\n${screen()}`);
  }
}

const open = () => tmux('-L', 'outer', '-f', '/dev/null', 'new-session', '-d', '-x', '120', '-y', '10', 'env -u TMUX TERM=screen /opt/code-server-multi/terminal');

test('a terminal has csm\'s commands, and shows an announcement once and as it is', async () => {
  open();
  await shows(/C-b s shows/);
  assert.match(tmux('show-options', '-gv', 'status-right'), /run.csm.status/);
  tmux('send-keys', 'echo "$PATH"', 'Enter');
  await shows(/\/opt\/code-server-multi\/bin:/);
  announce(`freezes in 2 min #(touch ${home}/bad) %H 93 %`);
  await shows(/freezes in 2 min #\(touch .*bad\) %H 93 %/);
  tmux('send-keys', '-K', '-c', tmux('list-clients', '-F', '#{client_name}').trim(), 'q');
  // The next one is shown, so the first was not shown again until then.
  announce('freezes in 1 min');
  await shows(/freezes in 1 min/);
  const shown = tmux('show-messages').match(/message: freezes in 2 min/g);
  assert.equal(shown?.length, 1);
  assert.equal(spawnSync('test', ['-e', `${home}/bad`]).status, 1, 'nothing in it was run');
});

test("the user's configuration decides", async () => {
  writeFileSync(`${home}/.tmux.conf`, "set -g status-right 'my own'\nset -ga @times x\n");
  open();
  await shows(/my own/);
  assert.equal(tmux('show-options', '-gv', '@times').trim(), 'x', 'it is read once');
  announce('freezes in 2 min');
  await shows(/freezes in 2 min/);
});
