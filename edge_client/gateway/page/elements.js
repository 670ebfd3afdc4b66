// Access to elements. All content is set as text, never as HTML.

export const $ = (id) => document.getElementById(id);

export function element(tag, className = "", text = "") {
  const created = document.createElement(tag);
  if (className) created.className = className;
  created.textContent = text;
  return created;
}

/** Sets the text of an element, which is hidden while the text is empty. */
export function setText(id, text) {
  $(id).textContent = text;
  $(id).hidden = !text;
}
