// Malformed and unusual requests, each a function of a number. A case describes the bytes to write on one connection, `parts` in that order,
// and how many requests nginx may read in them.
import { ALLOWED } from './stage.mjs';
import { PREFACE, request } from './h2.mjs';
import { Random } from './random.mjs';

const LABELS = ['', 'ada', 'ada', 'grace', '3000--ada', '3000--grace', 'project', 'nobody'];
const METHODS = ['GET', 'GET', 'GET', 'POST', 'POST', 'PUT', 'HEAD', 'OPTIONS', 'DELETE', 'PATCH', 'CONNECT', 'TRACE', 'get', 'PROPFIND', 'G@T', 'PRI', ''];
const PATHS = [
  '/', '/', '/x', '/a/b?c=d', '/?/', '/sign-in', '/sign-in?x', '/sign-out', '/workspaces/ada/stop?csrf=x', '/api/v1/workspaces/grace/stop',
  '/_csm/authorize', '/_csm/sign-in', '/_csm/sign-in-here', '/_csm/refused', '/_csm/wake', '/_csm/clear', '/_csm/callback?code=x', '/_csm/static/style.css',
  '/_csm/../x', '/x/..%2f_csm/wake', '/_CSM/wake', '//_csm/wake', '/proxy/3000/', '/absproxy/3000/x', '/PROXY/3000', '//proxy/3000', '/%70roxy/3000/',
  '/x/..%2fproxy/3000', '/x/../proxy/3000', '/./proxy/3000', '/proxy%2f3000', '/%2e/proxy/3', '/\\proxy/3000', '/x\\..\\proxy/3000', '/proxy', '/proxy?x',
  '/proxy/3000/..%2f..%2fx', '/ABSPROXY/3000/%2e%2e%2f%2e%2e%2fx', '/proxy/3000/..%2f..%2f_static/out/browser/serviceWorker.js',
  '/proxy;x/3000', '/x#/../proxy/3', '/#', '/%00', '/%zz', '/..', '/../x', '/%0d%0aX-A:%20b', '/\xe9', '/%2570roxy/1', '/a%20b', '/a b', '/stable-x/vscode-remote-resource?path=/x',
];

function target(random, host) {
  const path = random.pick(PATHS);
  switch (random.below(16)) {
    case 0: return `http://${host}${path}`;
    case 1: return `http://evil.example${path}`;
    case 2: return `https://${host}${path}`;
    case 3: return random.pick(['*', host, '', '?x', 'x', `http://${host}`, `http://${host}?x`, `HTTP://${host}/`, `http://x@${host}/`, `/${'a'.repeat(random.below(9000))}`]);
    default: return path;
  }
}

/** Headers that csm checks, csm's own, and those that control the connection; each in unusual spellings. */
function headers(random, origin) {
  const list = [];
  const some = random.below(5);
  for (let at = 0; at < some; at++) list.push(...oneHeader(random, origin));
  return list;
}

function oneHeader(random, origin) {
  const judged = [
    ['Origin', [origin, origin, 'null', 'https://evil.example', '', '0']],
    ['Sec-Fetch-Site', ['same-origin', 'none', 'same-site', 'cross-site', '']],
    ['Sec-Fetch-Mode', ['navigate', 'cors', 'no-cors', '']],
    ['Sec-Fetch-Dest', ['document', 'empty', 'iframe', '']],
    ['Sec-Purpose', ['prefetch']],
    ['Accept', ['text/html', '*/*']],
  ];
  switch (random.below(14)) {
    case 0: {
      const [name, values] = random.pick(judged);
      return [[name, random.pick(values)], [random.pick([name, name.toLowerCase(), name.toUpperCase()]), random.pick(values)]];
    }
    case 1: case 2: case 3: {
      const [name, values] = random.pick(judged);
      return [[name, random.pick(values)]];
    }
    case 4: {
      const name = random.pick(['X-Csm-Source', 'X-Csm-Site', 'X-Csm-Method', 'X-Csm-Upgrade', 'X-Csm-Uri', 'X_Csm_Source', 'x-csm-source', 'X-Csm-Source ', 'X-Csm-Other']);
      return [[name, 'forged']];
    }
    case 5: return [['Connection', random.pick(['close', 'keep-alive', 'Upgrade', 'close, X-Csm-Site', 'Cookie', 'Host', 'te', 'Content-Length'])]];
    case 6: return [['Upgrade', random.pick(['websocket', 'WebSocket', 'h2c', '', 'websocket, h2c'])], ['Connection', 'Upgrade'], ['HTTP2-Settings', 'AAMAAABkAAQAAP__']];
    case 7: return [['Upgrade', 'websocket'], ['Upgrade', random.pick(['', 'x'])]];
    case 8: return [['Expect', random.pick(['100-continue', '100-Continue', 'x'])]];
    case 9: return [['Cookie', random.pick([ALLOWED, `a=b; ${ALLOWED}`, `${ALLOWED}; ${ALLOWED}`, '__Host-csm-session=x', 'a=b', ';;', `${ALLOWED}x`])]];
    case 10: return [['Forwarded', 'host=evil.example'], ['X-Forwarded-Host', 'evil.example'], ['X-Forwarded-For', 'forged']];
    case 11: return [[random.pick(['X-A', 'X\x00A', 'X A', 'X\xe9', 'X:A', '', ' X', '\tX', 'X_A', '(X)']), random.pick(['b', 'a\r\n folded', 'a\r\n\tX-Csm-Source: forged', '\x00', 'a\nX-Csm-Source: forged', '\xff', 'a\rb'])]];
    case 12: return [['X-Accel-Redirect', '/_csm/wake'], ['TE', 'trailers'], ['Keep-Alive', 'x'], ['Proxy-Connection', 'keep-alive']];
    default: return [['Service-Worker', random.pick(['script', 'x'])]];
  }
}

/** A body that a program could read as a separate request. */
function payload(random, marker, host) {
  const hidden = `GET ${random.pick(['/hidden', '/_csm/static/style.css', '/_csm/authorize', '/x'])} HTTP/1.1\r\nHost: ${host}\r\nX-Marker: hidden-${marker}\r\n`;
  // More than nginx buffers in memory.
  if (random.oneIn(60)) return `${hidden}\r\n`.repeat(300);
  return random.pick([`${hidden}\r\n`, `${hidden}X-Swallow: `, hidden.split('\r\n')[0] + '\r\nX-Swallow: ', 'x'.repeat(random.below(200)), '\r\n', '0\r\n\r\n', 'a=b', `${hidden}Content-Length: 50\r\n\r\n`]);
}

function chunked(random, body) {
  const size = (text) => random.pick([text.length.toString(16), text.length.toString(16).toUpperCase(), `0${text.length.toString(16)}`, `${text.length.toString(16)};x=y`, `${text.length.toString(16)} `]);
  const wrong = random.oneIn(4);
  const end = random.pick(['0\r\n\r\n', '0\r\n\r\n', '0\r\n\r\n', '0\r\nX-Csm-Source: forged\r\n\r\n', '00\r\n\r\n', '0;x\r\n\r\n', '0\n\n', '0\r\n', '']);
  if (!wrong) return `${size(body)}\r\n${body}\r\n${end}`;
  return random.pick([
    `${(body.length + 1).toString(16)}\r\n${body}\r\n${end}`, `${Math.max(body.length - 1, 0).toString(16)}\r\n${body}\r\n${end}`, `-1\r\n${body}\r\n${end}`,
    `0x5\r\n${body}\r\n${end}`, `ffffffffffffffff\r\n${body}`, `10000000000000000\r\n${body}`, `${size(body)}\n${body}\n${end}`, `\r\n${size(body)}\r\n${body}\r\n${end}`, `${size(body)}\r\n${body}${end}`, `+5\r\n${body}\r\n${end}`,
  ]);
}

/** Headers with a right or wrong length of the body, and the body's bytes. */
function framed(random, body) {
  const right = ['Content-Length', body.length];
  const coded = ['Transfer-Encoding', 'chunked'];
  switch (random.below(20)) {
    case 0: case 1: case 2: case 3: return [[right], body];
    case 4: case 5: case 6: return [[coded], chunked(random, body)];
    case 7: return [[right, right], body];
    case 8: return [[right, ['Content-Length', 0]], body];
    case 9: return [[['Content-Length', random.pick([`+${body.length}`, `-${body.length}`, `0x${body.length.toString(16)}`, `${body.length}, ${body.length}`, '99999999999999999999', `${body.length} `, ` ${body.length}`, `0${body.length}`, '', 'x', '1e1'])]], body];
    case 10: return [[['Content-Length', Math.max(body.length - 3, 0)]], body];
    case 11: return [[['Content-Length', body.length + 5]], body];
    case 12: return [[right, coded], chunked(random, body)];
    case 13: return [[coded, ['Content-Length', 0]], chunked(random, body)];
    case 14: return [[['Transfer-Encoding', random.pick(['Chunked', 'chunked, chunked', 'identity', 'gzip, chunked', 'chunked\r\n ', 'x', '', '\x0bchunked', 'chunked;x'])]], chunked(random, body)];
    case 15: return [[coded, ['Transfer-Encoding', 'identity']], chunked(random, body)];
    case 16: return [[['Transfer_Encoding', 'chunked'], right], body];
    case 17: return [[['Content-Length ', body.length]], body];
    case 18: return [[['Transfer-Encoding ', 'chunked'], right], body];
    default: return [[], body];
  }
}

/** Every second request is valid except for some headers or its body, so that many unusual requests reach a workspace. */
function sound(random, origin) {
  const method = random.pick(['GET', 'GET', 'HEAD', 'POST', 'PUT']);
  const target = random.pick(['/', '/x', '/a/b?c=d', '/%20', '/x/../y', '//x', '/sign-in', random.pick(PATHS)]);
  const judged = ['GET', 'HEAD'].includes(method) ? random.pick([[], [], [['Sec-Fetch-Site', 'same-origin']], [['Origin', origin]]]) : [['Origin', origin]];
  const odd = random.pick([[], [], headers(random, origin), oneHeader(random, origin)]);
  return { method, target, rest: [['Cookie', random.pick([ALLOWED, ALLOWED, `a=b; ${ALLOWED}; c=d`, `a=b;${ALLOWED}`, 'a=b'])], ...judged, ...odd] };
}

const cookies = (random) => random.pick([[], [], [['Cookie', ALLOWED]], [['Cookie', `a=b; ${ALLOWED}; c=d`]]]);

function http1(random, stage, marker, tunnel) {
  const label = random.pick(LABELS);
  const own = tunnel ? `127.0.0.1:${stage.plain}` : stage.host(label);
  const host = random.oneIn(20) ? random.pick(['evil.example', stage.host('grace'), stage.host(''), '', own.toUpperCase()]) : own;
  const origin = `${stage.hasTls && !tunnel ? 'https' : 'http'}://${own}`;
  const tame = random.oneIn(2) ? sound(random, origin) : undefined;
  const method = tame?.method ?? random.pick(METHODS);
  const withBody = random.oneIn(2);
  const [lengths, body] = withBody ? framed(random, payload(random, marker, own)) : [[], ''];
  const version = !tame && random.oneIn(12) ? random.pick(['1.0', '1.2', '2.0', '0.9', '1.1 ', '01.1']) : '1.1';
  const hosts = !tame && random.oneIn(20) ? random.pick([[], [['Host', host], ['Host', stage.host('grace')]]]) : [['Host', host]];
  const rest = [...(tame?.rest ?? [...cookies(random), ...headers(random, origin)]), ...lengths];
  // In a third of the requests the length headers come first.
  if (random.oneIn(3)) rest.reverse();
  const end = random.oneIn(25) ? random.pick(['\n', '\r', '\r\r\n']) : '\r\n';
  const line = (pair) => `${pair[0]}:${random.oneIn(20) ? random.pick(['', '\t', '  ']) : ' '}${pair[1]}${end}`;
  const all = [...hosts, ...rest];
  return `${method} ${tame?.target ?? target(random, own)} HTTP/${version}${end}X-Marker: ${marker}${end}${all.map(line).join('')}${end}${body}`;
}

function http2(random, stage, marker, stream) {
  const label = random.pick(LABELS);
  const own = stage.host(label);
  const origin = `https://${own}`;
  const upper = random.oneIn(10);
  const tame = random.oneIn(2) ? sound(random, origin) : undefined;
  const scheme = tame ? 'https' : random.pick(['https', 'https', 'http', '']);
  const pseudo = [[':method', tame?.method ?? random.pick(METHODS)], [':scheme', scheme], [':authority', own], [':path', tame?.target ?? target(random, own)]];
  if (random.oneIn(10)) pseudo.push(random.pick([[':path', '/hidden'], [':method', 'GET'], [':authority', stage.host('grace')], [':status', '200'], [':x', 'y'], ['host', stage.host('grace')], ['host', own]]));
  if (random.oneIn(20)) pseudo.splice(random.below(pseudo.length), 1);
  const body = payload(random, marker, own);
  const lengths = random.pick([[], [], [['content-length', body.length]], [['content-length', body.length + 3]], [['content-length', 0]], [['content-length', 3]],
    [['content-length', body.length], ['content-length', body.length]], [['transfer-encoding', 'chunked']], [['content-length', '+1']]]);
  const cased = ([name, value]) => [upper ? name : name.toLowerCase(), String(value)];
  const pairs = [...pseudo, ['x-marker', marker], ...(tame?.rest ?? [...cookies(random), ...headers(random, origin)]).map(cased), ...lengths.map(cased)];
  const bodies = random.pick([[], [], [body], [body.slice(0, 5), body.slice(5)], ['', body]]);
  return request(stream, pairs, bodies, { ends: !random.oneIn(8) });
}

/** The case for a number, on one of these stages. */
export function oddCase(seed, number, stages) {
  const random = new Random(seed * 1_000_003 + number);
  const stage = random.pick(stages);
  const secure = stage.hasTls;
  const count = random.pick([1, 1, 1, 2, 3]);
  const markers = Array.from({ length: count }, (_, at) => `${number}-${at}`);
  const tunnel = stage.hasTunnel && random.oneIn(6);
  if (secure && !tunnel && random.oneIn(2)) {
    const parts = [PREFACE, ...markers.flatMap((marker, at) => http2(random, stage, marker, 1 + 2 * at))];
    // Each frame in a separate packet, or all frames in one.
    return { number, stage, secure, h2: true, count, markers, parts: random.oneIn(3) ? parts : [Buffer.concat(parts)] };
  }
  const text = markers.map((marker) => http1(random, stage, marker, tunnel)).join('');
  const at = random.below(text.length);
  const parts = random.oneIn(3) ? [text.slice(0, at), text.slice(at)] : [text];
  return { number, stage, secure: secure && !tunnel, h2: false, count, markers, parts: parts.map((part) => Buffer.from(part, 'latin1')) };
}
