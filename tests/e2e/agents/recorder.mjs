// Records what a workspace's programs report on its own socket, in csm's place.
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { createServer } from 'node:http';

/** Listens on a unix socket. */
export async function startRecorder(socket) {
  rmSync(socket, { force: true });
  const reports = [];
  let changed = () => {};
  const server = createServer(async (request, response) => {
    const text = Buffer.concat(await request.toArray()).toString();
    const id = decodeURIComponent(request.url.split('/').at(-1));
    reports.push({ id, ...(request.method === 'DELETE' ? { state: 'idle' } : JSON.parse(text)) });
    response.end('{"text":"recorded","verdict":{}}');
    changed();
  }).listen(socket);
  await once(server, 'listening');
  /** The agents' newest states. */
  const states = () => Object.fromEntries(reports.map(({ id, state }) => [id, state]));
  return {
    reports,
    states,
    /** Resolves when the newest reports are as wanted. */
    async until(what, wanted, seconds = 60) {
      const late = AbortSignal.timeout(seconds * 1000);
      while (!wanted(Object.values(states()), reports)) {
        await new Promise((resolve, reject) => {
          changed = resolve;
          late.onabort = () => reject(new Error(`waited ${seconds} s for ${what}; reported: ${JSON.stringify(reports)}`));
          if (late.aborted) late.onabort();
        });
      }
    },
    /** Forgets what was reported. */
    clear: () => reports.splice(0),
    close: () => (server.closeAllConnections(), server.close()),
  };
}
