// The gateway's API: requests, what it refuses, and answers as they stream.

const KEY = "avq-gateway-key";

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (words) => sessionStorage.setItem(KEY, words),
};

/** The gateway said no, or broke an answer off: `message` is its own words, for people. */
export class Refused extends Error {
  constructor(status, { message, code }, retrySeconds = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.retrySeconds = retrySeconds;
  }
}

/** Nothing answered, or it hung up: the gateway's process is gone, or the way to it. */
export class GatewayAway extends Error {}

export const isAbort = (error) => error.name === "AbortError";

export async function bundle() {
  return (await call("v1/bundle")).json();
}

/** What a picture costs at every operating point; nothing goes to the cloud. */
export async function rates(image, signal) {
  return (await call("v1/rates", { image }, signal)).json();
}

/** Which indices a picture becomes; nothing goes to the cloud. */
export async function indexMap(image, quality, signal) {
  return (await call("v1/index_map", { image, quality }, signal)).json();
}

/** The chunks of an answer, each as soon as it is here. */
export async function* chat(request, signal) {
  const response = await call("v1/chat/completions", { ...request, stream: true }, signal);
  let whole = false; // the stream is read to its end also then: to hang up would be to cancel
  for await (const data of events(response.body)) {
    whole = data === "[DONE]";
    if (whole) continue;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(response.status, chunk.error);
    yield chunk;
  }
  if (!whole) throw new GatewayAway();
}

/** Can questions be answered now? `words` say why not. */
export async function readiness() {
  try {
    const response = await fetch("readyz", { cache: "no-store" });
    return { gateway: true, ready: response.ok, words: (await response.text()).trim() };
  } catch {
    return { gateway: false, ready: false, words: "" };
  }
}

async function call(path, body, signal) {
  const headers = {};
  if (key.get()) headers["Authorization"] = `Bearer ${key.get()}`;
  const options = { headers, signal, cache: "no-store" };
  if (body) {
    headers["Content-Type"] = "application/json";
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
  }
  const response = await orAway(fetch(path, options));
  if (response.ok) return response;
  const retrySeconds = Number(response.headers.get("Retry-After")) || 0;
  const told = await response.json().catch(() => ({}));
  const words = { message: `status ${response.status}`, code: null };
  throw new Refused(response.status, told.error ?? words, retrySeconds);
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await orAway(reader.read());
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

async function orAway(promise) {
  try {
    return await promise;
  } catch (error) {
    throw isAbort(error) ? error : new GatewayAway();
  }
}
