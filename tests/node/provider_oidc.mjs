// oidc-provider (certified OpenID Connect), told by lines on standard input: `rotate` signs with a new key and publishes
// both, `replace` forgets the old ones. Answers each with a line. GET /_asked says how often its keys were asked for.
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { createServer } from 'node:http';
import { createInterface } from 'node:readline';
import Provider from 'oidc-provider';

const port = Number(process.argv[2]);
const asked = { keys: 0 };
let keys = [];
let handler;

function newKey() {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { ...privateKey.export({ format: 'jwk' }), kid: randomUUID(), use: 'sig', alg: 'ES256' };
}

function begin() {
  const provider = new Provider(`http://127.0.0.1:${server.address().port}`, {
    jwks: { keys },
    clients: [{
      client_id: 'worker',
      client_secret: 'worker-secret',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
      id_token_signed_response_alg: 'ES256',
    }],
    scopes: ['agents/invoke'],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: () => ({
          scope: 'agents/invoke',
          audience: 'agents',
          accessTokenFormat: 'jwt',
          jwt: { sign: { alg: 'ES256' } },
        }),
      },
    },
  });
  handler = provider.callback();
}

const server = createServer((request, response) => {
  if (request.url === '/_asked') return response.end(JSON.stringify(asked));
  if (request.url === '/jwks') asked.keys += 1;
  handler(request, response);
});
server.listen(port, '127.0.0.1', () => {
  keys = [newKey()];
  begin();
  console.log(server.address().port);
});
createInterface({ input: process.stdin }).on('line', (line) => {
  keys = [newKey(), ...(line === 'rotate' ? keys : [])];
  begin();
  console.log('done');
});
