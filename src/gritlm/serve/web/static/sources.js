// Passages that an answer was made from, folded to a line each.

import { h } from "./dom.js";

export const titleOf = (source) => source.title || source.document_id;

export const placeOf = (source) => `${source.document_id}, characters ${source.start} to ${source.end}`;

export const scoreOf = (source) => source.score.toFixed(3);

export const sourceItems = (sources) =>
  sources.map((source, place) =>
    h("li", { class: "source" },
      h("details", {},
        h("summary", {},
          h("span", { class: "number" }, String(place + 1)),
          h("span", { class: "name" }, titleOf(source)),
          h("span", { class: "score", title: "Cosine of question and passage" }, scoreOf(source))),
        h("p", {}, source.text),
        h("p", { class: "place" }, placeOf(source)))));
