// CopilotKit's runtime with an HttpAgent behind it, and CopilotKit's own client before it: {url, headers, question}.
import { createServer } from 'node:http';
import { HttpAgent } from '@ag-ui/client';
import { ProxiedCopilotRuntimeAgent } from '@copilotkit/core';
import { CopilotRuntime, InMemoryAgentRunner } from '@copilotkit/runtime/v2';
import { createCopilotNodeListener } from '@copilotkit/runtime/v2/node';
import { run } from './agui_run.mjs';
import { told } from './told.mjs';

const { url, headers, question } = await told();
const runtime = new CopilotRuntime({ agents: { csv: new HttpAgent({ url, headers }) }, runner: new InMemoryAgentRunner() });
const server = createServer(createCopilotNodeListener({ runtime, basePath: '/copilotkit' }));
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const agent = new ProxiedCopilotRuntimeAgent({
  runtimeUrl: `http://127.0.0.1:${server.address().port}/copilotkit`,
  agentId: 'csv',
  initialMessages: [{ id: '1', role: 'user', content: question }],
});
console.log(JSON.stringify(await run(agent)));
process.exit(0);
