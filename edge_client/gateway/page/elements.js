// Elements by name. Whatever is said goes in as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}

/** Text in an element that is hidden without any. */
export function say(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}
