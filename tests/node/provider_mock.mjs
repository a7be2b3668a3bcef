// oauth2-mock-server, told by lines on standard input: `rotate` signs with a new key, too, and publishes all, `replace`
// forgets the old ones. Answers each with a line. GET /_asked says how often its keys were asked for.
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import { OAuth2Issuer, OAuth2Service } from 'oauth2-mock-server';

const port = Number(process.argv[2]);
const asked = { keys: 0 };
let service;

async function begin(keep) {
  const issuer = new OAuth2Issuer();
  issuer.url = `http://127.0.0.1:${server.address().port}`;
  for (const key of keep) await issuer.keys.add(key);
  await issuer.keys.generate('RS256');
  const next = new OAuth2Service(issuer);
  next.on('beforeTokenSigning', (token) => {
    Object.assign(token.payload, { client_id: 'worker', aud: 'agents', sub: 'user-1' });
  });
  service = next;
}

const server = createServer((request, response) => {
  if (request.url === '/_asked') return response.end(JSON.stringify(asked));
  if (request.url === '/jwks') asked.keys += 1;
  service.requestHandler(request, response);
});
server.listen(port, '127.0.0.1', async () => {
  await begin([]);
  console.log(server.address().port);
});
createInterface({ input: process.stdin }).on('line', async (line) => {
  await begin(line === 'rotate' ? service.issuer.keys.toJSON(true) : []);
  console.log('done');
});
