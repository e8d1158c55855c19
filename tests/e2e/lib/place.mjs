// The demo's directories, read from the script that chooses them, and commands that run as the demo's account.
import { execFile, execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export const repo = fileURLToPath(new URL('../../..', import.meta.url)).replace(/\/$/, '');
export const scripts = `${repo}/scripts`;

// Without these variables a test would use any demo that runs on this host.
for (const name of ['CSM_DEMO_ACCOUNT', 'CSM_E2E_PORT', 'CSM_E2E_SCRATCH']) {
  if (!process.env[name]) throw new Error(`${name} is not set: the tests are started by tests/e2e/run`);
}

const asked = execFileSync('bash', [
  '-c',
  '. "$1/demo-lib"; printf "%s\\n" "$OWN_ACCOUNT" "$ACCOUNT" "$DEMO" "$DATA" "$RUN"; id -u "$ACCOUNT" 2>/dev/null || true',
  'place',
  scripts,
]);
const [own, account, demo, data, run] = asked.toString().split('\n');

/** Whether the demo has a separate account, as it has when root starts it. */
export const ownAccount = own !== '';
export { account, demo, data };
export const csmRun = `${run}/code-server-multi`;
export const api = `${csmRun}/api.sock`;
export const manifestPath = `${data}/manifest.json`;
export const database = `${data}/state/code-server-multi/state.db`;
export const port = Number(process.env.CSM_E2E_PORT);
export const domain = 'code.localhost';
/** A directory that the runner and the test files share; each is a separate process. */
export const scratch = process.env.CSM_E2E_SCRATCH;
export const demoLog = `${scratch}/demo.log`;

/** The account's numeric id: files in a workspace must be its. */
export function accountId() {
  return ownAccount ? Number(execFileSync('id', ['-u', account])) : process.getuid();
}

export const password = (person) => readFileSync(`${data}/passwords/${person}`, 'utf8').trim();

/** `https://…` without a trailing slash; no label is the dashboard. */
export const origin = (label) => `http://${label ? `${label}.` : ''}${domain}:${port}`;

/** Runs a command with the demo's account and environment. Resolves with status and output, whatever the status. */
export function inAccount(command, { input = '' } = {}) {
  return new Promise((resolve) => {
    const program = ['-c', '. "$1/demo-lib"; shift; become "$@"', 'become', scripts, ...command];
    const child = execFile('bash', program, { maxBuffer: 64 << 20 }, (error, stdout, stderr) => {
      resolve({ status: error ? (error.code ?? 1) : 0, stdout, stderr });
    });
    child.stdin.end(input);
  });
}

/** The command line of the csm that the demo runs. */
export const csm = (...args) => inAccount([`${demo}/app/bin/csm`, ...args]);

/** Runs a command in a user's workspace; throws unless it succeeds. */
export async function inside(person, ...command) {
  const { status, stdout, stderr } = await csm('shell', person, '--', ...command);
  if (status !== 0) throw new Error(`in ${person}: ${command.join(' ')}: ${status}: ${stderr}`);
  return stdout;
}

/** The files in a workspace's /run/csm that are neither csm's nor code-server's. */
export async function foreignFiles(person) {
  const own = ['.csm.new', 'announcement', 'control.sock', 'http.sock', 'status'];
  return (await inside(person, 'ls', '-A', '/run/csm')).trim().split('\n').filter((name) => !own.includes(name));
}

export const hostFile = (person, path) => `${data}/workspaces/${person}/${path}`;
export function read(path) {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    // Not there, or of a process that has exited meanwhile.
    if (['ENOENT', 'ESRCH'].includes(error.code)) return '';
    throw error;
  }
}
