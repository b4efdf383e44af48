// One person at the console: an unmodified aws-amplify client, told what to do by JSON lines on stdin.
// argv: amplify_outputs.json, file with the person's token. Each answer is one JSON line; a subscription's events come as they arrive.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Amplify } from 'aws-amplify';
import { generateClient } from 'aws-amplify/api';
import { Hub } from 'aws-amplify/utils';

const [outputs, tokenFile] = process.argv.slice(2);
const accessToken = () => {
  const jwt = readFileSync(tokenFile, 'utf8').trim();
  return { toString: () => jwt, payload: JSON.parse(Buffer.from(jwt.split('.')[1], 'base64url')) };
};
Amplify.configure(JSON.parse(readFileSync(outputs, 'utf8')), {
  Auth: { tokenProvider: { getTokens: async () => ({ accessToken: accessToken() }) } },
});
const client = generateClient({ authMode: 'userPool' });
const subscriptions = new Map();
const say = (message) => process.stdout.write(JSON.stringify(message) + '\n');
const plain = (error) =>
  error?.errors
    ? { data: error.data ?? null, errors: error.errors.map((e) => ({ ...e, message: e.message, status: e.originalError?.response?.statusCode })) }
    : { thrown: String(error?.message ?? error) };

Hub.listen('api', ({ payload }) => {
  if (payload?.data?.connectionState) say({ connection: payload.data.connectionState });
});

const verbs = {
  async graphql({ query, variables }) {
    return await client.graphql({ query, variables }).catch(plain);
  },
  async models({ model, verb, args }) {
    return await client.models[model][verb](args).then(({ data, errors, nextToken }) => ({ data, errors, nextToken })).catch(plain);
  },
  async subscribe({ name, query, variables }) {
    subscriptions.set(name, client.graphql({ query, variables }).subscribe({
      next: (message) => say({ subscription: name, data: message.data, errors: message.errors }),
      error: (error) => say({ subscription: name, error: plain(error) }),
    }));
    return { subscribed: name };
  },
  async unsubscribe({ name }) {
    subscriptions.get(name)?.unsubscribe();
    return { unsubscribed: name };
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { id, verb, args } = JSON.parse(line);
  verbs[verb](args).then((answer) => say({ id, answer }), (error) => say({ id, answer: plain(error) }));
}
process.exit(0);
