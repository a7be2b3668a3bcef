// A page in a browser, of another origin than the agent, with the protocol's own client: {url, headers, question,
// browser}. Answers what each run in the page saw: one with these headers, one without a token.
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { chromium } from 'playwright-core';
import { told } from './told.mjs';

const IMPORTS = {
  '@ag-ui/client': '@ag-ui/client/dist/index.mjs',
  '@ag-ui/core': '@ag-ui/core/dist/index.mjs',
  '@ag-ui/core/schemas': '@ag-ui/core/dist/schemas.mjs',
  '@ag-ui/encoder': '@ag-ui/encoder/dist/index.mjs',
  '@ag-ui/proto': '@ag-ui/proto/dist/index.mjs',
  '@bufbuild/protobuf/wire': '@bufbuild/protobuf/dist/esm/wire/index.js',
  'compare-versions': 'compare-versions/lib/esm/index.js',
  'fast-json-patch': 'fast-json-patch/index.mjs',
  rxjs: 'rxjs/dist/esm/index.js',
  'rxjs/operators': 'rxjs/dist/esm/operators/index.js',
  'untruncate-json': 'untruncate-json/dist/esm/index.js',
  tslib: 'tslib/tslib.es6.mjs',
  uuid: 'uuid/dist/esm-browser/index.js',
  zod: 'zod/index.js',
  'zod/v4': 'zod/v4/index.js',
};
const MODULES = new URL('./node_modules/', import.meta.url);
const RUN = new URL('./agui_run.mjs', import.meta.url);
const imports = Object.fromEntries(Object.entries(IMPORTS).map(([name, path]) => [name, `/${path}`]));
const PAGE = `<!doctype html><title>page</title><script type="importmap">${JSON.stringify({ imports })}</script>
<script type="module">
import { HttpAgent } from '@ag-ui/client';
import { run } from '/agui_run.mjs';
window.runOnce = async ({ url, headers, question }) => {
  const agent = new HttpAgent({ url, headers, initialMessages: [{ id: '1', role: 'user', content: question }] });
  return run(agent);
};
window.stranger = async ({ url }) => {
  const answer = await fetch(url, { method: 'POST', body: '{}' });
  return { status: answer.status, challenge: answer.headers.get('WWW-Authenticate') };
};
</script>`;

async function file(path) {
  // As bundlers do: what is imported may leave out its ending.
  for (const ending of ['', '.js', '/index.js']) {
    const found = await readFile(new URL(`.${path}${ending}`, MODULES)).catch(() => null);
    if (found !== null) return found;
  }
  return null;
}

const server = createServer(async (request, response) => {
  if (request.url === '/') return response.writeHead(200, { 'content-type': 'text/html' }).end(PAGE);
  const found = request.url === '/agui_run.mjs' ? await readFile(RUN) : await file(request.url);
  if (found === null) return response.writeHead(404).end();
  response.writeHead(200, { 'content-type': 'text/javascript' }).end(found);
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));

const { browser: executablePath, ...asked } = await told();
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage'] });
const page = await browser.newPage();
const logged = [];
page.on('console', (message) => logged.push(message.text()));
page.on('pageerror', (error) => logged.push(error.message));
await page.goto(`http://127.0.0.1:${server.address().port}/`);
await page.waitForFunction(() => window.runOnce !== undefined, null, { timeout: 60_000 }).catch((error) => {
  throw new Error(`${error.message}: ${logged.join('; ')}`);
});
const run = await page.evaluate((given) => window.runOnce(given), asked);
const stranger = await page.evaluate((given) => window.stranger(given), asked);
console.log(JSON.stringify({ run, stranger, logged }));
await browser.close();
server.close();
