// Numbers and errors as text for users.

import { GatewayAway } from "./api.js";

const integer = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const oneDecimal = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const twoDigits = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });

export const count = (number) => integer.format(number);
export const bytes = (number) => `${integer.format(number)} B`;
export const megabytes = (number) => `${oneDecimal.format(number / 1e6)} MB`;
export const times = (number) => twoDigits.format(number);

export function milliseconds(number) {
  return `${(number < 10 ? oneDecimal : integer).format(number)} ms`;
}

const AGAIN = "Your question is still in the field below: ask again";

/** Title and advice by error code; {soon} is replaced by the time until the next attempt. */
const ERRORS = {
  cloud_unreachable: [
    "The cloud does not answer.",
    `${AGAIN} once the line at the top says that it is ready; this page keeps looking.`,
  ],
  timeout: ["The answer did not come in time.", `${AGAIN}, or look at the link to the cloud.`],
  overloaded: ["Too many questions at the moment.", `${AGAIN} {soon}.`],
  rate_limit_exceeded: ["You asked more questions than the cloud allows.", `${AGAIN} {soon}.`],
  engine_failed: ["The cloud failed on this question.", `${AGAIN}.`],
  image_not_held: ["The cloud has forgotten the picture.", `${AGAIN}.`],
  bundle_mismatch: [
    "The cloud has another bundle than this gateway.",
    "Whoever runs them has to install the same one on both sides.",
  ],
  gateway_not_known_to_cloud: [
    "The cloud does not know this gateway.",
    "Whoever runs it has to give it a certificate or token that the cloud knows.",
  ],
  invalid_image: ["This picture cannot be used.", "Choose another."],
  request_too_large: ["This picture is too large.", "Choose a smaller one."],
  invalid_api_key: ["This gateway wants a key.", "Enter the one that its operator gave you."],
  internal_error: ["The gateway failed on this question.", "Its log says where."],
};

/** An error as { title, advice, detail }: what happened, what to do, and the gateway's message. */
export function explain(error) {
  if (error instanceof GatewayAway) {
    return {
      title: "The gateway does not answer.",
      advice: `Is edge-client serve still running? ${AGAIN} once it is back; this page keeps looking.`,
      detail: "",
    };
  }
  const fallback = ["This was not answered.", "Change it and try again."];
  const [title, advice] = ERRORS[error.code] ?? fallback;
  const soon = error.retrySeconds > 1 ? `in ${error.retrySeconds} seconds` : "in a moment";
  return { title, advice: advice.replace("{soon}", soon), detail: error.message };
}
