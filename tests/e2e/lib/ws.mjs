// A WebSocket without a client library, so that a test can choose the handshake's headers and read a refusal.
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect } from 'node:net';
import { parse, host } from './http.mjs';
import { origin, port } from './place.mjs';

/** Resolves with `{status, socket}`: 101 and an open connection, or the refusal. `from: null` leaves the Origin header out. */
export async function handshake({ label, target = '/', headers = {}, from = origin(label), upgrade = 'websocket' }) {
  const socket = connect(port, '127.0.0.1');
  const all = {
    Host: host(label),
    Connection: 'Upgrade',
    Upgrade: upgrade,
    'Sec-WebSocket-Version': '13',
    'Sec-WebSocket-Key': randomBytes(16).toString('base64'),
    ...(from === null ? {} : { Origin: from }),
    ...headers,
  };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(`GET ${target} HTTP/1.1\r\n${lines.join('')}\r\n`);
  let got = Buffer.alloc(0);
  socket.setTimeout(20_000, () => socket.destroy(new Error('no response to the handshake after 20 s')));
  while (!got.includes('\r\n\r\n')) {
    const [chunk] = await once(socket, 'data');
    got = Buffer.concat([got, chunk]);
  }
  socket.setTimeout(0);
  const answer = parse(got);
  if (answer.status !== 101) socket.destroy();
  return { ...answer, socket };
}

/** Sends one text message (under 126 bytes) and resolves with the next message. */
export async function say(socket, text) {
  const mask = randomBytes(4);
  const body = Buffer.from(text).map((byte, at) => byte ^ mask[at % 4]);
  socket.write(Buffer.concat([Buffer.from([0x81, 0x80 | body.length]), mask, body]));
  const [chunk] = await once(socket, 'data', { signal: AbortSignal.timeout(10_000) });
  return chunk.subarray(2, 2 + (chunk[1] & 0x7f)).toString();
}
