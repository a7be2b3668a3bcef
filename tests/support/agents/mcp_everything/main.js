// An MCP server with all that the protocol's conformance suite asks a server for, by the names that it asks for; on the
// protocol's own SDK for Node.js, with sessions. Served as an agent of Freehold, or alone on PORT.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { Server } from "@modelcontextprotocol/sdk/server/index.js";
import { StreamableHTTPServerTransport } from "@modelcontextprotocol/sdk/server/streamableHttp.js";
import * as types from "@modelcontextprotocol/sdk/types.js";

const PORT = Number(process.env.PORT ?? "8000");
const PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
const WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=";
const OWN_HOSTS = [`127.0.0.1:${PORT}`, `localhost:${PORT}`];

const pause = () => new Promise((resolve) => setTimeout(resolve, 20));
const text = (said) => ({ type: "text", text: said });
const image = { type: "image", data: PNG, mimeType: "image/png" };
const resource = (uri, said, mimeType = "text/plain") => ({ type: "resource", resource: { uri, mimeType, text: said } });

// -- tools: name -> [description, call, inputSchema] ------------------------------------------------------------------

async function elicit(said, message, properties, required, extra) {
  const answer = await extra.sendRequest(
    { method: "elicitation/create", params: { message, requestedSchema: { type: "object", properties, required } } },
    types.ElicitResultSchema,
  );
  return [text(`${said}: action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`)];
}

const DEFAULTS = {
  name: { type: "string", default: "John Doe" },
  age: { type: "integer", default: 30 },
  score: { type: "number", default: 95.5 },
  status: { type: "string", enum: ["active", "inactive", "pending"], default: "active" },
  verified: { type: "boolean", default: true },
};
const titled = (titles) => Object.entries(titles).map(([name, title]) => ({ const: name, title }));
const ENUMS = {
  untitledSingle: { type: "string", enum: ["option1", "option2", "option3"] },
  titledSingle: { type: "string", oneOf: titled({ value1: "First", value2: "Second", value3: "Third" }) },
  legacyEnum: { type: "string", enum: ["opt1", "opt2"], enumNames: ["Option One", "Option Two"] },
  untitledMulti: { type: "array", items: { type: "string", enum: ["option1", "option2", "option3"] } },
  titledMulti: { type: "array", items: { anyOf: titled({ value1: "First", value2: "Second", value3: "Third" }) } },
};

const TOOLS = {
  test_simple_text: ["Says a text", () => [text("This is a simple text response for testing.")]],
  test_image_content: ["Shows an image", () => [image]],
  test_audio_content: ["Plays a sound", () => [{ type: "audio", data: WAV, mimeType: "audio/wav" }]],
  test_embedded_resource: [
    "Embeds a resource",
    () => [resource("test://embedded-resource", "This is an embedded resource content.")],
  ],
  test_multiple_content_types: [
    "Does several of these",
    () => [
      text("Multiple content types test:"),
      image,
      resource("test://mixed-content-resource", '{"test":"data","value":123}', "application/json"),
    ],
  ],
  test_tool_with_logging: [
    "Logs while it works",
    async (_given, extra) => {
      for (const data of ["Tool execution started", "Tool processing data", "Tool execution completed"]) {
        await extra.sendNotification({ method: "notifications/message", params: { level: "info", data } });
        await pause();
      }
      return [text("done")];
    },
  ],
  test_tool_with_progress: [
    "Tells how far it is",
    async (_given, extra) => {
      const progressToken = extra._meta?.progressToken ?? 0;
      for (const progress of [0, 50, 100]) {
        const params = { progressToken, progress, total: 100, message: `Completed step ${progress} of 100` };
        await extra.sendNotification({ method: "notifications/progress", params });
        await pause();
      }
      return [text(String(progressToken))];
    },
  ],
  test_error_handling: [
    "Fails",
    () => {
      throw new Error("This tool intentionally returns an error for testing");
    },
  ],
  test_sampling: [
    "Asks the client's model",
    async ({ prompt }, extra) => {
      const params = { messages: [{ role: "user", content: text(prompt) }], maxTokens: 100 };
      const answer = await extra.sendRequest(
        { method: "sampling/createMessage", params },
        types.CreateMessageResultSchema,
      );
      return [text(`LLM response: ${answer.content.text ?? "No response"}`)];
    },
    { type: "object", properties: { prompt: { type: "string" } }, required: ["prompt"] },
  ],
  test_elicitation: [
    "Asks the user",
    ({ message }, extra) => {
      const properties = { username: { type: "string" }, email: { type: "string" } };
      return elicit("User response", message, properties, ["username", "email"], extra);
    },
    { type: "object", properties: { message: { type: "string" } }, required: ["message"] },
  ],
  test_elicitation_sep1034_defaults: [
    "Asks the user, with defaults",
    (_given, extra) => elicit("Elicitation completed", "Please review", DEFAULTS, [], extra),
  ],
  test_elicitation_sep1330_enums: [
    "Asks the user to choose",
    (_given, extra) => elicit("Elicitation completed", "Please select", ENUMS, [], extra),
  ],
  test_reconnection: [
    "Closes its stream on the way",
    async (_given, extra) => {
      await pause();
      extra.closeSSEStream?.();
      await pause();
      return [text("Reconnection test completed")];
    },
  ],
  json_schema_2020_12_tool: [
    "Has a schema with all that schemas have",
    () => [text("valid")],
    {
      $schema: "https://json-schema.org/draft/2020-12/schema",
      type: "object",
      $defs: { address: { type: "object", properties: { street: { type: "string" }, city: { type: "string" } } } },
      properties: { name: { type: "string" }, address: { $ref: "#/$defs/address" } },
      additionalProperties: false,
    },
  ],
};

// -- resources and prompts --------------------------------------------------------------------------------------------

const RESOURCES = {
  "test://static-text": { mimeType: "text/plain", text: "This is the content of the static text resource." },
  "test://static-binary": { mimeType: "image/png", blob: PNG },
  "test://watched-resource": { mimeType: "text/plain", text: "Watched resource content" },
};

function read(uri) {
  const found = RESOURCES[uri];
  if (found) return found;
  const id = /^test:\/\/template\/([^/]+)\/data$/.exec(uri)?.[1];
  if (id) return { mimeType: "application/json", text: JSON.stringify({ id, templateTest: true, data: `Data for ${id}` }) };
  throw new types.McpError(types.ErrorCode.InvalidParams, `There is no resource ${uri}`);
}

const PROMPTS = {
  test_simple_prompt: [[], () => [text("This is a simple prompt for testing.")]],
  test_prompt_with_arguments: [
    ["arg1", "arg2"],
    ({ arg1, arg2 }) => [text(`Prompt with arguments: arg1='${arg1}', arg2='${arg2}'`)],
  ],
  test_prompt_with_embedded_resource: [
    ["resourceUri"],
    ({ resourceUri }) => [resource(resourceUri, "Embedded resource content for testing."), text("Process it.")],
  ],
  test_prompt_with_image: [[], () => [image, text("Please analyze the image above.")]],
};

// -- a server for each session ----------------------------------------------------------------------------------------

function everything() {
  const capabilities = { tools: {}, resources: { subscribe: true }, prompts: {}, logging: {}, completions: {} };
  const server = new Server({ name: "everything", version: "1.0.0" }, { capabilities });
  const on = (schema, answer) => server.setRequestHandler(schema, answer);
  on(types.ListToolsRequestSchema, () => ({
    tools: Object.entries(TOOLS).map(([name, [description, , inputSchema]]) => ({
      name,
      description,
      inputSchema: inputSchema ?? { type: "object", properties: {} },
    })),
  }));
  on(types.CallToolRequestSchema, async ({ params }, extra) => {
    const tool = TOOLS[params.name];
    if (!tool) throw new types.McpError(types.ErrorCode.InvalidParams, `There is no tool ${params.name}`);
    try {
      return { content: await tool[1](params.arguments ?? {}, extra) };
    } catch (error) {
      return { content: [text(error.message)], isError: true };
    }
  });
  on(types.ListResourcesRequestSchema, () => ({
    resources: Object.entries(RESOURCES).map(([uri, { mimeType }]) => ({ uri, name: uri, description: uri, mimeType })),
  }));
  on(types.ListResourceTemplatesRequestSchema, () => ({
    resourceTemplates: [{ uriTemplate: "test://template/{id}/data", name: "template", mimeType: "application/json" }],
  }));
  on(types.ReadResourceRequestSchema, ({ params }) => ({ contents: [{ uri: params.uri, ...read(params.uri) }] }));
  on(types.SubscribeRequestSchema, () => ({}));
  on(types.UnsubscribeRequestSchema, () => ({}));
  on(types.ListPromptsRequestSchema, () => ({
    prompts: Object.entries(PROMPTS).map(([name, [names]]) => ({
      name,
      description: name,
      arguments: names.map((each) => ({ name: each, description: each, required: true })),
    })),
  }));
  on(types.GetPromptRequestSchema, ({ params }) => ({
    messages: PROMPTS[params.name][1](params.arguments ?? {}).map((content) => ({ role: "user", content })),
  }));
  on(types.CompleteRequestSchema, () => ({ completion: { values: [], total: 0, hasMore: false } }));
  on(types.SetLevelRequestSchema, () => ({}));
  return server;
}

class Events {
  // All that was sent, so that a client may come back for what it missed.
  sent = [];

  async storeEvent(streamId, message) {
    return String(this.sent.push([streamId, message]));
  }

  async replayEventsAfter(lastEventId, { send }) {
    const last = Number(lastEventId);
    const streamId = this.sent[last - 1][0];
    for (const [at, [stream, message]] of this.sent.entries())
      if (at >= last && stream === streamId && Object.keys(message).length) await send(String(at + 1), message);
    return streamId;
  }
}

const sessions = new Map();

async function transportOf(request) {
  const id = request.headers["mcp-session-id"];
  if (id !== undefined) return sessions.get(id);
  const transport = new StreamableHTTPServerTransport({
    sessionIdGenerator: randomUUID,
    eventStore: new Events(),
    retryInterval: 100,
    enableDnsRebindingProtection: true,
    allowedHosts: OWN_HOSTS,
    allowedOrigins: OWN_HOSTS.map((host) => `http://${host}`),
    onsessioninitialized: (made) => sessions.set(made, transport),
  });
  transport.onclose = () => sessions.delete(transport.sessionId);
  await everything().connect(transport);
  return transport;
}

createServer(async (request, response) => {
  const transport = request.url === "/mcp" ? await transportOf(request) : undefined;
  if (transport) await transport.handleRequest(request, response);
  else response.writeHead(404).end();
}).listen(PORT, "0.0.0.0");
