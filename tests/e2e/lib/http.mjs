// HTTP as bytes, without corrections: tests must be able to send what a browser never would.
import { connect } from 'node:net';
import { request as unixRequest } from 'node:http';
import { api, domain, port } from './place.mjs';

export const NAVIGATE = { 'Sec-Fetch-Mode': 'navigate', 'Sec-Fetch-Dest': 'document', Accept: 'text/html' };

/** Sends exactly these bytes; resolves with the parsed response once the server has closed the connection. */
export function bytes(text, { seconds = 20 } = {}) {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(Buffer.from(text, 'latin1')));
    const chunks = [];
    socket.setTimeout(seconds * 1000, () => socket.destroy(new Error(`the response is not complete after ${seconds} s`)));
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('error', reject);
    socket.on('close', () => resolve(parse(Buffer.concat(chunks))));
  });
}

/** The parsed head and body of a response. Header names are in lower case; each maps to the list of its values. */
export function parse(buffer) {
  const text = buffer.toString('latin1');
  const end = text.indexOf('\r\n\r\n');
  const [first, ...lines] = text.slice(0, Math.max(end, 0)).split('\r\n');
  const headers = {};
  for (const line of lines) {
    const at = line.indexOf(':');
    (headers[line.slice(0, at).toLowerCase()] ??= []).push(line.slice(at + 1).trim());
  }
  let body = end < 0 ? '' : text.slice(end + 4);
  if (headers['transfer-encoding']?.includes('chunked')) body = dechunk(body);
  return { status: Number(first.split(' ')[1]), headers, body: Buffer.from(body, 'latin1').toString(), text };
}

function dechunk(body) {
  let out = '';
  for (let at = 0; at < body.length; ) {
    const end = body.indexOf('\r\n', at);
    const size = parseInt(body.slice(at, end), 16);
    if (!size) break;
    out += body.slice(end + 2, end + 2 + size);
    at = end + 2 + size + 2;
  }
  return out;
}

export const host = (label) => `${label ? `${label}.` : ''}${domain}:${port}`;

/** One request. `headers` is an object or a list of pairs (for duplicates); an undefined value leaves the header out. */
export function send({ label = '', target = '/', method = 'GET', headers = {}, body = '', version = '1.1' }) {
  const pairs = Array.isArray(headers) ? headers : Object.entries(headers);
  const has = (name) => pairs.some(([key]) => key.toLowerCase() === name);
  const all = [...(has('host') ? [] : [['Host', host(label)]]), ...pairs, ['Connection', 'close']];
  if (body && !has('content-length')) all.push(['Content-Length', Buffer.byteLength(body)]);
  const lines = all.filter(([, value]) => value !== undefined).map(([key, value]) => `${key}: ${value}\r\n`);
  return bytes(`${method} ${target} HTTP/${version}\r\n${lines.join('')}\r\n${Buffer.from(body).toString('latin1')}`);
}

/** Sends a request to csm's API socket, as the operator. */
export function operator(path, { method = 'GET', body = '' } = {}) {
  return new Promise((resolve, reject) => {
    const asked = unixRequest({ socketPath: api, path, method, headers: { host: 'csm' } }, (answer) => {
      const chunks = [];
      answer.on('data', (chunk) => chunks.push(chunk));
      answer.on('end', () => resolve({ status: answer.statusCode, body: Buffer.concat(chunks).toString() }));
    });
    asked.on('error', reject);
    asked.end(body);
  });
}

/** A workspace, as the API shows it. */
export async function workspace(person) {
  const { status, body } = await operator(`/api/v1/workspaces/${person}`);
  return status === 200 ? JSON.parse(body) : { state: 'absent' };
}
