// Each of csm's pages in light and dark colours and on a phone: nothing is wider than the screen, all text has enough contrast, and no
// page violates its own content security policy. The screenshots are for review (target/screenshots).
import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { atDashboard, fillIn, launch, none, person } from './lib/browser.mjs';
import { declare, putInForce, running, stopped } from './lib/demo.mjs';
import { origin, repo } from './lib/place.mjs';

const OUT = `${repo}/target/screenshots`;
const LOOKS = {
  light: { colorScheme: 'light' },
  dark: { colorScheme: 'dark' },
  phone: { colorScheme: 'light', viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true, deviceScaleFactor: 2 },
};

let browser;
let good;
before(async () => {
  mkdirSync(OUT, { recursive: true });
  browser = await launch();
  good = await declare((manifest) => (manifest.users.grace.image = 'localhost/there-is-no-such-image:1'));
  await Promise.all([running('ada'), stopped('grace')]);
});
after(async () => {
  await browser?.close();
  await putInForce(good);
});

/** Visible defects: text with too little contrast, elements wider than the screen, small click targets. */
function faults() {
  const luminance = ([r, g, b]) => {
    const [R, G, B] = [r, g, b].map((c) => (c / 255 <= 0.03928 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * R + 0.7152 * G + 0.0722 * B;
  };
  const rgb = (text) => text.match(/[\d.]+/g).map(Number);
  const ground = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const color = rgb(getComputedStyle(at).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const found = [];
  const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (wide > 0) found.push(`the page is ${wide} px wider than the screen`);
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    const box = node.getBoundingClientRect();
    if (!own || box.width === 0) continue;
    const [a, b] = [luminance(rgb(getComputedStyle(node).color)), luminance(ground(node))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.push(`contrast ${contrast.toFixed(1)} of "${node.textContent.trim().slice(0, 30)}"`);
  }
  for (const node of document.querySelectorAll('button, a.button, input:not([type=hidden])')) {
    const { height, width } = node.getBoundingClientRect();
    if (height > 0 && (height < 40 || width < 40)) found.push(`${node.id || node.textContent} is ${width} × ${height}`);
  }
  return found;
}

const PAGES = {
  'sign-in': (page) => page.goto(origin('ada')),
  'sign-in-error': async (page) => {
    await page.goto(origin(''));
    await fillIn(page, 'ada', 'wrong');
    await page.getByRole('alert').waitFor();
  },
  'dashboard-admin': async (page) => {
    await atDashboard(page, 'ada');
    await page.locator('#ws-ada meter').first().waitFor();
  },
  'dashboard-person': (page) => atDashboard(page, 'grace'),
  log: async (page) => {
    await atDashboard(page, 'ada');
    await page.locator('#log-ada').click();
    await page.getByRole('heading', { name: 'Log of ada' }).waitFor();
  },
  'wake-starting': async (page) => {
    await stopped('ada');
    await page.goto(origin('ada'));
    // Without its events the page does not update: the screenshot shows it as it was loaded. The start itself continues.
    await page.route('**/_csm/events', (route) => route.abort());
    await fillIn(page, 'ada');
    await page.locator('#status progress').waitFor();
  },
  'wake-failed': async (page) => {
    await page.goto(origin('grace'));
    await fillIn(page, 'grace');
    await page.locator('.state.failed').waitFor({ timeout: 60_000 });
  },
  'dashboard-failed': async (page) => {
    await atDashboard(page, 'ada');
    await page.locator('#ws-grace .state.failed').waitFor();
  },
  'not-found': (page) => page.goto(origin('nobody')),
  'not-yours': async (page) => {
    await atDashboard(page, 'grace');
    await page.goto(origin('ada'));
  },
};

for (const [name, open] of Object.entries(PAGES)) {
  test(`the page ${name} is readable in all three looks, and follows its content security policy`, async () => {
    for (const [look, options] of Object.entries(LOOKS)) {
      const { page, context, violations } = await person(browser, options);
      await open(page);
      await page.screenshot({ path: `${OUT}/${name}-${look}.png`, fullPage: true });
      assert.deepEqual(await page.evaluate(faults), [], `${name} ${look}`);
      assert.equal(await page.evaluate(() => document.documentElement.lang), 'en');
      assert.notEqual(await page.title(), '');
      assert.equal(await page.locator('h1').count(), 1);
      await context.close();
      none(violations);
    }
  });
}
