// Attacks by a hostile page in a real Chromium: it tries to get into the editor's origin, to stay there, and to lock users out with cookies.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { after, before, test } from 'node:test';
import { atEditor, command, fillIn, launch, lend, openFile, person } from '../e2e/lib/browser.mjs';
import { declare, give, putInForce, running } from '../e2e/lib/demo.mjs';
import { accountId, data, domain, inside, origin } from '../e2e/lib/place.mjs';
import { until } from '../e2e/lib/until.mjs';

const PORT = 3050;
const ada = origin('ada');
const adaPort = origin(`${PORT}--ada`);
const gracePort = origin(`${PORT}--grace`);
let browser;

/** Starts fixtures/hostile.mjs in a running workspace, unless it runs already. */
async function hostileProgram(name) {
  const asks = `python3 -c 'import socket; socket.create_connection(("127.0.0.1", ${PORT}))'`;
  const listens = async () => (await inside(name, 'sh', '-c', `${asks} 2>/dev/null && echo yes || true`)).includes('yes');
  if (await listens()) return;
  give(name, 'hostile.mjs', readFileSync(`${import.meta.dirname}/fixtures/hostile.mjs`));
  await inside(name, 'sh', '-c', `setsid node ~/project/hostile.mjs ${PORT} >/dev/null 2>&1 </dev/null &`);
  await until('the hostile program to listen', listens);
}

before(async () => {
  await Promise.all([running('ada'), running('grace')]);
  await Promise.all([hostileProgram('ada'), hostileProgram('grace')]);
  browser = await launch();
});
after(() => browser?.close());

async function fresh(run, options) {
  const { context, page } = await person(browser, options);
  try {
    return await run(page, context);
  } finally {
    await context.close();
  }
}

/** Signs ada in to her editor and to her port's hostname, and opens the hostile page on that hostname. */
async function atHostilePage(page) {
  await atEditor(page, 'ada');
  await page.goto(`${adaPort}/`);
  await page.getByRole('heading', { name: 'hostile' }).waitFor();
}

/** Opens a document on an origin in which no script of that origin runs, so that a test can run its own code there. */
async function blank(page, base) {
  await page.goto(`${base}/_csm/static/style.css`);
}

// --- a port's page tries to get a page into the editor's origin ---

const CLOSED = /^Not found\s+The editor's address serves only the editor\./;
const PROXIED = [
  'proxy/PORT/x',
  'proxy/PORT',
  'proxy/PORT/',
  'absproxy/PORT/x',
  'absproxy/PORT/',
  'PROXY/PORT/x',
  'Absproxy/PORT/x',
  '%70roxy/PORT/x',
  'proxy%2fPORT/x',
  '/proxy/PORT/x',
  '//proxy/PORT/x',
  'x/../proxy/PORT/x',
  'x/..%2fproxy/PORT/x',
  'x/%2e%2e/proxy/PORT/x',
  'vscode/proxy/PORT/x',
  'proxy\\PORT\\x',
  'proxy/PORT/?folder=/home/coder/project',
  'proxy/localhost:PORT/x',
  // Two programs read these differently: one resolves the path to /x or /, which is not a proxy path, the other to the port.
  'proxy/PORT/..%2f..%2fx',
  'proxy/PORT/..%2f..%2f',
  'absproxy/PORT/..%2f..%2fx',
  'PROXY/PORT/%2e%2e%2f%2e%2e%2fx',
  'proxy/PORT/..%2f..%2f_static/out/browser/serviceWorker.js',
  'proxy/PORT/..%2f..%2f_csm/static/style.css',
].map((path) => path.replace('PORT', PORT));

/** The result of a navigation: the status, the URL, and whether the page is the hostile program's. */
async function shown(page, answer) {
  await page.waitForLoadState('load');
  const hostile = await page.evaluate(() => globalThis.hostile === true || document.body?.innerText.includes('from the hostile worker') || document.body?.innerText === 'hostile');
  return { status: answer?.status(), hostile, url: page.url() };
}

/** Lets the page start a navigation; resolves with the last response of its redirects. */
async function sent(page, way, url) {
  const done = page.waitForNavigation({ url: (to) => to.origin === ada });
  await page.evaluate(way, url);
  return shown(page, await done);
}

const WAYS = {
  location: (url) => void setTimeout(() => (location.href = url)),
  link: (url) => {
    const link = document.body.appendChild(Object.assign(document.createElement('a'), { href: url, textContent: 'x' }));
    setTimeout(() => link.click());
  },
  form: (url) => {
    const form = document.body.appendChild(Object.assign(document.createElement('form'), { action: url }));
    setTimeout(() => form.submit());
  },
  post: (url) => {
    const form = document.body.appendChild(Object.assign(document.createElement('form'), { action: url, method: 'post' }));
    setTimeout(() => form.submit());
  },
  refresh: (url) => void document.body.append(Object.assign(document.createElement('meta'), { httpEquiv: 'refresh', content: `0;url=${url}` })),
  redirect: (url) => void setTimeout(() => (location.href = `/?to=${encodeURIComponent(url)}`)),
};

test("when a port's page navigates to /proxy/ on the editor's hostname, in any way, csm's page is shown", () =>
  fresh(async (page) => {
    await atHostilePage(page);
    for (const [name, way] of Object.entries(WAYS)) {
      await page.goto(`${adaPort}/`);
      const got = await sent(page, way, `${ada}/proxy/${PORT}/x`);
      assert.equal(got.hostile, false, `${name}: the program's page runs at ${got.url}`);
      assert.equal(got.status, 404, name);
      assert.match(await page.locator('main').innerText(), CLOSED, name);
    }
    // A script that is injected into that page does not run.
    const ran = await page.evaluate(() => {
      document.body.append(Object.assign(document.createElement('script'), { textContent: 'globalThis.hostile = true' }));
      return globalThis.hostile === true;
    });
    assert.equal(ran, false);
  }));

test('other spellings of /proxy/ do not lead to the program either', () =>
  fresh(async (page) => {
    await atHostilePage(page);
    const bad = [];
    for (const path of PROXIED) {
      await page.goto(`${adaPort}/`);
      const got = await sent(page, WAYS.location, `${ada}/${path}`);
      if (got.hostile || got.status < 400) bad.push(`${path}: ${got.status} ${got.hostile ? 'HOSTILE' : ''} ${got.url}`);
    }
    assert.deepEqual(bad, []);
  }));

test("a port's page can't frame a page on the editor's hostname, or access a window with one", () =>
  fresh(async (page, context) => {
    await atEditor(page, 'ada');
    const product = await productPath(page);
    await page.goto(`${adaPort}/`);
    for (const path of ['/', `/proxy/${PORT}/x`, `/absproxy/${PORT}/x`, '/_csm/static/style.css']) {
      const [answer] = await Promise.all([
        page.waitForResponse((one) => one.url() === ada + path),
        page.evaluate((url) => document.body.append(Object.assign(document.createElement('iframe'), { src: url })), ada + path),
      ]);
      assert.ok([403, 404].includes(answer.status()) || answer.headers()['x-frame-options'] === 'DENY', `frame of ${path}: ${answer.status()}`);
      assert.ok(page.frames().every((frame) => frame === page.mainFrame() || !frame.url().startsWith(ada)), `${path}: ${page.frames().map((frame) => frame.url())}`);
    }
    const targets = [`${ada}/?folder=/home/coder/project`, `${ada}${product}/static/out/vs/workbench/contrib/webview/browser/pre/index.html?id=x&parentOrigin=${encodeURIComponent(ada)}`, `${ada}/proxy/${PORT}/x`, `${origin('')}/`];
    for (const url of targets) {
      await page.goto(`${adaPort}/`);
      const opened = context.waitForEvent('page');
      await page.evaluate((url) => void (globalThis.handle = window.open(url)), url);
      const popup = await opened;
      await popup.waitForURL((to) => to.origin === new URL(url).origin);
      await popup.waitForLoadState('domcontentloaded');
      assert.equal(await popup.evaluate(() => globalThis.hostile === true), false, url);
      assert.equal(await popup.evaluate(() => window.opener), null, `${url} has no opener`);
      assert.equal(await page.evaluate(() => globalThis.handle.closed), true, `the handle of the window with ${url} is disconnected`);
      await popup.close();
    }
  }));

/** `/stable-<commit>`, the prefix of the paths that VS Code's own server serves; read from an open editor. */
const productPath = (page) =>
  page.evaluate(() => performance.getEntriesByType('resource').map((one) => /^\/(stable|oss)-[0-9a-z]+(?=\/)/.exec(new URL(one.name).pathname)?.[0]).find(Boolean));

// --- service workers on the editor's origin ---

/** Collects the paths of a context's requests for service worker scripts. */
function workerScripts(context) {
  const urls = [];
  context.on('request', async (request) => {
    const headers = await request.allHeaders().catch(() => ({}));
    if (headers['service-worker'] === 'script') urls.push(new URL(request.url()).pathname);
  });
  return urls;
}

const registered = (page) => page.evaluate(async () => (await navigator.serviceWorker.getRegistrations()).map((one) => [new URL(one.scope).pathname, new URL((one.active ?? one.waiting ?? one.installing).scriptURL).pathname]));

test("only the editor's own service workers are registered, and a preview shows its image", () =>
  fresh(async (page, context) => {
    const asked = workerScripts(context);
    give('ada', 'picture.svg', '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="30"><rect width="40" height="30" fill="red"/></svg>');
    give('ada', 'picture.png', Buffer.from(PNG, 'base64'));
    give('ada', 'pictures.md', '# Pictures\n\n![one](picture.png)\n');
    give('ada', 'worker.js', 'self.addEventListener("fetch", (event) => event.respondWith(new Response("from the hostile worker")));');
    await atEditor(page, 'ada');
    await openFile(page, 'pictures.md');
    await command(page, 'Markdown: Open Preview');
    const preview = page.frameLocator('iframe.webview.ready').frameLocator('iframe#active-frame');
    await preview.getByRole('heading', { name: 'Pictures' }).waitFor({ timeout: 60_000 });
    await until("the preview's image", () => preview.locator('img').first().evaluate((img) => img.naturalWidth === 2), { seconds: 20 });
    const icons = await page.evaluate(() => document.fonts.check('16px codicon'));
    assert.ok(icons);
    const own = await until('both workers', async () => {
      const all = await registered(page);
      return all.length === 2 && all.sort();
    });
    const product = await productPath(page);
    const pre = `${product}/static/out/vs/workbench/contrib/webview/browser/pre`;
    assert.deepEqual(own, [
      ['/', '/_static/out/browser/serviceWorker.js'],
      [`${pre}/`, `${pre}/service-worker.js`],
    ]);
    assert.deepEqual([...new Set(asked)].sort(), ['/_static/out/browser/serviceWorker.js', `${pre}/service-worker.js`], 'the browser requested only these scripts');

    const file = `path=${encodeURIComponent('/home/coder/project/worker.js')}`;
    const scripts = [
      `/proxy/${PORT}/sw.js`,
      `/absproxy/${PORT}/sw.js`,
      `/PROXY/${PORT}/sw.js`,
      `/proxy/${PORT}/..%2f..%2fsw.js`,
      `/vscode-remote-resource?${file}`,
      `${product}/vscode-remote-resource?${file}`,
      `/vscode${product}/vscode-remote-resource?${file}`,
      '/_static/lib/vscode/out/vs/workbench/contrib/webview/browser/pre/service-worker.js',
      `/vscode${pre}/service-worker.js`,
      `/stable-0${pre.slice(product.length)}/service-worker.js`,
      '/_static/out/browser//serviceWorker.js',
      '/_static//out/browser/serviceWorker.js',
      '/_static/out/browser/serviceworker.js',
      '/_static/out/browser/../../out/node/entry.js',
      '/_static/out/node/entry.js',
      `${product}/static/out/vs/code/browser/workbench/workbench.js`,
      `${product}/web-extension-resource/evil.org/sw.js`,
      '/_csm/static/live.js',
      '/sw.js',
      '/',
      'data:text/javascript,0',
      'blob',
    ];
    const before = asked.length;
    for (const script of scripts) {
      for (const scope of ['/', '/x/', undefined]) {
        const outcome = await page.evaluate(
          async ([script, scope]) => {
            const url = script === 'blob' ? URL.createObjectURL(new Blob(['0'], { type: 'text/javascript' })) : script;
            return navigator.serviceWorker.register(url, scope && { scope }).then(() => 'registered', (error) => `${error.name}: ${error.message}`);
          },
          [script, scope],
        );
        assert.notEqual(outcome, 'registered', `${script} with the scope ${scope}`);
      }
    }
    assert.ok(asked.length > before, 'the browser requested the scripts');
    assert.deepEqual((await registered(page)).sort(), own, "only the editor's own workers are registered");
    assert.deepEqual(await page.evaluate(async () => [...new Set(await Promise.all((await navigator.serviceWorker.getRegistrations()).map((one) => one.update().then(() => 'updated'))))]), ['updated'], "the editor's own workers can be updated");
  }));

// Two by two pixels, red.
const PNG = 'iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg==';

// --- files of a workspace on the editor's origin ---

test("a workspace's file that is opened as a page on the editor's origin runs no script", () =>
  fresh(async (page, context) => {
    const script = '<script>globalThis.hostile = true; document.title = "ran"</script><img src=x onerror="globalThis.hostile = true">';
    give('ada', 'page.html', `<!doctype html><h1>mine</h1>${script}`);
    give('ada', 'page.svg', `<svg xmlns="http://www.w3.org/2000/svg"><script>globalThis.hostile = true; document.title = "ran"</script></svg>`);
    give('ada', 'page.xhtml', `<html xmlns="http://www.w3.org/1999/xhtml"><body><script>globalThis.hostile = true; document.title = "ran"</script></body></html>`);
    give('ada', 'page.xml', `<x><script xmlns="http://www.w3.org/1999/xhtml">globalThis.hostile = true; document.title = "ran"</script></x>`);
    await atEditor(page, 'ada');
    const product = await productPath(page);
    for (const prefix of ['', product, `/vscode`, `/vscode${product}`]) {
      for (const name of ['page.html', 'page.svg', 'page.xhtml', 'page.xml']) {
        const url = `${ada}${prefix}/vscode-remote-resource?path=/home/coder/project/${name}`;
        const answer = await page.goto(url);
        assert.equal(answer.status(), 200, url);
        assert.match((await answer.headersArray()).filter((one) => one.name.toLowerCase() === 'content-security-policy').map((one) => one.value).join(), /sandbox/, url);
        // The test's isolated world can read the document even though the document's own scripts don't run.
        assert.equal(await page.title(), '', `a script of ${url} ran`);
        assert.equal(await page.evaluate(() => self.origin), 'null', url);
      }
    }
  }));

// --- sign-out ---

const MARK = async (page) =>
  page.evaluate(async () => {
    localStorage.setItem('mark', 'x');
    sessionStorage.setItem('mark', 'x');
    await new Promise((resolve, reject) => Object.assign(indexedDB.open('mark', 1), { onsuccess: resolve, onerror: reject }));
    await (await caches.open('mark')).put('/mark', new Response('x'));
  });
const KEPT = async (page) =>
  page.evaluate(async () => ({
    local: Object.keys(localStorage),
    databases: (await indexedDB.databases()).map((one) => one.name),
    caches: await caches.keys(),
    workers: (await navigator.serviceWorker.getRegistrations()).map((one) => one.scope),
  }));
const NOTHING = { local: [], databases: [], caches: [], workers: [] };

async function signOut(page) {
  await page.goto(origin(''));
  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByLabel('Password').waitFor();
  await page.waitForLoadState('load');
}

test("a sign-out deletes everything that the editor stored in the browser, but not other hostnames' cookies", () =>
  fresh(async (page, context) => {
    await atEditor(page, 'ada');
    await until('the editor to have registered its worker', async () => (await registered(page)).length > 0);
    await MARK(page);
    await context.addCookies([
      { name: 'own', value: '1', domain: `3000--grace.${domain}`, path: '/' },
      { name: 'all', value: '1', domain: `.${domain}`, path: '/' },
      { name: 'foreign', value: '1', domain: 'other.localhost', path: '/' },
    ]);
    // The editor stores its open files when the page is left.
    await blank(page, ada);
    assert.ok((await KEPT(page)).databases.length > 1, 'the editor has stored data');
    await signOut(page);
    await blank(page, ada);
    assert.deepEqual(await KEPT(page), NOTHING);
    const left = (await context.cookies()).map((one) => `${one.domain} ${one.name}`).filter((one) => !one.includes('csm-device')).sort();
    assert.deepEqual(left, [`.${domain} all`, `3000--grace.${domain} own`, 'other.localhost foreign'].sort());
  }));

test('a sign-out in one tab deletes what an open editor in another tab stored', () =>
  fresh(async (page, context) => {
    await atEditor(page, 'ada');
    await until('the editor to have registered its worker', async () => (await registered(page)).length > 0);
    const other = await context.newPage();
    await signOut(other);
    await page.close({ runBeforeUnload: false });
    await blank(other, ada);
    const kept = await KEPT(other);
    assert.deepEqual(kept.workers, []);
    assert.deepEqual(kept.caches, []);
  }));

test("another site's page that loads the URL that clears data clears nothing for a signed-in user", () =>
  fresh(async (page, context) => {
    await lend(context, 'grace', `${PORT}--grace`);
    await atEditor(page, 'ada');
    await MARK(page);
    const before = await context.cookies(ada);
    await page.goto(`${gracePort}/`);
    await page.evaluate(async (url) => {
      const img = document.body.appendChild(new Image());
      await new Promise((resolve) => (img.onload = img.onerror = resolve, (img.src = url)));
      await fetch(url, { mode: 'no-cors', credentials: 'include' }).catch(() => {});
      await fetch(url, { mode: 'no-cors', credentials: 'omit' }).catch(() => {});
      await new Promise((resolve) => document.body.append(Object.assign(document.createElement('script'), { src: url, onload: resolve, onerror: resolve })));
    }, `${ada}/_csm/clear`);
    await page.goto(`${ada}/_csm/clear`).catch(() => {});
    await blank(page, ada);
    const kept = await KEPT(page);
    assert.ok(kept.local.includes('mark') && kept.databases.includes('mark') && kept.caches.includes('mark'), JSON.stringify(kept));
    assert.deepEqual((await context.cookies(ada)).map((one) => one.name).sort(), before.map((one) => one.name).sort());
    await atEditor(page, 'ada');
  }));

// --- cookies too large ---

const TOO_LARGE = /cookies than the server accepts/;
// A browser stores up to 180 cookies of a site.
const COUNTS = [3, 10, 170];

/** ada, signed in, opens a page on a port of grace's workspace, which sets `count` cookies of 4 kB for all hostnames. */
async function bombed(page, context, count, at = origin) {
  const grace = at(`${PORT}--grace`);
  // lend() signs in at the demo's usual address. At another address csm's own file replaces grace's page: only the origin matters.
  const own = at === origin;
  if (own) await lend(context, 'grace', `${PORT}--grace`);
  await page.goto(at('ada'));
  await fillIn(page, 'ada');
  await page.waitForURL(`${at('ada')}/**`);
  await (own ? page.goto(`${grace}/`) : blank(page, grace));
  await page.evaluate(
    ([count, domain]) => {
      for (let at = 0; at < count; at++) document.cookie = `bomb${at}=${'x'.repeat(4000)}; Domain=${domain}; Path=/; Max-Age=31536000`;
    },
    [count, domain],
  );
  await until('the browser to have stored the cookies', async () => (await context.cookies(at(''))).filter((one) => one.name.startsWith('bomb')).length === count);
}

async function recovers(page, context, count, label, at = origin) {
  const where = `${count} cookies, ${at(label)}`;
  await bombed(page, context, count, at);
  const first = await page.goto(`${at(label)}/`);
  assert.equal(first.status(), 400, where);
  const text = await page.locator('body').innerText();
  assert.match(text, TOO_LARGE, where);
  assert.deepEqual((await context.cookies()).filter((one) => one.name.startsWith('bomb')), [], `${where}: cleared`);
  const [second] = await Promise.all([page.waitForNavigation(), page.getByRole('link').click()]);
  if (label === 'nobody') assert.equal(second.status(), 404, where);
  else {
    assert.equal(second.status(), 200, where);
    await page.getByLabel('Password').waitFor();
    assert.ok(page.url().startsWith(`${at('')}/`), `${where}: ${page.url()}`);
  }
}

for (const count of COUNTS) {
  test(`after ${count} cookies of 4 kB from another workspace, a user can sign in again on every hostname`, async () => {
    for (const label of ['', 'ada', `${PORT}--ada`, 'nobody']) await fresh((page, context) => recovers(page, context, count, label));
  });
}

// Chromium stores up to 10 KiB of partitioned cookies of a site, beside the others.
test('after partitioned cookies of more than 8 KiB from another workspace, a user can sign in again on every hostname', async () => {
  for (const label of ['', 'ada', `${PORT}--ada`]) {
    await fresh(async (page, context) => {
      await bombed(page, context, 0);
      const stored = await page.evaluate((domain) => {
        for (let at = 0; at < 3; at++) document.cookie = `bomb${at}=${'x'.repeat(3000)}; Domain=${domain}; Path=/; Secure; Partitioned; SameSite=None; Max-Age=31536000`;
        return document.cookie.split('bomb').length - 1;
      }, domain);
      assert.equal(stored, 3, 'the browser stores the cookies');
      const first = await page.goto(`${origin(label)}/`);
      assert.equal(first.status(), 400, label);
      const [second] = await Promise.all([page.waitForNavigation(), page.getByRole('link').click()]);
      assert.equal(second.status(), 200, label);
      await page.getByLabel('Password').waitFor();
    });
  }
});

test('images, fetches and malformed URLs of a hostile page clear no cookies', () =>
  fresh(async (page, context) => {
    await bombed(page, context, 3);
    // nginx refuses the requests of the hostile page because of their size, but must not sign the user out.
    const load = (urls) =>
      page.evaluate(async (urls) => {
        const gone = (make) => new Promise((resolve) => make(resolve));
        for (const url of urls) {
          await gone((done) => document.body.append(Object.assign(new Image(), { src: url, onload: done, onerror: done })));
          await fetch(url, { mode: 'no-cors', credentials: 'include' }).catch(() => {});
          await fetch(url, { mode: 'cors', credentials: 'include', headers: { [`x-${'y'.repeat(9000)}`]: '1' } }).catch(() => {});
          await gone((done) => document.body.append(Object.assign(document.createElement('script'), { src: url, onload: done, onerror: done })));
          await gone((done) => document.body.append(Object.assign(document.createElement('link'), { rel: 'stylesheet', href: url, onload: done, onerror: done })));
        }
      }, urls);
    const paths = ['/', '/%zz', '/%00', `/${'z'.repeat(9000)}`, '/_csm/clear', '/sign-in', '/_csm/sign-in'];
    const urls = ['', 'ada', `${PORT}--ada`, 'nobody'].flatMap((label) => paths.map((path) => origin(label) + path));
    const names = async () => (await context.cookies()).map((one) => `${one.domain} ${one.name}`).sort();
    const before = await names();
    assert.ok(before.some((name) => name.includes('__Host-csm-session')));
    await load(urls);
    assert.deepEqual(await names(), before, 'with large cookies');
    // With small cookies, also by navigation: a malformed URL must not clear cookies.
    await context.clearCookies({ name: /^bomb/ });
    const small = await names();
    await load(urls);
    for (const url of urls.filter((url) => !url.endsWith('/'))) await page.goto(url).catch(() => {});
    assert.deepEqual((await names()).filter((name) => small.includes(name)), small, 'with small ones');
  }));

/** A port that nothing listens on. */
const freePort = () =>
  new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });

test("a port's hostname serves the port and not the editor, even if frontDoor.listen has changed since the workspace started", async () => {
  const port = await freePort();
  const at = `http://${PORT}--ada.${domain}:${port}`;
  const before = await declare((next) => (next.frontDoor = { listen: `127.0.0.1:${port}` }));
  try {
    await fresh(async (page) => {
      await page.goto(`${at}/`);
      await fillIn(page, 'ada');
      await page.getByRole('heading', { name: 'hostile' }).waitFor();
      const socket = await page.evaluate(
        () =>
          new Promise((resolve) => {
            const one = new WebSocket(`ws://${location.host}/stable-x?type=Management`);
            one.onopen = () => resolve('open');
            one.onerror = () => resolve('refused');
          }),
      );
      assert.equal(socket, 'refused', "the editor's WebSocket");
    });
  } finally {
    await putInForce(before);
  }
});

test("over TLS and HTTP/2 a user can also sign in again, up to nginx's header limit", async () => {
  const [cert, key] = [`${data}/hostile.crt`, `${data}/hostile.key`];
  const names = `subjectAltName=DNS:${domain},DNS:*.${domain}`;
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2', '-subj', `/CN=${domain}`, '-addext', names, '-keyout', key, '-out', cert], { stdio: 'ignore' });
  execFileSync('chown', [String(accountId()), cert, key]);
  execFileSync('chmod', ['600', key]);
  const port = await freePort();
  const before = await declare((next) => Object.assign(next.frontDoor, { listen: `127.0.0.1:${port}`, certificate: cert, certificateKey: key }));
  const at = (label) => `https://${label ? `${label}.` : ''}${domain}:${port}`;
  try {
    await fresh(
      async (page) => {
        await page.goto(`${at('')}/sign-in`);
        assert.equal(await page.evaluate(() => performance.getEntriesByType('navigation')[0].nextHopProtocol), 'h2');
      },
      { ignoreHTTPSErrors: true },
    );
    for (const count of [3, 7]) {
      for (const label of ['', 'ada', `${PORT}--ada`, 'nobody']) {
        await fresh((page, context) => recovers(page, context, count, label, at), { ignoreHTTPSErrors: true });
      }
    }
    // docs/security.md describes this limit: nginx reads at most 32 KiB of headers per request, which limits its memory.
    await fresh(
      async (page, context) => {
        await bombed(page, context, 10, at);
        await assert.rejects(page.goto(`${at('')}/`), /ERR_(CONNECTION_CLOSED|HTTP2)/);
        await context.clearCookies({ name: /^bomb/ });
        const again = await context.newPage();
        assert.equal((await again.goto(`${at('')}/`)).status(), 200, 'after the user has deleted the cookies in the browser');
      },
      { ignoreHTTPSErrors: true },
    );
  } finally {
    await putInForce(before);
  }
});
