// Chromium, as users use it. A test fails if it sees one of csm's own pages violate its content security policy.
import assert from 'node:assert/strict';
import { chromium } from 'playwright-core';
import { csmRun, origin, password } from './place.mjs';

const ARGUMENTS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export const launch = () =>
  chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ARGUMENTS });

/** A new browser context without cookies. `violations` collects what the content security policy blocked. */
export async function person(browser, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
  context.setDefaultTimeout(30_000);
  const violations = [];
  context.on('console', (message) => {
    const ours = new URL(message.location().url || 'about:blank');
    const editor = message.page()?.url().includes('folder=') || /\/(stable|oss)-/.test(ours.pathname);
    if (!editor && /content security policy/i.test(message.text())) violations.push(message.text());
  });
  return { context, violations, page: await context.newPage() };
}

/** Fills in name and password in the sign-in form that is shown, and submits it. */
export async function fillIn(page, name, secret = password(name)) {
  await page.getByLabel('Name').fill(name);
  await page.getByLabel('Password').fill(secret);
  await page.getByRole('button', { name: 'Sign in' }).click();
}

/** Signs in and waits for the dashboard. */
export async function atDashboard(page, name) {
  await page.goto(origin(''));
  await fillIn(page, name);
  await page.getByRole('button', { name: 'Sign out' }).waitFor();
}

/** Opens the editor, and signs in if csm asks for it. */
export async function atEditor(page, name, path = '/') {
  await page.goto(origin(name) + path);
  if (page.url().startsWith(origin(''))) await fillIn(page, name);
  await workbench(page);
}

/**
 * Gives a browser one user's cookies for a workspace's hostname, but not for the dashboard: this stands for a page that the user wrote and a
 * colleague opens. The cookies come from a real sign-in; the dashboard's are then deleted.
 */
export async function lend(context, name, label) {
  const page = await context.newPage();
  await page.goto(origin(label));
  await fillIn(page, name);
  await page.waitForURL(`${origin(label)}/**`);
  await page.close();
  await context.clearCookies({ name: /^__Host-csm-(session|device)$/ });
}

export async function workbench(page) {
  await page.locator('.monaco-workbench').waitFor({ timeout: 90_000 });
  await page.locator('.statusbar').waitFor();
}

export const card = (page, name) => page.locator(`#ws-${name}`);
export const state = (page, name) => card(page, name).locator('.state');

/** Opens the quick input with a key, and waits until it accepts input. The editor shows it before it is ready. */
async function quickInput(page, key, start) {
  await page.keyboard.press(key);
  await page.waitForFunction((start) => {
    const box = document.activeElement;
    const listed = start === '' || document.querySelector('.quick-input-list .monaco-list-row');
    return box?.matches('.quick-input-widget input') && box.value === start && listed;
  }, start, { timeout: 5_000 });
}

/** Chooses an entry of the list that a key opens. It retries, because parts of a starting editor take the keyboard focus. */
async function choose(page, key, start, text) {
  for (let tries = 1; ; tries++) {
    try {
      await quickInput(page, key, start);
      await page.keyboard.type(text);
      const row = page.locator('.quick-input-list .monaco-list-row', { hasText: text }).first();
      await row.click({ timeout: 5_000 });
      return;
    } catch (error) {
      if (tries === 5) throw error;
      await page.keyboard.press('Escape');
    }
  }
}

/** Runs a command of the editor by its name in the command palette. */
export const command = (page, name) => choose(page, 'F1', '>', name);

/** Opens a new terminal of the editor and focuses it. The shell reads what is typed before it is ready. */
export const terminal = (page) => showTerminal(page, 'Terminal: Create New Terminal');

/** Shows the existing terminals, or opens a first one. */
export async function showTerminal(page, by = 'Terminal: Focus Terminal') {
  await command(page, by);
  await page.locator('.terminal-wrapper.active .xterm-screen').waitFor();
  await page.locator('.terminal-wrapper.active .xterm-helper-textarea').focus();
}

export const type = async (page, line) => {
  await page.keyboard.type(line);
  await page.keyboard.press('Enter');
};

/** Opens a file of the project by name. */
export async function openFile(page, name) {
  await choose(page, 'Control+P', '', name);
  await page.locator('.tab.active', { hasText: name }).waitFor();
  await page.locator('.editor-instance .monaco-editor.focused').waitFor();
}

export function none(violations) {
  assert.deepEqual(violations, [], 'content security policy');
}

export { csmRun };
