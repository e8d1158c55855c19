// A user's program that listens on a port of their workspace.
import { readFileSync } from 'node:fs';
import { give } from './demo.mjs';
import { inside } from './place.mjs';
import { until } from './until.mjs';

/** Starts fixtures/echo.mjs on a port inside a running workspace, unless it runs already. */
export async function echo(person, port) {
  const asks = `python3 -c 'import socket; socket.create_connection(("127.0.0.1", ${port}))'`;
  const listens = () => inside(person, 'sh', '-c', `${asks} 2>/dev/null && echo yes || true`);
  if ((await listens()).includes('yes')) return;
  give(person, 'echo.mjs', readFileSync(`${import.meta.dirname}/../fixtures/echo.mjs`));
  await inside(person, 'sh', '-c', `setsid node ~/project/echo.mjs ${port} >/dev/null 2>&1 </dev/null &`);
  await until('the echo program to listen', async () => (await listens()).includes('yes'));
}
