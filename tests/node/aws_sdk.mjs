// AWS's SDK for JavaScript as its users have it, told {url, arn, session}; credentials and region are in the environment.
import * as sdk from '@aws-sdk/client-bedrock-agentcore';
import { told } from './told.mjs';

const { url, arn, session } = await told();
const client = new sdk.BedrockAgentCoreClient({ endpoint: url, maxAttempts: 1 });
const invoke = (payload, more = {}) =>
  client.send(
    new sdk.InvokeAgentRuntimeCommand({
      agentRuntimeArn: arn,
      runtimeSessionId: session,
      contentType: 'application/json',
      payload: JSON.stringify(payload),
      ...more,
    }),
  );

const echoed = await invoke({ do: 'echo', say: 'hello' });
const echo = { session: echoed.runtimeSessionId, body: await echoed.response.transformToString() };

const streamed = await invoke({ do: 'stream', events: 3 });
const parts = [];
for await (const part of streamed.response) parts.push(...Buffer.from(part).toString().matchAll(/data: (\d)/g));
const stream = { parts: parts.map((found) => found[1]), contentType: streamed.contentType };

const stop = new sdk.StopRuntimeSessionCommand({ agentRuntimeArn: arn, runtimeSessionId: session });
const stopped = (await client.send(stop)).runtimeSessionId;

const missing = await invoke({}, { qualifier: 'nowhere' }).catch((error) => ({
  name: error instanceof sdk.ResourceNotFoundException ? error.name : `not modelled: ${error}`,
  status: error.$metadata?.httpStatusCode,
}));
console.log(JSON.stringify({ echo, stream, stopped, missing }));
