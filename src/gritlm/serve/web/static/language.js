// Language of the page: the one of the browser, or the one that was chosen. Set by early.js.

import { chinese } from "./chinese.js";
import { english } from "./english.js";

const DICTIONARIES = { en: english, "zh-CN": chinese };

export const language = document.documentElement.lang;

// Returns the text of a key in the language of the page.
export const t = (key, values) => {
  const text = (DICTIONARIES[language] ?? english)[key];
  if (text === undefined) throw new Error(`no text for '${key}' in '${language}'`);
  return typeof text === "function" ? text(values) : text;
};

// Where the text of an attribute `data-t-...` goes; that of `data-t` is the text of the element.
const ATTRIBUTES = { tLabel: "aria-label", tTitle: "title", tHint: "placeholder" };

// Writes the texts of all elements of the page that name their keys.
export const translatePage = () => {
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const [name, attribute] of Object.entries(ATTRIBUTES)) {
    const selector = `[data-t-${name.slice(1).toLowerCase()}]`;
    for (const element of document.querySelectorAll(selector))
      element.setAttribute(attribute, t(element.dataset[name]));
  }
  document.documentElement.dataset.translated = "";
};
