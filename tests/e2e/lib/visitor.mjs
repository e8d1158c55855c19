// A visitor without a browser: it stores cookies by hostname, and follows the sign-in's redirects one by one, so that a test can check each.
import assert from 'node:assert/strict';
import { NAVIGATE, host, send } from './http.mjs';
import { origin, password, port, domain } from './place.mjs';

export class Visitor {
  #jars = new Map();

  cookies(label = '') {
    return [...(this.#jars.get(label) ?? new Map())].map(([name, value]) => `${name}=${value}`).join('; ');
  }

  cookie(label, name) {
    return this.#jars.get(label)?.get(name);
  }

  setCookie(label, name, value) {
    const jar = this.#jars.get(label) ?? new Map();
    this.#jars.set(label, jar.set(name, value));
  }

  async send({ label = '', headers = {}, ...rest }) {
    const cookie = this.cookies(label);
    const answer = await send({ label, headers: { ...(cookie ? { Cookie: cookie } : {}), ...headers }, ...rest });
    for (const set of answer.headers['set-cookie'] ?? []) {
      // This visitor stores no partitioned cookies.
      if (/; Partitioned(;|$)/.test(set)) continue;
      const [, name, value] = /^([^=]+)=([^;]*)/.exec(set);
      if (/max-age=0(;|$)/i.test(set)) this.#jars.get(label)?.delete(name);
      else this.setCookie(label, name, value);
    }
    return answer;
  }

  /** A click on a link, with the headers that browsers send for a navigation. */
  visit(label, target = '/', headers = {}) {
    return this.send({ label, target, headers: { ...NAVIGATE, ...headers } });
  }

  /** Submits one of csm's own forms on the dashboard's hostname. */
  post(target, fields, headers = {}) {
    return this.send({
      target,
      method: 'POST',
      body: new URLSearchParams(fields).toString(),
      headers: { Origin: origin(), 'Content-Type': 'application/x-www-form-urlencoded', ...headers },
    });
  }

  /** Signs in on the dashboard. */
  async signIn(person, handshake = '') {
    const answer = await this.post('/sign-in', { name: person, password: password(person), handshake });
    assert.equal(answer.status, 303, answer.body);
    return answer;
  }

  /** Completes a handshake for a workspace and stores its cookie; resolves with the callback's response. Needs a session on the dashboard. */
  async enter(label, target = '/') {
    return this.visit(label, (await this.handshake(label, target)).callback);
  }

  /** Performs the handshake up to the one-time code, without using the code. */
  async handshake(label, target = '/') {
    const begun = await this.visit(label, target);
    assert.equal(begun.status, 303, `${label}${target}: ${begun.body}`);
    const open = to(begun, '');
    const granted = await this.visit('', open);
    assert.equal(granted.status, 303, granted.body);
    return { open, callback: to(granted, label) };
  }

  static async owner(person, ...labels) {
    const visitor = new Visitor();
    await visitor.signIn(person);
    for (const label of labels.length ? labels : [person]) await visitor.enter(label);
    return visitor;
  }
}

/** The target of a redirect, which must be on this label's hostname. */
export function to(answer, label) {
  const [location] = answer.headers.location ?? [''];
  const url = new URL(location, origin(label));
  assert.equal(url.host, host(label), `leads to ${location}`);
  assert.equal(url.protocol, 'http:');
  return location.startsWith('/') ? location : location.slice(origin(label).length);
}

export { port, domain };
