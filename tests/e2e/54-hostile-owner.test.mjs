// What an owner can try from inside their workspace to reach others.
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { after, before, test } from 'node:test';
import { reaches, running, stopped } from './lib/demo.mjs';
import { host } from './lib/http.mjs';
import { inside, port } from './lib/place.mjs';
import { Visitor } from './lib/visitor.mjs';

before(() => Promise.all([running('ada'), running('grace')]));
after(async () => {
  await stopped('ada');
  await running('ada');
});

// Targets of the link on the host, relative to the directory that the workspace can write.
const OTHERS = ['../../grace/http.sock', '../../grace/inside/http.sock', '../../../podman.sock', '../../../api.sock', '../../../front.sock'];

test("a link at the socket's path leads to no other workspace", async () => {
  const ada = new Visitor();
  await ada.signIn('ada');
  await ada.enter('ada');
  for (const other of OTHERS) {
    await inside('ada', 'sh', '-c', `rm -rf /run/csm/* && ln -s ${other} /run/csm/http.sock`);
    const page = await ada.visit('ada', '/?folder=/home/coder/project');
    assert.equal(page.status, 200, other);
    assert.match(page.body, /ada · /, `${other}: ada still gets her own editor`);
    const podman = await ada.send({ label: 'ada', target: '/v1.40/version' });
    assert.ok(!podman.body.includes('ApiVersion'), other);
  }
});

test('a link that exists before the next start leads to no other workspace', async () => {
  await inside('ada', 'sh', '-c', 'rm -rf /run/csm/* && ln -s ../../grace/http.sock /run/csm/http.sock');
  await stopped('ada');
  await running('ada');
  await reaches('ada', 'running');
  const ada = new Visitor();
  await ada.signIn('ada');
  await ada.enter('ada');
  assert.match((await ada.visit('ada', '/?folder=/home/coder/project')).body, /ada · /);
});

// If nginx stored the whole body first, unauthenticated visitors could fill the host's memory and disks.
test("nginx does not store an unauthenticated visitor's body: the response comes before the body's end", async () => {
  const head = ['POST / HTTP/1.1', `Host: ${host('ada')}`, 'Content-Type: text/plain', 'Content-Length: 50000000000', '', 'a part of it'];
  const said = await new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(head.join('\r\n')));
    socket.setTimeout(10_000, () => socket.destroy(new Error('no answer')));
    socket.once('data', (chunk) => resolve(chunk.toString()) || socket.destroy());
    socket.on('error', reject);
  });
  assert.match(said, /^HTTP\/1.1 (401|403|303) /);
});
