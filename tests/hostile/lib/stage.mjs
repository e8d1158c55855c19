// A stage is nginx with csm's configuration, and servers behind it that record each byte instead of csm and workspaces. It needs no Podman.
// It has its own copies of the configuration files, so that a test can remove a layer of the defence.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { declare, putInForce } from '../../e2e/lib/demo.mjs';
import { csmRun, data, demo, domain, ownAccount, port, read, repo, scratch } from '../../e2e/lib/place.mjs';
import { until } from '../../e2e/lib/until.mjs';
import { RequestReader } from './strict.mjs';

export function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

/** Creates a self-signed certificate for a domain and its subdomains in an existing directory. */
export function certificate(directory, name) {
  const [certificate, certificateKey] = [`${directory}/certificate.pem`, `${directory}/key.pem`];
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '30',
    '-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name},DNS:*.${name}`, '-out', certificate, '-keyout', certificateKey], { stdio: 'pipe' });
  return { certificate, certificateKey };
}

/** Runs `work` while the demo's `frontDoor` has a certificate, and passes it the port; `change` can change more of the manifest. */
export async function overTls(work, change = () => {}) {
  const directory = `${data}/tls`;
  mkdirSync(directory, { recursive: true });
  const files = certificate(directory, domain);
  if (ownAccount) execFileSync('chown', ['-R', `--reference=${data}`, directory]);
  const listens = await freePort();
  const before = await declare((manifest) => {
    manifest.frontDoor = { listen: `127.0.0.1:${listens}`, ...files };
    change(manifest);
  });
  try {
    // nginx's old workers close the old port a moment after the reload. Until then csm could not listen on it again.
    await until('the port with TLS, and no other', async () => (await reachable(listens)) && !(await reachable(port)));
    return await work(listens);
  } finally {
    await putInForce(before);
    await until('the port without TLS', async () => (await reachable(port)) && !(await reachable(listens)));
    rmSync(directory, { recursive: true });
  }
}

function reachable(number) {
  return new Promise((resolve) => {
    const socket = connect(number, '127.0.0.1', () => resolve(true) || socket.destroy());
    socket.on('error', () => resolve(false));
  });
}

const written = () => readFileSync(`${csmRun}/nginx/nginx.conf`, 'utf8');

/** The nginx.conf that csm wrote for the demo: the current one, and one with a certificate and a port for an SSH tunnel. */
export const asCsmWrites = {
  plain: async () => ({ text: written(), places: csmPlaces }),
  tls: async () => {
    const tunnel = await freePort();
    return { text: await overTls(written, (manifest) => (manifest.users.ada.port = tunnel)), places: csmPlaces };
  },
};

const csmPlaces = ({ text, directory, share, plain, tls, files }) =>
  text
    .replaceAll('@SHARE@', share)
    .replaceAll('@RUN@', directory)
    .replaceAll(`${demo}/app/share/nginx`, share)
    .replaceAll(csmRun, directory)
    .replaceAll(/listen 127\.0\.0\.1:\d+( ssl)?/g, (_, ssl) => (ssl ? `listen 127.0.0.1:${tls} ssl` : `listen 127.0.0.1:${plain}`))
    .replaceAll(/ssl_certificate "[^"]*"/g, `ssl_certificate "${files.certificate}"`)
    .replaceAll(/ssl_certificate_key "[^"]*"/g, `ssl_certificate_key "${files.certificateKey}"`);

/** The nginx.conf that the NixOS module writes, from the guest's tests, with the stage's paths and ports. */
export const asNixOsWrites = async () => ({
  text: readFileSync(`${repo}/vm-tests/guest/written/store/nginx.conf`, 'utf8'),
  domain: 'code.test',
  places: ({ text, directory, share, plain, tls, files }) =>
    text
      .replaceAll('/nix/store/code-server-multi/share/code-server-multi/nginx', share)
      // A self-signed certificate has no issuer that nginx could ask.
      .replaceAll(/ssl_stapling(_verify)? on;/g, '')
      // MIME types and FastCGI parameters: no test needs them, and every distribution stores them in another place.
      .replaceAll(/include \/nix\/store\/(mailcap|nginxStable)\/[^;]*;/g, '')
      .replaceAll('/run/code-server-multi', directory)
      .replaceAll('/var/cache/nginx/code-server-multi', `${directory}/authorized`)
      .replaceAll('/run/test/certificate.pem', files.certificate)
      .replaceAll('/run/test/key.pem', files.certificateKey)
      .replaceAll(/listen \[::0\]:\d+[^;]*;/g, '')
      .replaceAll(/listen 0\.0\.0\.0:80\b/g, `listen 127.0.0.1:${plain}`)
      // Before nginx 1.25 `http2` was a parameter of `listen`.
      .replaceAll(/listen 0\.0\.0\.0:443 ssl/g, `listen 127.0.0.1:${tls} ssl http2`)
      .replaceAll('http2 on;', ''),
});

/** The nginx.conf that csm wrote when unauthenticated visitors' bodies reached it (issue 9). It shows that the tests detect that. */
export const vulnerable = async () => {
  const directory = `${repo}/tests/hostile/fixtures/issue-9`;
  return { text: readFileSync(`${directory}/nginx.conf`, 'utf8'), shareFrom: directory, asksAtFront: true, places: csmPlaces };
};

/** How the recording csm answers an auth_request subrequest: by the rules of access/request.rs, with one valid cookie. */
export const ALLOWED = '__Host-csm-workspace=right';
const JUDGED = ['origin', 'sec-fetch-site', 'sec-fetch-mode', 'sec-fetch-dest', 'upgrade'];
export function judge(request) {
  const one = (name) => request.all(name)[0] ?? '';
  if (one('host') === '' || JUDGED.some((name) => request.all(name).length > 1)) return 403;
  const own = request.all('cookie').flatMap((value) => value.split(';')).map((pair) => pair.trim()).filter((pair) => pair.startsWith(`${ALLOWED.split('=')[0]}=`));
  // A cookie that occurs twice is ignored.
  if (own.length !== 1 || own[0] !== ALLOWED) return 401;
  return isOwn(one, one('x-csm-method'), one('x-csm-upgrade'), one('host')) ? 204 : 403;
}

export function isOwn(one, method, upgrade, host) {
  const own = [`http://${host}`, `https://${host}`].includes(one('origin'));
  if (!['GET', 'HEAD'].includes(method) || upgrade) return own;
  const navigates = one('sec-fetch-mode') === 'navigate';
  const framed = ['iframe', 'frame', 'embed', 'object', 'fencedframe'].includes(one('sec-fetch-dest'));
  const fits = one('origin') === '' || own || navigates;
  return fits && (!['same-site', 'cross-site'].includes(one('sec-fetch-site')) || (navigates && !framed));
}

export class Stage {
  /** The requests that arrived, in order: `{ at, connection, request }`; `at` is front, question or a workspace's name. */
  arrived = [];
  /** Bytes that are not a valid request, and remaining bytes that belong to no request. */
  broken = [];
  #sockets = new Set();
  #connections = new Set();
  #servers = [];
  #log = '';

  /**
   * `configuration` is one of the above. `edit` maps a file's name (nginx.conf, http.conf, …) to a function that changes its text.
   * `answer` can override the default response to a request: `{ status, headers, body, close }`.
   */
  static async start(configuration, { edit = {}, answer = () => undefined } = {}) {
    const stage = new Stage();
    const { text, places, shareFrom = `${repo}/share/nginx`, domain: name = domain, asksAtFront = false } = await configuration();
    // Unix sockets' paths must be short.
    const directory = mkdtempSync(`${tmpdir()}/csm-st-`);
    chmodSync(directory, 0o700);
    stage.directory = directory;
    stage.domain = name;
    // In issue 9 the auth_request subrequest had no separate socket.
    stage.asksAtFront = asksAtFront;
    stage.answer = answer;
    const share = `${directory}/share`;
    cpSync(shareFrom, share, { recursive: true });
    // The stage reads the requests that nginx received from its own access log.
    const cookies = `${share}/cookies.conf`;
    if (existsSync(cookies)) writeFileSync(cookies, readFileSync(cookies, 'utf8').replace('access_log off;', ''));
    for (const sub of ['nginx', 'ws/ada', 'ws/grace', 'ws/project']) mkdirSync(`${directory}/${sub}`, { recursive: true });
    const change = (file, text) => (edit[file] ? changed(edit[file], text, file) : text);
    for (const file of Object.keys(edit)) {
      if (file !== 'nginx.conf') writeFileSync(`${share}/${file}`, change(file, readFileSync(`${share}/${file}`, 'utf8')));
    }
    [stage.plain, stage.tls] = [await freePort(), await freePort()];
    const files = certificate(directory, name);
    const conf = stage.#finish(change('nginx.conf', places({ text, directory, share, plain: stage.plain, tls: stage.tls, files })));
    writeFileSync(`${directory}/nginx.conf`, conf);
    stage.hasTls = conf.includes(`:${stage.tls} ssl`);
    // A server block without TLS on the stage's plain port, in addition to those with TLS.
    stage.hasTunnel = stage.hasTls && conf.includes('port:ada');
    await stage.#listen('front', `${directory}/front.sock`);
    await stage.#listen('question', `${directory}/question.sock`);
    for (const one of ['ada', 'grace', 'project']) await stage.#listen(one, `${directory}/ws/${one}/http.sock`);
    await stage.#startNginx(stage.hasTls ? stage.tls : stage.plain);
    return stage;
  }

  // One worker, so that nginx uses a connection that an attack affected for the next request; and a log of the requests that nginx received.
  #finish(text) {
    const { directory } = this;
    const own = `
    log_format seen escape=json '{"marker":"$http_x_marker","method":"$request_method","target":"$request_uri","status":"$status"}';
    access_log ${directory}/seen.log seen;
    ${text.includes('client_body_temp_path') ? '' : ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((one) => `${one}_temp_path ${directory}/nginx/${one};`).join('\n    ')}
`;
    const rest = text
      .replaceAll(/^\s*(daemon|user|worker_processes|pid|error_log|access_log)\s[^;]*;/gm, '')
      .replace(/^(\s*)http\s*\{/m, (start) => `${start}${own}`);
    const user = process.getuid() === 0 ? 'user root;\n' : '';
    return `${user}worker_processes 1;\npid ${directory}/nginx.pid;\nerror_log ${directory}/error.log notice;\ndaemon off;\n${rest}`;
  }

  async #startNginx(listens) {
    this.nginx = spawn('nginx', ['-p', this.directory, '-e', `${this.directory}/error.log`, '-c', `${this.directory}/nginx.conf`], {
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    const ended = once(this.nginx, 'exit');
    const over = ended.then(() => {
      throw new Error(`nginx exited: ${read(`${this.directory}/error.log`)}`);
    });
    over.catch(() => {});
    await Promise.race([until('the stage to listen', () => reachable(listens), { every: 20 }), over]);
    this.ended = ended;
  }

  async #listen(at, path) {
    const server = createServer((socket) => this.#record(at, socket));
    this.#servers.push(server);
    server.listen(path);
    await once(server, 'listening');
  }

  #record(at, socket) {
    const connection = { at, bytes: [], reader: new RequestReader(), requests: 0 };
    this.#sockets.add(socket);
    this.#connections.add(connection);
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#sockets.delete(socket);
      this.#connections.delete(connection);
      this.#rest(connection);
    });
    socket.on('data', (chunk) => {
      connection.bytes.push(chunk);
      let requests;
      try {
        requests = connection.reader.push(chunk);
      } catch (error) {
        this.broken.push({ at, why: error.message, bytes: Buffer.concat(connection.bytes).toString('latin1') });
        return socket.destroy();
      }
      for (const request of requests) {
        connection.requests += 1;
        this.arrived.push({ at, connection, request });
        this.#reply(at, socket, request);
      }
    });
  }

  #rest(connection) {
    const rest = connection.reader.unfinishedHead();
    if (rest) this.broken.push({ at: connection.at, why: 'bytes that belong to no request', bytes: rest });
  }

  #reply(at, socket, request) {
    const own = this.answer(at, request) ?? {};
    const judged = at === 'question' || request.path === '/_csm/authorize';
    const status = own.status ?? (judged ? judge(request) : { '/_csm/sign-in': 401, '/_csm/refused': 403, '/_csm/wake': 503 }[request.path] ?? 200);
    const body = own.body ?? (judged ? '' : JSON.stringify({ at, marker: request.all('x-marker'), target: request.target, method: request.method }));
    const headers = own.headers ?? [];
    const close = own.close ?? request.all('connection').some((value) => value.toLowerCase() === 'close');
    const length = status === 204 ? '' : `Content-Length: ${Buffer.byteLength(body)}\r\n`;
    const head = [...headers, ...(close ? ['Connection: close'] : [])].map((line) => `${line}\r\n`).join('');
    socket.write(`HTTP/1.1 ${status} X\r\n${length}${head}\r\n${request.method === 'HEAD' ? '' : body}`);
    if (close) socket.end();
  }

  /** The requests that nginx logged since the last call. */
  seen() {
    // latin1 preserves the bytes.
    const text = existsSync(`${this.directory}/seen.log`) ? readFileSync(`${this.directory}/seen.log`, 'latin1') : '';
    const fresh = text.slice(this.#log.length);
    const whole = fresh.slice(0, fresh.lastIndexOf('\n') + 1);
    this.#log += whole;
    return whole.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  }

  /** Copies nginx's logs to the directory of the demo's log, which is kept if a test fails. */
  keepLogs() {
    for (const name of ['seen', 'error']) cpSync(`${this.directory}/${name}.log`, `${scratch}/${this.directory.split('/').at(-1)}-${name}.log`);
  }

  /** Incomplete request heads on open connections. nginx sends complete heads, so these bytes are findings. */
  unfinished() {
    return [...this.#connections].flatMap(({ at, reader }) => {
      const bytes = reader.unfinishedHead();
      return bytes ? [{ at, why: 'bytes that belong to no request', bytes }] : [];
    });
  }

  forget() {
    this.arrived.length = 0;
    this.broken.length = 0;
  }

  at(name) {
    return this.arrived.filter((one) => one.at === name).map((one) => one.request);
  }

  /** The host and port for a label; without a label the dashboard's. */
  host(label = '') {
    const port = this.hasTls ? this.tls : this.plain;
    return `${label ? `${label}.` : ''}${this.domain}:${port}`;
  }

  async stop() {
    for (const socket of this.#sockets) socket.destroy();
    for (const server of this.#servers) server.close();
    if (this.nginx.exitCode === null) this.nginx.kill('SIGTERM');
    await this.ended;
    rmSync(this.directory, { recursive: true });
  }
}

function changed(change, text, file) {
  const next = change(text);
  assert.notEqual(next, text, `the test changes ${file}`);
  return next;
}

