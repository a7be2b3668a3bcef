// Node's own WebSocket, which is the browsers': {url, protocols, send}. Sends each of `send` once the answer to the one
// before has come, and answers what came, the subprotocol, and how the connection was closed.
import { told } from './told.mjs';

const { url, protocols, send } = await told();
const socket = new WebSocket(url, protocols);
socket.binaryType = 'arraybuffer';
const waiting = [...send];
const messages = [];
const sendNext = () => (waiting.length ? socket.send(waiting.shift()) : undefined);

const ended = new Promise((resolve) => {
  socket.addEventListener('close', ({ code, reason, wasClean }) => resolve({ code, reason, wasClean }));
  // A handshake that is refused; no 'close' follows.
  socket.addEventListener('error', (event) => resolve({ failure: event.message ?? 'error' }));
});
socket.addEventListener('open', sendNext);
socket.addEventListener('message', ({ data }) => {
  messages.push(typeof data === 'string' ? data : Buffer.from(data).toString('hex'));
  sendNext();
});
const end = await ended;
console.log(JSON.stringify({ messages, protocol: socket.protocol, extensions: socket.extensions, ...end }));
process.exit(0);
