// One invocation with AWS's JavaScript SDK; credentials, region and endpoint come from the environment.
// node invoke.mjs ARN SESSION PAYLOAD: prints the answer, or the error's name.
import { BedrockAgentCoreClient, InvokeAgentRuntimeCommand } from "@aws-sdk/client-bedrock-agentcore";

const [agentRuntimeArn, runtimeSessionId, payload] = process.argv.slice(2);
const client = new BedrockAgentCoreClient({ maxAttempts: 1 });
try {
  const answer = await client.send(
    new InvokeAgentRuntimeCommand({ agentRuntimeArn, runtimeSessionId, payload: new TextEncoder().encode(payload) }),
  );
  process.stdout.write(await answer.response.transformToString());
} catch (error) {
  process.stdout.write(error.name);
}
