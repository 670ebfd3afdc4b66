// OpenAI's own client for Node against a gateway: node client.mjs BASE_URL MODEL DATA_URI.
// Prints what it got as one JSON object.
import OpenAI from "openai";

const [baseURL, model, url] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "any", maxRetries: 0 });
const question = { type: "text", text: "What colour is the star?" };
const image = { type: "image_url", image_url: { url, detail: "low" } };
const asked = { model, max_tokens: 8, messages: [{ role: "user", content: [question, image] }] };

async function refused(changes) {
  try {
    await client.chat.completions.create({ ...asked, ...changes });
    return "answered";
  } catch (error) {
    const { status, code, param } = error;
    return { name: error.constructor.name, status, code, param };
  }
}

const plain = await client.chat.completions.create(asked);
const chunks = [];
const options = { stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create({ ...asked, ...options })) {
  chunks.push(chunk);
}
const helped = await client.chat.completions.stream(asked).finalChatCompletion();
const models = [];
for await (const own of client.models.list()) models.push(own.id);

console.log(
  JSON.stringify({
    models,
    retrieved: (await client.models.retrieve(model)).id,
    plain,
    streamed: chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""),
    usage: chunks.at(-1).usage,
    split: chunks.at(-2).split,
    helped: helped.choices[0].message.content,
    bad_field: await refused({ n: 3 }),
    bad_image: await refused({
      messages: [{ role: "user", content: [question, { type: "image_url", image_url: { url: "https://example.com/a.png" } }] }],
    }),
    unknown_model: await refused({ model: "gpt-9" }),
  }),
);
