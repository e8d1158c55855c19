// Sends malformed and unusual requests to stages, and compares the requests that nginx logs with those that arrive behind it.
import { until } from '../../e2e/lib/until.mjs';
import { endedStreams } from './h2.mjs';
import { oddCase } from './odd.mjs';
import { ALLOWED, isOwn } from './stage.mjs';
import { answerTo, dial, talk } from './wire.mjs';

/** A connection that sends nothing for this time (ms) is closed, because nginx waits a minute for the rest of a body. */
const IDLE = 120;
const JUDGED = ['host', 'origin', 'sec-fetch-site', 'sec-fetch-mode', 'sec-fetch-dest'];
const OURS = ['x-csm-site', 'x-csm-method', 'x-csm-upgrade', 'x-csm-source', 'x-csm-uri'];
const WORKSPACES = ['ada', 'grace', 'project'];

/** The paths on which csm accepts a body. */
const FORMS = ['/sign-in', '/_csm/sign-in-here'];

/**
 * Sends the cases `from` up to `to` of a seed, in concurrent batches. Resolves with the findings of the first batch that has any, and that
 * batch's cases. `patience` is how long to wait for nginx's log on a busy host, in seconds.
 */
export async function differential(stages, { seed, from = 0, to, sideBySide = 32, patience = 30, told = () => {} }) {
  for (const stage of stages) stage.forget();
  const counts = { front: 0, question: 0, workspace: 0 };
  for (let next = from; next < to; next += sideBySide) {
    const numbers = Array.from({ length: Math.min(sideBySide, to - next) }, (_, at) => next + at);
    const cases = numbers.map((number) => oddCase(seed, number, stages));
    await Promise.all(cases.map(play));
    const findings = [];
    for (const stage of stages) {
      const own = cases.filter((one) => one.stage === stage);
      findings.push(...(await look(stage, own, patience, counts)), ...(await honest(stage, next, patience)));
    }
    if (findings.length) {
      for (const stage of stages) stage.keepLogs();
      return { findings, cases, counts };
    }
    told(next);
  }
  return { findings: [], cases: [], counts };
}

async function play(one) {
  const { stage, secure, h2, parts, count } = one;
  const socket = await dial({ port: secure ? stage.tls : stage.plain, secure, servername: serverName(one), alpn: h2 ? 'h2' : 'http/1.1' });
  await talk(socket, parts, { idle: IDLE, done: h2 ? (bytes) => endedStreams(bytes) >= count : undefined });
}

// nginx refuses the TLS handshake for names outside the stage's domain.
const serverName = ({ stage }) => `ada.${stage.domain}`;

/**
 * A stage's latest requests, by marker: the case, nginx's log lines, and how often the request arrived at each socket. It is not cleared
 * between batches, because this process may read a request after nginx has forwarded it and logged that the visitor disconnected.
 */
const memories = new WeakMap();
function memoryOf(stage) {
  if (!memories.has(stage)) memories.set(stage, { sent: new Map(), seen: new Map(), counted: new Map() });
  return memories.get(stage);
}
function forgetOldest(map) {
  for (const key of map.keys()) {
    if (map.size <= 5000) return;
    map.delete(key);
  }
}

/** Checks all requests that arrived at a stage, and returns the findings. */
async function look(stage, cases, patience, counts = {}) {
  const { sent: known, seen, counted } = memoryOf(stage);
  for (const one of cases) for (const marker of one.markers) known.set(marker, one);
  for (const map of [known, seen, counted]) forgetOldest(map);
  const note = () => {
    for (const line of stage.seen()) if (line.marker) seen.set(line.marker, [...(seen.get(line.marker) ?? []), line]);
  };
  note();
  const unexplained = () => {
    note();
    return stage.arrived.filter(({ request }) => !seen.has(request.all('x-marker')[0]));
  };
  // nginx logs a request when it has finished it, which can be a moment after the visitor disconnected.
  await until("nginx's log", () => unexplained().length === 0, { seconds: patience, every: 20 }).catch(() => {});
  const findings = [...stage.broken, ...stage.unfinished()].map(({ at, why, bytes }) => `${at}: ${why}: ${JSON.stringify(bytes.slice(-2000))}`);
  for (const { at: socket, request } of stage.arrived) {
    const at = stage.asksAtFront && request.path === '/_csm/authorize' ? 'question' : socket;
    const say = (why) => findings.push(`${at}: ${why}: ${JSON.stringify(`${request.head}\r\n\r\n${request.body}`.slice(0, 3000))}`);
    const [marker, ...more] = request.all('x-marker');
    const lines = seen.get(marker);
    if (!lines || more.length) {
      say('nginx logged no such request');
      continue;
    }
    const key = `${at} ${marker}`;
    counted.set(key, (counted.get(key) ?? 0) + 1);
    if (counted.get(key) > lines.length) say('the request arrived more often than nginx received it');
    const sent = known.get(marker);
    counts[WORKSPACES.includes(at) ? 'workspace' : at] += 1;
    if (sent) perRequest({ at, request, lines, sent, questions: questionsOf(stage, marker), say });
  }
  stage.forget();
  return findings;
}

const questionsOf = (stage, marker) => stage.arrived.filter((one) => one.at === 'question' && one.request.all('x-marker')[0] === marker).map((one) => one.request);

function perRequest({ at, request, lines, sent, questions, say }) {
  const isWorkspace = WORKSPACES.includes(at);
  if (OURS.some((name) => request.all(name).some((value) => value.includes('forged')))) say("a header of csm's has a visitor's value");
  if (at === 'question') {
    if (request.framed || request.body) say('the subrequest has a body');
    if (request.method !== 'GET') say('the subrequest is not a GET');
    if (!lines.some((line) => line.method === request.all('x-csm-method')[0])) say('the subrequest names another method');
  }
  if (at === 'front') {
    if (request.body && !FORMS.includes(request.path)) say('a body reaches csm');
    if (request.all('x-csm-source').join() !== '127.0.0.1' || request.all('x-csm-site').length !== 1) say('a header that nginx sets is missing, wrong or duplicated');
  }
  if (isWorkspace) {
    const one = (name) => request.all(name)[0] ?? '';
    for (const name of [...JUDGED, 'cookie', 'upgrade']) if (request.all(name).length > 1) say(`${name} occurs twice`);
    if (one('host') === '') say('the request has no Host');
    if (OURS.some((name) => request.all(name).length)) say("the request has a header of csm's");
    if (/(^|;)[ \t]*__Host-csm-/.test(one('cookie'))) say("the request has a cookie of csm's");
    if (!lines.some((line) => line.method === request.method && withSlash(line.target) === request.target)) say('nginx logged another method or target');
    if (!Buffer.concat(sent.parts).includes(ALLOWED)) say('the request arrived although the visitor sent no valid cookie');
    // The rules apply to every request that arrives, whether nginx asked csm or used a cached response.
    if (!isOwn(one, request.method, one('upgrade'), one('host'))) say('csm would have refused the request as it arrived');
    if (questions.length > 0 && !questions.some((question) => agrees(question, request))) say(`the subrequest differs: ${JSON.stringify(questions[0].head)}`);
    if (!/^\d+--/.test(one('host')) && reads(request.target).some((path) => /^\/(abs)?proxy(\/|$)/.test(path))) say("a proxy path on an editor's hostname");
  }
}

// For `http://host?x` nginx logs `?x` and sends `/?x`.
const withSlash = (target) => (target.startsWith('/') ? target : `/${target}`);

function agrees(question, request) {
  const same = (name, asked = name) => (question.all(asked)[0] ?? '') === (request.all(name)[0] ?? '');
  return JUDGED.every((name) => same(name)) && same('upgrade', 'x-csm-upgrade') && question.all('x-csm-method')[0] === request.method;
}

/** The paths as which programs may read a target. */
function reads(target) {
  const path = target.replace(/^[a-z]+:\/\/[^/?#]*/i, '').split('?')[0];
  const decoded = (text) => {
    try {
      return decodeURIComponent(text);
    } catch {
      return text;
    }
  };
  const plain = (text) => text.replaceAll('\\', '/').replaceAll(/\/+/g, '/').toLowerCase();
  const resolved = (text) => {
    try {
      return new URL(plain(text), 'http://x').pathname;
    } catch {
      return text;
    }
  };
  return [path, decoded(path)].flatMap((text) => [plain(text), resolved(text), resolved(plain(text.split('#')[0]))]);
}

/** Checks that visitors who send correct requests afterwards get the response to their own request. */
async function honest(stage, batch, patience) {
  const findings = [];
  const ask = async (label, status, at, headers = '') => {
    const marker = `honest-${batch}-${label || 'dashboard'}-${status}`;
    const where = { port: stage.hasTls ? stage.tls : stage.plain, secure: stage.hasTls, servername: `${label ? `${label}.` : ''}${stage.domain}` };
    const answer = await answerTo(where, `GET /honest HTTP/1.1\r\nHost: ${stage.host(label)}\r\nX-Marker: ${marker}\r\n${headers}Connection: close\r\n\r\n`);
    const body = answer.body.startsWith('{') ? JSON.parse(answer.body) : {};
    if (answer.status !== status || body.at !== at || body.marker?.[0] !== marker) findings.push(`an honest request to ${label || 'the dashboard'} is answered: ${JSON.stringify(answer.text.slice(0, 1000))}`);
  };
  await ask('ada', 401, 'front');
  await ask('grace', 200, 'grace', `Cookie: ${ALLOWED}\r\n`);
  await ask('', 200, 'front');
  findings.push(...(await look(stage, [], patience)));
  return findings;
}

/** The text of the findings, with all that is needed to reproduce them. */
export function describe({ findings, cases }, seed) {
  const sent = cases.map((one) => `case ${one.number}, ${one.secure ? 'TLS' : 'plain'}${one.h2 ? ', HTTP/2' : ''}: ${JSON.stringify(Buffer.concat(one.parts).toString('latin1').slice(0, 3000))}`);
  const relevant = sent.filter((_, at) => cases[at].markers.some((marker) => findings.some((text) => text.includes(marker))));
  return `seed ${seed}: ${findings.length} findings\n${findings.slice(0, 10).join('\n')}\nsent:\n${(relevant.length ? relevant : sent).slice(0, 40).join('\n')}`;
}

