// A run by the protocol's own client, told on standard input as {url, headers, question}: its events, state and text.
import { HttpAgent } from '@ag-ui/client';
import { run } from './agui_run.mjs';
import { told } from './told.mjs';

const { url, headers, question } = await told();
const agent = new HttpAgent({ url, headers, initialMessages: [{ id: '1', role: 'user', content: question }] });
console.log(JSON.stringify(await run(agent)));
