// For what nothing announces: asked again until it is so, or until the deadline.
import { setTimeout as pause } from 'node:timers/promises';

/** Resolves with the probe's first truthy answer. A probe that throws has not answered yet; the last reason is told. */
export async function until(what, probe, { seconds = 30, every = 100 } = {}) {
  const deadline = Date.now() + seconds * 1000;
  let last = 'it was not so';
  for (;;) {
    try {
      const answer = await probe();
      if (answer) return answer;
    } catch (error) {
      last = error.message;
    }
    if (Date.now() > deadline) throw new Error(`waited ${seconds} s for: ${what} (${last})`);
    await pause(every);
  }
}
