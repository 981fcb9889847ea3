// The sentence of a passage that answers a question best: quoted below the answer, and marked in the passage.

import { h } from "./dom.js";
import { t } from "./language.js";
import { bestSentence, quoteIn } from "./quote.js";

const words = (text, answer) => {
  const found = quoteIn(text, answer);
  if (!found) return [text];
  const [start, end] = found;
  return [text.slice(0, start), h("mark", {}, text.slice(start, end)), text.slice(end)];
};

// The passage with its sentence in one mark, and the words of the answer in another.
const marked = (text, sentence, answer) => {
  const start = sentence ? text.indexOf(sentence) : -1;
  const quoted = start < 0 ? [0, 0] : [start, start + sentence.length];
  const found = quoteIn(text, answer) ?? [0, 0];
  const within = ([from, to], at) => at >= from && at < to;
  // Both may overlap, so the text is cut at all their ends.
  const ends = [...new Set([...quoted, ...found, text.length])].sort((a, b) => a - b);
  const mark = h("mark", { class: "sentence", tabindex: "-1" });
  const pieces = [];
  let at = 0;
  for (const end of ends.filter((each) => each > 0)) {
    const piece = within(found, at) ? h("mark", {}, text.slice(at, end)) : text.slice(at, end);
    if (within(quoted, at)) mark.append(piece);
    if (!within(quoted, at)) pieces.push(piece);
    else if (at === quoted[0]) pieces.push(mark);
    at = end;
  }
  return pieces;
};

const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// Scrolls the page to the marked sentence and puts the focus there.
const showMark = (list) => {
  const mark = list.querySelector("mark.sentence") ?? list.querySelector("mark");
  if (!mark) return;
  mark.closest("details").open = true;
  mark.focus({ preventScroll: true });
  mark.scrollIntoView({ block: "center", behavior: still() ? "auto" : "smooth" });
};

// Marks the passage that the answer comes from, unfolds it, and scrolls it to the mark within its box.
const markPassage = (list, place, source, { sentence, answer, unfold }) => {
  const item = list.children[place];
  const passage = item.querySelector(".passage");
  passage?.replaceChildren(...marked(source.text, sentence, answer));
  if (unfold) item.querySelector("details").open = true;
  const mark = passage?.querySelector("mark");
  if (mark) passage.scrollTop = mark.offsetTop - passage.clientHeight / 3;
};

const quoteOf = (sentence, answer, list) =>
  h("div", { class: "quoted" },
    h("blockquote", { class: "quote", "aria-label": t("ask.quote") }, ...words(sentence, answer)),
    h("button", { class: "quiet", type: "button", onclick: () => showMark(list) }, t("ask.showQuote")));

// Marks an answer in the items of its sources, and returns the sentence of its passage that answers the
// question best; null without one. A sentence that was found before is not looked for again.
export const markAnswer = async (list, sources, { question, answer, sentence, signal, unfold = true }) => {
  const place = sources.findIndex((source) => source.used);
  if (place < 0) return null;
  const source = sources[place];
  markPassage(list, place, source, { sentence, answer, unfold });
  if (sentence !== undefined || source.media) return sentence ?? null;
  const found = await bestSentence(question, source, signal);
  if (found) markPassage(list, place, source, { sentence: found, answer, unfold });
  return found;
};

export const quotation = (sentence, answer, list) => (sentence ? [quoteOf(sentence, answer, list)] : []);
