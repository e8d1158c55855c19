// Connections as bytes, over TCP and TLS, from any address of this host. Responses are read until the server closes the connection, or
// sends nothing for a while.
import { connect } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { once } from 'node:events';
import { parse } from '../../e2e/lib/http.mjs';

/** Opens a connection. `alpn` is h2 or http/1.1; `servername` is required with TLS. */
export async function dial({ port, path, secure = false, servername, alpn = 'http/1.1', from }) {
  const socket = secure
    ? connectTls({ port, host: '127.0.0.1', servername, ALPNProtocols: [alpn], rejectUnauthorized: false, localAddress: from })
    : path
      ? connect(path)
      : connect({ port, host: '127.0.0.1', localAddress: from });
  await once(socket, secure ? 'secureConnect' : 'connect');
  // A server that refuses a request may close the connection during a write.
  socket.on('error', () => {});
  return socket;
}

/** Writes the parts, each in a separate packet, and resolves with all bytes of the response; `done` can end the wait early. */
export function talk(socket, parts, { idle = 1000, done = () => false } = {}) {
  return new Promise((resolve) => {
    const chunks = [];
    let timer;
    const finish = () => {
      clearTimeout(timer);
      socket.destroy();
      resolve(Buffer.concat(chunks));
    };
    const wait = () => {
      clearTimeout(timer);
      timer = setTimeout(finish, idle);
    };
    socket.on('data', (chunk) => {
      chunks.push(chunk);
      if (done(Buffer.concat(chunks))) finish();
      else wait();
    });
    socket.on('close', finish);
    wait();
    const write = (at) => {
      if (at === parts.length || socket.destroyed) return;
      socket.write(typeof parts[at] === 'string' ? Buffer.from(parts[at], 'latin1') : parts[at]);
      setImmediate(write, at + 1);
    };
    write(0);
  });
}

/** Sends exactly these bytes; resolves with the parsed response as soon as its head and a body of the announced length have arrived. */
export async function answerTo(where, ...parts) {
  const complete = (bytes) => {
    const final = withoutContinue(bytes);
    const end = final.indexOf('\r\n\r\n');
    const head = final.subarray(0, Math.max(end, 0)).toString('latin1');
    if (/^HTTP\/1\.1 101/.test(head)) return true;
    const length = /\r\ncontent-length: (\d+)/i.exec(head);
    return end >= 0 && length !== null && final.length >= end + 4 + Number(length[1]);
  };
  return parse(withoutContinue(await talk(await dial(where), parts, { idle: 5000, done: complete })));
}

const CONTINUE = 'HTTP/1.1 100 Continue\r\n\r\n';
const withoutContinue = (bytes) => (bytes.subarray(0, CONTINUE.length).toString('latin1') === CONTINUE ? bytes.subarray(CONTINUE.length) : bytes);
