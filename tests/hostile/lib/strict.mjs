// A strict parser of requests: it throws on everything that the HTTP grammar does not allow, even if lenient servers accept it.
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

export class Request {
  constructor(head) {
    const [first, ...lines] = head.split('\r\n');
    const line = /^(\S+) (\S+) HTTP\/1\.[01]$/.exec(first);
    if (!line || !TOKEN.test(line[1]) || /[\x00-\x20\x7f]/.test(line[2])) throw new Error(`no request line: ${JSON.stringify(first)}`);
    [, this.method, this.target] = line;
    this.path = this.target.split('?')[0];
    this.headers = lines.map((text) => {
      const colon = text.indexOf(':');
      const [name, value] = [text.slice(0, colon), text.slice(colon + 1).trim()];
      if (colon < 1 || !TOKEN.test(name) || /[\x00-\x08\x0a-\x1f\x7f]/.test(value)) throw new Error(`no header line: ${JSON.stringify(text)}`);
      return [name.toLowerCase(), value];
    });
    // An HTTP/1.0 request may have no Host; the caller decides whether that is allowed.
    if (this.all('host').length > 1) throw new Error('more than one Host');
    const [lengths, codings] = [this.all('content-length'), this.all('transfer-encoding')];
    if (lengths.length + codings.length > 1) throw new Error('more than one length');
    if (lengths.length && !/^\d+$/.test(lengths[0])) throw new Error(`Content-Length ${JSON.stringify(lengths[0])}`);
    if (codings.length && codings[0] !== 'chunked') throw new Error(`Transfer-Encoding ${JSON.stringify(codings[0])}`);
    this.length = lengths.length ? Number(lengths[0]) : codings.length ? Infinity : 0;
    this.framed = lengths.length + codings.length > 0;
    this.head = head;
    this.body = '';
  }

  all(name) {
    return this.headers.filter(([key]) => key === name).map(([, value]) => value);
  }
}

export class RequestReader {
  #buffer = '';
  #current;

  /** Returns the requests that this chunk completes. Throws if the bytes are not valid requests. */
  push(chunk) {
    this.#buffer += chunk.toString('latin1');
    const whole = [];
    for (;;) {
      if (!this.#current) {
        const end = this.#buffer.indexOf('\r\n\r\n');
        if (end < 0) return whole;
        this.#current = new Request(this.#buffer.slice(0, end));
        this.#buffer = this.#buffer.slice(end + 4);
      }
      if (!this.#takeBody(this.#current)) return whole;
      whole.push(this.#current);
      this.#current = undefined;
    }
  }

  // True when the body is complete.
  #takeBody(request) {
    if (request.length !== Infinity) {
      const missing = request.length - request.body.length;
      request.body += this.#buffer.slice(0, missing);
      this.#buffer = this.#buffer.slice(missing);
      return request.body.length === request.length;
    }
    for (;;) {
      const end = this.#buffer.indexOf('\r\n');
      if (end < 0) return false;
      const size = this.#buffer.slice(0, end);
      if (!/^[0-9a-fA-F]+$/.test(size)) throw new Error(`chunk size ${JSON.stringify(size)}`);
      const length = parseInt(size, 16);
      if (this.#buffer.length < end + 2 + length + 2) return false;
      if (this.#buffer.slice(end + 2 + length, end + 4 + length) !== '\r\n') throw new Error('a chunk without CRLF at its end');
      request.body += this.#buffer.slice(end + 2, end + 2 + length);
      this.#buffer = this.#buffer.slice(end + 4 + length);
      if (length === 0) return true;
    }
  }

  /** The bytes of an incomplete head. An incomplete body is not an error: its sender may have disconnected. */
  unfinishedHead() {
    return this.#current ? '' : this.#buffer;
  }
}
