// What a script is told: one JSON document on standard input, where no list of processes shows it.
export async function told() {
  const parts = [];
  for await (const part of process.stdin) parts.push(part);
  return JSON.parse(Buffer.concat(parts).toString());
}
