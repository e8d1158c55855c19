// What a program prints must not control the terminal or the page of whoever reads the log.
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { before, test } from 'node:test';
import { running } from '../e2e/lib/demo.mjs';
import { operator } from '../e2e/lib/http.mjs';
import { csm, hostFile, inside } from '../e2e/lib/place.mjs';
import { until } from '../e2e/lib/until.mjs';
import { Visitor } from '../e2e/lib/visitor.mjs';

let ada;
before(async () => {
  await running('ada');
  ada = await Visitor.owner('ada', 'ada');
});

// Titles, colours, links, the clipboard, the alternate screen, replies that are typed into the shell, and text that is shown reversed.
const EVIL = ['\x1b]0;title\x07', '\x1b[31m', '\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\', '\x1b]52;c;cm0gLXJmCg==\x07', '\x1b[?1049h', '\x1b[6n', '\x9b6n',
  '\u009b6n', '\u0090q\u009c', '\u202etxt.exe', '\u2066x\u2069', '\u200ex\u200f\u061c', '\x08\x08\x08', 'a\rb', '\x7f', '\x00', '\u2028', '<script>alert(1)</script>', '<img src=x onerror=alert(1)>'];
// Every character but tab and newline that a terminal or a browser interprets.
const RAW = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/;

test('control characters in a log are shown as text: by the API, on the page, and in a terminal', async () => {
  const mark = `mark-${Date.now()}`;
  // \x9b alone is not UTF-8; the others are written as UTF-8.
  const bytes = Buffer.concat(EVIL.map((one) => Buffer.concat([one === '\x9b6n' ? Buffer.from(one, 'latin1') : Buffer.from(one), Buffer.from(` ${mark}\n`)])));
  await inside('ada', 'sh', '-c', `echo ${bytes.toString('base64')} | base64 -d > /proc/1/fd/1`);
  const api = await until('the log to have the lines', async () => {
    const { body } = await operator('/api/v1/workspaces/ada/logs?lines=200');
    return body.split(mark).length > EVIL.length && body;
  });
  assert.doesNotMatch(api, RAW);
  assert.ok(api.includes(String.raw`\u{1b}]0;title\u{7} ${mark}`), api.slice(-2000));
  for (const target of ['/workspaces/ada/log', '/']) {
    const page = await ada.visit('', target);
    assert.equal(page.status, 200);
    assert.doesNotMatch(page.body, RAW, target);
    assert.doesNotMatch(page.body, /<script>alert|<img src=x/, target);
  }
  const { stdout, stderr } = await csm('logs', 'ada');
  assert.ok(stdout.split(mark).length > EVIL.length);
  assert.doesNotMatch(stdout + stderr, RAW);
});

test('the cause of a failure that a program printed is text too', async () => {
  const configuration = '~/.config/code-server/config.yaml';
  // code-server prints what is wrong with its configuration.
  await inside('ada', 'sh', '-c', `mkdir -p ~/.config/code-server && printf 'cert: "\\\\e]0;title\\\\a\\\\e[31m<b>"\\nno-such-option: "\\\\e[6n"\\n' > ${configuration}`);
  try {
    await operator('/api/v1/workspaces/ada/stop?wait=true', { method: 'POST' });
    const started = await operator('/api/v1/workspaces/ada/start?wait=true', { method: 'POST' });
    const view = JSON.parse(started.body);
    assert.equal(view.state, 'failed', started.body);
    assert.doesNotMatch([view.failure, view.reason, ...view.log].join('\n'), RAW);
    const page = (await ada.visit('', '/')).body;
    assert.doesNotMatch(page, RAW);
    assert.ok(!page.includes('<b>'), page);
    for (const command of [['status'], ['status', 'ada'], ['start', 'ada'], ['logs', 'ada']]) {
      const { stdout, stderr } = await csm(...command);
      assert.doesNotMatch(stdout + stderr, RAW, command.join(' '));
    }
  } finally {
    rmSync(hostFile('ada', 'home/.config/code-server/config.yaml'), { force: true });
    await running('ada');
  }
});
