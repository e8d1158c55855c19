// HTTP/2 as frames, because tests must send requests that Node's client refuses to. Headers are literals without Huffman coding.
const FRAME = { data: 0, headers: 1, reset: 3, settings: 4, goaway: 7 };
const END_STREAM = 1;
const END_HEADERS = 4;

export const PREFACE = Buffer.concat([Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'), frame(FRAME.settings, 0, 0)]);

function frame(type, flags, stream, payload = Buffer.alloc(0)) {
  const head = Buffer.alloc(9);
  head.writeUIntBE(payload.length, 0, 3);
  head[3] = type;
  head[4] = flags;
  head.writeUInt32BE(stream, 5);
  return Buffer.concat([head, payload]);
}

function string(text) {
  const bytes = Buffer.from(text, 'latin1');
  const length = [];
  if (bytes.length < 127) length.push(bytes.length);
  else {
    length.push(127);
    let rest = bytes.length - 127;
    for (; rest >= 128; rest >>= 7) length.push((rest & 127) | 128);
    length.push(rest);
  }
  return Buffer.concat([Buffer.from(length), bytes]);
}

/** A request's frames: its headers, then each part of its body; `ends` sets whether the last frame ends the stream. */
export function request(stream, pairs, parts = [], { ends = true } = {}) {
  const block = Buffer.concat(pairs.flatMap(([name, value]) => [Buffer.from([0]), string(name), string(value)]));
  // Every server accepts frames of this size.
  const pieces = parts.flatMap((part) => (part === '' ? [''] : part.match(/[^]{1,16000}/g)));
  const last = pieces.length - 1;
  return [
    frame(FRAME.headers, END_HEADERS | (ends && last < 0 ? END_STREAM : 0), stream, block),
    ...pieces.map((part, at) => frame(FRAME.data, ends && at === last ? END_STREAM : 0, stream, Buffer.from(part, 'latin1'))),
  ];
}

/** The number of streams that the server has ended; infinite after a GOAWAY. */
export function endedStreams(bytes) {
  let ended = 0;
  for (let at = 0; at + 9 <= bytes.length; ) {
    const [length, type, flags] = [bytes.readUIntBE(at, 3), bytes[at + 3], bytes[at + 4]];
    if (type === FRAME.goaway) return Infinity;
    if (type === FRAME.reset || ((type === FRAME.data || type === FRAME.headers) && flags & END_STREAM)) ended += 1;
    at += 9 + length;
  }
  return ended;
}
