// Polls for conditions that no event announces.
import { setTimeout as pause } from 'node:timers/promises';

/** Calls the probe until it returns something truthy, and resolves with that. After the deadline it throws the probe's last error. */
export async function until(what, probe, { seconds = 30, every = 100 } = {}) {
  const deadline = Date.now() + seconds * 1000;
  let last = 'the condition was false';
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
