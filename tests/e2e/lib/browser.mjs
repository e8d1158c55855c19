// Chromium, as people use it. What our own pages do against their content security policy fails the test that saw it.
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

/** A fresh person at a fresh browser. `violations` collects what the content security policy stopped. */
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

/** Types name and password into the form that is shown, and sends it. */
export async function fillIn(page, name, secret = password(name)) {
  await page.getByLabel('Name').fill(name);
  await page.getByLabel('Password').fill(secret);
  await page.getByRole('button', { name: 'Sign in' }).click();
}

/** From nothing to the dashboard. */
export async function atDashboard(page, name) {
  await page.goto(origin(''));
  await fillIn(page, name);
  await page.getByRole('button', { name: 'Sign out' }).waitFor();
}

/** From nothing to the editor, by way of the sign-in when it is asked for. */
export async function atEditor(page, name, path = '/') {
  await page.goto(origin(name) + path);
  if (page.url().startsWith(origin(''))) await fillIn(page, name);
  await workbench(page);
}

/**
 * A browser in which a workspace's host is open to one person and the dashboard to nobody: as when that person wrote the page,
 * and a colleague opens it. The cookies come from a real sign-in, and the dashboard's are forgotten after it.
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

/** The box that opens with a key, once it takes input. It is put there before it is ready. */
async function quickInput(page, key, start) {
  await page.keyboard.press(key);
  await page.waitForFunction((start) => {
    const box = document.activeElement;
    const listed = start === '' || document.querySelector('.quick-input-list .monaco-list-row');
    return box?.matches('.quick-input-widget input') && box.value === start && listed;
  }, start, { timeout: 5_000 });
}

/** Chooses an entry of the list that opens with a key. While the editor starts, parts of it take the keyboard: then again. */
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

/** Runs a command of the editor by its name, as the palette lists it. */
export const command = (page, name) => choose(page, 'F1', '>', name);

/** A new terminal of the editor with the keyboard in it. What is typed before the shell is ready waits for it. */
export const terminal = (page) => showTerminal(page, 'Terminal: Create New Terminal');

/** The terminals that are there already, or a first one. */
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
