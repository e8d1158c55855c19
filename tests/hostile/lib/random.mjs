// Random choices that a number repeats (mulberry32).
export class Random {
  #state;

  constructor(seed) {
    this.#state = seed >>> 0;
    // Seeds side by side begin far apart.
    for (let at = 0; at < 4; at++) this.next();
  }

  next() {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let x = this.#state;
    x = Math.imul(x ^ (x >>> 15), x | 1);
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61);
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32;
  }

  below(end) {
    return Math.floor(this.next() * end);
  }

  pick(list) {
    return list[this.below(list.length)];
  }

  /** True one time in so many. */
  oneIn(times) {
    return this.below(times) === 0;
  }
}
