// Questions and answers about one image. The gateway is stateless: each request holds all of them.

import { $, element } from "./elements.js";
import { bytes, explain, milliseconds } from "./text.js";

export class Conversation {
  constructor() {
    this.turns = [];
    this.sentBytes = 0;
    $("conversation").replaceChildren();
  }

  /** The messages of a request: the image with the first question, then the turns. */
  messages(question, uri) {
    const questions = [...this.turns.map((turn) => turn.question), question];
    return questions.flatMap((text, number) => {
      const content = [{ type: "text", text }];
      if (number === 0) content.push({ type: "image_url", image_url: { url: uri } });
      const message = { role: "user", content };
      const turn = this.turns[number];
      return turn ? [message, { role: "assistant", content: turn.answer }] : [message];
    });
  }

  /** Shows a question whose answer is pending. */
  begin(question) {
    return new Exchange(this, question);
  }
}

class Exchange {
  constructor(conversation, question) {
    this.conversation = conversation;
    this.question = question;
    this.text = "";
    this.answer = element("p", "answer waiting");
    this.item = element("li");
    this.item.append(element("p", "question", question), this.answer);
    // Screen readers read the log once it is not busy: else they would read each piece separately.
    $("log").setAttribute("aria-busy", "true");
    $("conversation").append(this.item);
  }

  add(piece) {
    if (!piece) return;
    this.text += piece;
    this.answer.classList.remove("waiting");
    this.answer.append(piece);
  }

  end(split) {
    this.conversation.turns.push({ question: this.question, answer: this.text });
    this.conversation.sentBytes += split.bytes_sent;
    const sent = `${bytes(split.bytes_sent)} sent`;
    const first = `first word after ${milliseconds(split.first_token_ms)}`;
    this.close(`${sent}, ${first}, all after ${milliseconds(split.total_ms)}`);
    if (!this.text) this.answer.textContent = "(an empty answer)";
  }

  stop() {
    this.close("Stopped. This question and its answer are not part of the conversation.");
  }

  fail(error) {
    const { title, advice, detail } = explain(error);
    const problem = element("div", "problem");
    problem.append(element("strong", "", title), ` ${advice}`);
    if (detail) problem.append(element("p", "note", detail));
    this.close("");
    this.item.append(problem);
  }

  close(note) {
    this.answer.classList.remove("waiting");
    if (!this.text) this.answer.textContent = "";
    if (note) this.item.append(element("p", "note", note));
    $("log").removeAttribute("aria-busy");
  }
}
