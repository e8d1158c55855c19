// Takes the README's screenshots from a running demo (run.mjs describes how to keep one): CSM_E2E_…=… node pictures.mjs
import { mkdirSync } from 'node:fs';
import { atDashboard, atEditor, command, launch, openFile, person, showTerminal, type } from './lib/browser.mjs';
import { give, running } from './lib/demo.mjs';
import { inside, repo } from './lib/place.mjs';
import { until } from './lib/until.mjs';

const out = `${repo}/docs/screenshots`;
const look = { viewport: { width: 1200, height: 750 }, colorScheme: 'light' };
mkdirSync(out, { recursive: true });
await Promise.all([running('ada'), running('grace')]);
await inside('ada', 'sh', '-c', 'tmux kill-server; rm -rf ~/project/* || true');
const browser = await launch();

const dashboard = await person(browser, look);
await atDashboard(dashboard.page, 'ada');
await dashboard.page.locator('#ws-grace meter').nth(1).waitFor();
await dashboard.page.screenshot({ path: `${out}/dashboard.png`, clip: { x: 0, y: 0, width: 1200, height: 560 } });

give('ada', 'README.md', '# Analytical engine\n\nNotes on the computation of Bernoulli numbers.\n');
give('ada', 'bernoulli.py', `"""Bernoulli numbers, as in Note G."""
from fractions import Fraction
from math import comb


def bernoulli(n: int) -> Fraction:
    numbers = [Fraction(1)]
    for m in range(1, n + 1):
        total = sum(comb(m + 1, k) * numbers[k] for k in range(m))
        numbers.append(-total / (m + 1))
    return numbers[n]


if __name__ == "__main__":
    for n in range(0, 11, 2):
        print(f"B{n} = {bernoulli(n)}")
`);
const editor = await person(browser, look);
await atEditor(editor.page, 'ada');
await openFile(editor.page, 'bernoulli.py');
await showTerminal(editor.page);
await type(editor.page, 'clear; python3 bernoulli.py');
await until('the program to have printed', async () => (await inside('ada', 'tmux', 'capture-pane', '-p')).includes('B10 = 5/66'));
await command(editor.page, 'Notifications: Clear All Notifications').catch(() => {});
await editor.page.mouse.move(600, 740);
await editor.page.screenshot({ path: `${out}/editor.png` });
await browser.close();
