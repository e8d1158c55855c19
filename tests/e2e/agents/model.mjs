// A model that agents can use instead of a real one: it speaks OpenAI's Chat Completions and Responses, and Anthropic's Messages, streamed.
//
// It does what the last prompt says: words separated by " then ", one for each turn. "run COMMAND" calls the agent's shell, "request COMMAND" too and needs a permission, "ask" its tool
// for questions, "delegate PROMPT" its tool for subagents ("next" instead of "then" in there), "wait" responds only when `release()` is called, and
// anything else is said as it is.
import { EventEmitter, once } from 'node:events';
import { createServer } from 'node:http';

/** Starts the model on a free port. */
export async function startModel() {
  let waiting = [];
  let requests = 0;
  const arrivals = new EventEmitter();
  const server = createServer(async (request, response) => {
    const text = Buffer.concat(await request.toArray()).toString();
    if (request.method !== 'POST') return response.writeHead(200, { 'content-type': 'application/json' }).end('{"data":[],"models":[]}');
    const asked = JSON.parse(text);
    requests += 1;
    const api = apis.find((one) => request.url.split('?')[0].endsWith(one.path));
    if (!api) return response.writeHead(404).end();
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    const tools = api.tools(asked);
    const { prompt, turn } = api.position(asked);
    // Requests without tools ask for a title or a summary.
    const words = tools.length ? (prompt.replace(/^"|"$/g, '').split(' then ')[turn] ?? 'finished') : 'A title';
    if (words === 'wait') {
      await new Promise((resolve) => {
        waiting.push(resolve);
        arrivals.emit('arrival');
      });
    }
    const call = toolCall(words, tools);
    for (const event of call ? api.call(call, requests) : api.say(words)) {
      const { name, data } = event;
      response.write(`${name ? `event: ${name}\n` : ''}data: ${typeof data === 'string' ? data : JSON.stringify(data)}\n\n`);
    }
    response.end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    /** Resolves when a response is waited for. */
    waited: async () => {
      while (waiting.length === 0) await once(arrivals, 'arrival');
    },
    release: () => (waiting.forEach((resolve) => resolve()), (waiting = [])),
    close: () => (server.closeAllConnections(), server.close()),
  };
}

/** The call of a tool that these words mean, if they mean one. */
function toolCall(words, tools) {
  const [verb, ...rest] = words.split(' ');
  const text = rest.join(' ');
  const has = (name) => tools.includes(name);
  const question = { question: 'Which one?', header: 'Choice', options: [{ label: 'A', description: 'a' }, { label: 'B', description: 'b' }] };
  if (verb === 'run' || verb === 'request') {
    if (has('exec_command')) return ['exec_command', { cmd: text, ...(verb === 'request' && { sandbox_permissions: 'require_escalated', justification: 'Needed?' }) }];
    if (has('Bash')) return ['Bash', { command: text, description: 'runs it' }];
    return ['bash', { command: text, description: 'runs it' }];
  }
  if (verb === 'ask') {
    if (has('request_user_input')) return ['request_user_input', { questions: [{ id: 'q', ...question }] }];
    if (has('AskUserQuestion')) return ['AskUserQuestion', { questions: [{ ...question, multiSelect: false }] }];
    return ['question', { questions: [question] }];
  }
  if (verb === 'delegate') {
    const prompt = text.replaceAll(' next ', ' then ');
    if (has('multi_agent_v1')) return ['spawn_agent', { message: prompt }, 'multi_agent_v1'];
    if (has('Agent')) return ['Agent', { description: 'helps', prompt, subagent_type: 'general-purpose' }];
    return ['task', { description: 'helps', prompt, subagent_type: 'general' }];
  }
  return undefined;
}

const textOf = (content) => (typeof content === 'string' ? content : (content ?? []).map((part) => part.text ?? '').join('\n'));

/** The last prompt among these messages, and how many tools have been called since. */
function position(messages, isPrompt, isResult) {
  const at = messages.findLastIndex(isPrompt);
  return { prompt: at < 0 ? '' : textOf(messages[at].content).trim(), turn: messages.slice(at + 1).filter(isResult).length };
}

// What agents add to a conversation in a person's name.
const added = /^\s*(<|# AGENTS)/;

const usage = { input_tokens: 1, output_tokens: 1, total_tokens: 2 };
const apis = [
  {
    path: '/chat/completions',
    tools: (asked) => (asked.tools ?? []).map((tool) => tool.function.name),
    position: ({ messages }) => position(messages, (one) => one.role === 'user', (one) => one.role === 'tool'),
    say: (text) => chunks({ role: 'assistant', content: text }, 'stop'),
    call: ([name, input], id) =>
      chunks({ role: 'assistant', tool_calls: [{ index: 0, id: `call_${id}`, type: 'function', function: { name, arguments: JSON.stringify(input) } }] }, 'tool_calls'),
  },
  {
    path: '/responses',
    tools: (asked) => (asked.tools ?? []).map((tool) => tool.name ?? tool.type),
    position: ({ input }) =>
      position(
        input,
        (one) => one.role === 'user' && !added.test(textOf(one.content)),
        (one) => one.type === 'function_call_output' || one.type === 'custom_tool_call_output',
      ),
    say: (text) => output({ type: 'message', role: 'assistant', id: 'msg', content: [{ type: 'output_text', text }] }),
    call: ([name, input, namespace], id) =>
      output({ type: 'function_call', id: `fc_${id}`, call_id: `call_${id}`, namespace, name, arguments: JSON.stringify(input) }),
  },
  {
    path: '/messages',
    tools: (asked) => (asked.tools ?? []).map((tool) => tool.name),
    position: ({ messages }) => {
      // Results of tools are messages of the user here.
      const results = (one) => (Array.isArray(one.content) ? one.content.filter((part) => part.type === 'tool_result').length : 0);
      const own = (one) => (Array.isArray(one.content) ? one.content : [{ text: one.content }]).filter((part) => part.text && !added.test(part.text));
      const at = messages.findLastIndex((one) => one.role === 'user' && results(one) === 0 && own(one).length > 0);
      const turn = messages.slice(at + 1).reduce((sum, one) => sum + results(one), 0);
      return { prompt: at < 0 ? '' : textOf(own(messages[at])).trim(), turn };
    },
    say: (text) => blocks({ type: 'text', text: '' }, { type: 'text_delta', text }, 'end_turn'),
    call: ([name, input], id) =>
      blocks({ type: 'tool_use', id: `toolu_${id}`, name, input: {} }, { type: 'input_json_delta', partial_json: JSON.stringify(input) }, 'tool_use'),
  },
];

function chunks(delta, finish_reason) {
  const chunk = (choices) => ({ data: { id: 'c', object: 'chat.completion.chunk', created: 1, model: 'stub', choices } });
  return [chunk([{ index: 0, delta, finish_reason: null }]), chunk([{ index: 0, delta: {}, finish_reason }]), { data: '[DONE]' }];
}

function output(item) {
  const event = (type, rest) => ({ name: type, data: { type, ...rest } });
  return [
    event('response.created', { response: { id: 'r' } }),
    event('response.output_item.added', { output_index: 0, item }),
    event('response.output_item.done', { output_index: 0, item }),
    event('response.completed', { response: { id: 'r', usage } }),
  ];
}

function blocks(content_block, delta, stop_reason) {
  const event = (type, rest) => ({ name: type, data: { type, ...rest } });
  const message = { id: 'm', type: 'message', role: 'assistant', model: 'stub', content: [], stop_reason: null, stop_sequence: null, usage };
  return [
    event('message_start', { message }),
    event('content_block_start', { index: 0, content_block }),
    event('content_block_delta', { index: 0, delta }),
    event('content_block_stop', { index: 0 }),
    event('message_delta', { delta: { stop_reason, stop_sequence: null }, usage }),
    event('message_stop', {}),
  ];
}
