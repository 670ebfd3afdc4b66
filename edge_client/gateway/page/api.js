// Client of the gateway's API: requests, errors and streamed answers.

const KEY = "avq-gateway-key";

/** The API key, stored until the tab is closed. */
export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
};

/** An error response, or an error event in a streamed answer; `message` is the gateway's text. */
export class Refused extends Error {
  constructor(status, { message, code }, retrySeconds = 0) {
    super(message);
    this.status = status;
    this.code = code;
    this.retrySeconds = retrySeconds;
  }
}

/** No response, or the connection was lost: the gateway is not running or cannot be reached. */
export class GatewayAway extends Error {}

export const isAbort = (error) => error.name === "AbortError";

export async function bundle() {
  return (await call("v1/bundle")).json();
}

/** The payload size of an image at every operating point; nothing goes to the cloud. */
export async function rates(request, signal) {
  return (await call("v1/rates", request, signal)).json();
}

/** The indices of an image; nothing goes to the cloud. */
export async function indexMap(request, signal) {
  return (await call("v1/index_map", request, signal)).json();
}

/** The labels of an image with their probabilities; nothing goes to the cloud. */
export async function classify(request, signal) {
  return (await call("v1/classify", request, signal)).json();
}

/** The chunks of an answer, as they arrive. */
export async function* chat(request, signal) {
  const response = await call("v1/chat/completions", { ...request, stream: true }, signal);
  let complete = false;
  for await (const data of events(response.body)) {
    complete = data === "[DONE]";
    // Read on to the end of the stream: closing it here would count as a cancelled request.
    if (complete) continue;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(response.status, chunk.error);
    yield chunk;
  }
  if (!complete) throw new GatewayAway();
}

/** Whether the gateway runs and can reach the cloud; `message` says why not. */
export async function readiness() {
  try {
    const response = await fetch("readyz", { cache: "no-store" });
    return { gateway: true, ready: response.ok, message: (await response.text()).trim() };
  } catch {
    return { gateway: false, ready: false, message: "" };
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
  const response = await awayOnFailure(fetch(path, options));
  if (response.ok) return response;
  const retrySeconds = Number(response.headers.get("Retry-After")) || 0;
  const { error } = await response.json().catch(() => ({}));
  const fallback = { message: `status ${response.status}`, code: null };
  throw new Refused(response.status, error ?? fallback, retrySeconds);
}

/** The data of server-sent events. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await awayOnFailure(reader.read());
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

async function awayOnFailure(promise) {
  try {
    return await promise;
  } catch (error) {
    throw isAbort(error) ? error : new GatewayAway();
  }
}
