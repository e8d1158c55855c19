// Pseudo-random choices that a seed reproduces (mulberry32).
export class Random {
  #state;

  constructor(seed) {
    this.#state = seed >>> 0;
    // These steps make adjacent seeds produce different sequences.
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

  /** True in one of `times` calls, on average. */
  oneIn(times) {
    return this.below(times) === 0;
  }
}
