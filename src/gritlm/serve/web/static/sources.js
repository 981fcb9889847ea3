// Sources of an answer, each a line that unfolds to its passage.

import { h } from "./dom.js";
import { t } from "./language.js";
import { labelOf, mediaOf } from "./media.js";
import { quoteIn } from "./quote.js";

export const titleOf = (source) => source.title || source.document_id;

const NAMED = 3; // other documents that are named

const others = (ids) => {
  if (!ids?.length) return "";
  return t("place.others", { ids: ids.slice(0, NAMED), more: ids.length > NAMED });
};

const spanOf = (source) =>
  source.media ? labelOf(source.media) : t("place.characters", source);

export const placeOf = (source) =>
  `${[source.document_id, spanOf(source)].filter(Boolean).join(t("place.join"))}${others(source.also_in)}`;

// The text of a passage, or its image or sound.
const contentOf = (source, ...text) =>
  source.media ? mediaOf(source) : h("p", { class: "passage" }, ...text);

export const scoreOf = (source) => source.score.toFixed(3);

// The pieces of a text, in which the words of an answer are marked.
export const marked = (text, answer) => {
  const found = quoteIn(text, answer);
  if (!found) return [text];
  const [start, end] = found;
  return [text.slice(0, start), h("mark", {}, text.slice(start, end)), text.slice(end)];
};

const passageOf = (source, answer) => (source.used ? marked(source.text, answer) : [source.text]);

const signed = (value) => value.toFixed(2).replace("-", "\u2212");

const likelihoodOf = (source) =>
  source.likelihood === null || source.likelihood === undefined
    ? null
    : h("span", { class: "score", title: t("source.likelihood") }, signed(source.likelihood));

// Marks the words of a finished answer in the passages that it comes from, and unfolds the first one.
export const markAnswer = (list, sources, answer) => {
  for (const [place, item] of [...list.children].entries()) {
    item.querySelector(".passage")?.replaceChildren(...passageOf(sources[place], answer));
  }
  const first = sources.findIndex((source) => source.used);
  if (first >= 0) list.children[first].querySelector("details").open = true;
};

export const sourceItems = (sources, answer = "") =>
  sources.map((source, place) =>
    h("li", { class: source.used ? "source used" : "source" },
      h("details", {},
        h("summary", {},
          h("span", { class: "number" }, String(place + 1)),
          h("span", { class: "name" }, titleOf(source)),
          sources.length > 1 ? h("span", { class: "use" }, source.used ? t("source.used") : t("source.unused")) : null,
          likelihoodOf(source),
          h("span", { class: "score", title: t("source.cosine") }, scoreOf(source))),
        contentOf(source, ...passageOf(source, answer)),
        h("p", { class: "place" }, placeOf(source)))));
