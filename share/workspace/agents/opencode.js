// A plugin for OpenCode that reports to csm what its sessions do: one state for all of them, because they have one process.
import { request } from 'node:http';

const socketPath = process.env.CSM_CONTROL_SOCKET ?? '/run/csm/control.sock';

// OpenCode loads a plugin once for each folder, so what it knows is outside.
const parents = new Map();
const busy = new Set();
// What waits for a person: the state and the session, by the request's id.
const waiting = new Map();
let reported = 'idle';
let sending = Promise.resolve();

/** A session and the sessions that it works for. */
function withParents(session) {
  const all = [];
  for (let one = session; one && !all.includes(one); one = parents.get(one)) all.push(one);
  return all;
}

function state() {
  // A session whose subagent waits for a person waits too, unless another of its subagents works.
  const blocked = new Set([...waiting.values()].flatMap(({ session }) => withParents(session)));
  const workers = [...busy].filter((session) => !blocked.has(session));
  if (workers.length > 0) return 'working';
  const states = [...waiting.values()].map((one) => one.state);
  if (states.includes('permission')) return 'permission';
  if (states.includes('question')) return 'question';
  return reported === 'idle' ? 'idle' : 'done';
}

/** Reports a state. Without csm there is no socket, and nothing happens. */
function send(state) {
  return new Promise((resolve) => {
    const path = `/v1/agents/opencode-${process.pid}`;
    const body = JSON.stringify({ state, name: 'opencode', pid: process.pid });
    const headers = { host: 'csm', 'content-length': Buffer.byteLength(body) };
    const sent = request({ socketPath, method: 'PUT', path, headers, timeout: 2000 }, (response) => response.resume().on('close', resolve));
    sent.on('timeout', () => sent.destroy()).on('error', resolve).end(body);
  });
}

function note({ type, properties }) {
  const session = properties.sessionID;
  switch (type) {
    case 'session.created':
    case 'session.updated':
      if (properties.info?.parentID) parents.set(properties.info.id, properties.info.parentID);
      break;
    case 'session.status':
      // Also "retry", while the provider refuses.
      if (properties.status.type === 'idle') busy.delete(session);
      else busy.add(session);
      break;
    case 'session.idle':
      busy.delete(session);
      break;
    case 'session.deleted':
      busy.delete(properties.info?.id ?? session);
      parents.delete(properties.info?.id ?? session);
      break;
    case 'permission.asked':
      waiting.set(properties.id, { state: 'permission', session });
      break;
    case 'question.asked':
      waiting.set(properties.id, { state: 'question', session });
      break;
    case 'permission.replied':
    case 'question.replied':
    case 'question.rejected':
      waiting.delete(properties.requestID ?? properties.permissionID);
      break;
    default:
  }
  // Sessions that have stopped wait for nothing.
  for (const [id, one] of waiting) if (!busy.has(one.session)) waiting.delete(id);
}

export const csm = async () => ({
  event: async ({ event }) => {
    note(event);
    const next = state();
    if (next === reported) return;
    reported = next;
    // One after the other, so that the last report is the last state.
    sending = sending.then(() => send(next));
    await sending;
  },
});
