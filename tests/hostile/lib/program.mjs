// Runs fixtures of tests/hostile inside a workspace.
import { readFileSync } from 'node:fs';
import { give } from '../../e2e/lib/demo.mjs';
import { inside } from '../../e2e/lib/place.mjs';
import { until } from '../../e2e/lib/until.mjs';

/** Starts a fixture on a port inside a running workspace, unless a program already listens on that port. */
export async function program(person, name, port) {
  const asks = `python3 -c 'import socket; socket.create_connection(("127.0.0.1", ${port}))'`;
  const listens = async () => (await inside(person, 'sh', '-c', `${asks} 2>/dev/null && echo yes || true`)).includes('yes');
  if (await listens()) return;
  give(person, name, readFileSync(`${import.meta.dirname}/../fixtures/${name}`));
  await inside(person, 'sh', '-c', `setsid node ~/project/${name} ${port} >/dev/null 2>&1 </dev/null &`);
  await until(`${name} to listen`, listens);
}
