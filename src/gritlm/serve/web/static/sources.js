// Sources of an answer, each a line that unfolds to its passage.

import { h } from "./dom.js";

export const titleOf = (source) => source.title || source.document_id;

const NAMED = 3; // other documents that are named

const others = (ids) => {
  if (!ids?.length) return "";
  const rest = ids.length > NAMED ? " and others" : "";
  return `, also in ${ids.slice(0, NAMED).join(", ")}${rest}`;
};

export const placeOf = (source) =>
  `${source.document_id}, characters ${source.start} to ${source.end}${others(source.also_in)}`;

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
