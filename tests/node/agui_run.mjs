// One run of an agent, and what its client made of it.
export async function run(agent) {
  const events = [];
  let failure = null;
  await agent
    .runAgent({}, { onEvent: ({ event }) => void events.push(event.type) })
    .catch((error) => (failure = `${error.message}`));
  return { events, failure, state: agent.state, text: agent.messages.at(-1).content };
}
