// Starts and stops the real demo, and changes its manifest.
import { spawn } from 'node:child_process';
import { chownSync, existsSync, openSync, readFileSync, readdirSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { once } from 'node:events';
import { isDeepStrictEqual } from 'node:util';
import { operator, send, workspace } from './http.mjs';
import { accountId, data, demoLog, manifestPath, port, read, repo, scratch } from './place.mjs';
import { until } from './until.mjs';

const pidFile = `${scratch}/demo.pid`;

/** Runs `make demo`; resolves once the dashboard responds. The output goes to a file. */
export async function startDemo({ seconds = 60 } = {}) {
  const from = read(demoLog).length;
  const log = openSync(demoLog, 'a');
  // A separate process group, like a terminal's job: Ctrl-C signals the whole group.
  const child = spawn('make', ['--silent', '-C', repo, 'demo'], {
    detached: true,
    stdio: ['ignore', log, log],
    env: { ...process.env, PORT: String(port) },
  });
  child.unref();
  writeFileSync(pidFile, String(child.pid));
  let over = false;
  const ended = once(child, 'exit').then(([code, signal]) => {
    over = true;
    throw new Error(`make demo exited (${code ?? signal}); its log:\n${read(demoLog).slice(from)}`);
  });
  // After the dashboard has responded no code awaits this promise.
  ended.catch(() => {});
  const answers = until('the dashboard to respond', async () => over || (await send({ target: '/sign-in' })).status === 200, {
    seconds,
    every: 500,
  });
  await Promise.race([answers, ended]);
}

/** The processes of the demo's group that are alive. */
export function group() {
  const leader = read(pidFile);
  return processes().filter((one) => one.group === leader && one.state !== 'Z');
}

/** All processes: id, group, state, name, owner, arguments. */
export function processes() {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        const [, name, rest] = /^\d+ \((.*)\) (.*)$/s.exec(readFileSync(`/proc/${pid}/stat`, 'utf8'));
        const [state, parent, group] = rest.split(' ');
        const uid = statSync(`/proc/${pid}`).uid;
        const args = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').join(' ').trim();
        return [{ pid: Number(pid), name, state, parent: Number(parent), group, uid, args }];
      } catch {
        return []; // The process has exited meanwhile.
      }
    });
}

/** The processes of the demo's own account: csm, nginx, podman, conmon, and those in workspaces that run as uid 1000. */
export function demoProcesses() {
  if (!existsSync(data)) return [];
  const uid = accountId();
  // An ordinary account also runs other processes. Callers recognise the demo's by their arguments, which contain its directories.
  return processes().filter((one) => one.uid === uid && one.state !== 'Z');
}

export const csmProcess = () => demoProcesses().find((one) => one.name === 'csm' && one.args.includes(' up '));

/** Sends Ctrl-C to the demo; resolves when the whole group has exited. */
export async function interrupt({ seconds = 60 } = {}) {
  process.kill(-Number(read(pidFile)), 'SIGINT');
  await until('the demo to exit', () => group().length === 0, { seconds });
}

export const manifest = () => JSON.parse(readFileSync(manifestPath, 'utf8'));

/** Replaces the manifest in one step, as an editor or a deployment does. */
export function writeManifest(text) {
  const next = `${manifestPath}.test`;
  writeFileSync(next, text, { mode: 0o600 });
  const { uid, gid } = statSync(data);
  chownSync(next, uid, gid);
  renameSync(next, manifestPath);
}

/** Changes the manifest and waits until csm has applied it. Resolves with the previous text. */
export async function declare(change) {
  const before = readFileSync(manifestPath, 'utf8');
  const next = JSON.parse(before);
  change(next);
  await putInForce(JSON.stringify(next, null, 2));
  return before;
}

export async function putInForce(text) {
  // csm logs nothing for a text with the same content.
  const same = isDeepStrictEqual(JSON.parse(readFileSync(manifestPath, 'utf8')), JSON.parse(text));
  if (same) return writeManifest(text);
  const taken = () => read(demoLog).split('applied a new manifest').length;
  const before = taken();
  writeManifest(text);
  await until('csm to apply the manifest', () => taken() > before);
}

/** Resolves when a workspace is in this state. */
export function reaches(person, wanted, { seconds = 90 } = {}) {
  return until(`${person} to be ${wanted}`, async () => (await workspace(person)).state === wanted, { seconds });
}

export async function stopped(person) {
  await operator(`/api/v1/workspaces/${person}/stop`, { method: 'POST' });
  await reaches(person, 'stopped');
}

export async function running(person) {
  await operator(`/api/v1/workspaces/${person}/start`, { method: 'POST' });
  await reaches(person, 'running');
}

/** Writes a file into a user's project, with the owner that the user's own files have. */
export function give(person, name, content) {
  const path = `${data}/workspaces/${person}/workspace/${name}`;
  writeFileSync(path, content);
  const { uid, gid } = statSync(data);
  chownSync(path, uid, gid);
  return path;
}
