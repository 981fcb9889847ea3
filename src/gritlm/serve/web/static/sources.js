// Sources of an answer, each a line that unfolds to its passage.

import { h } from "./dom.js";
import { t } from "./language.js";
import { labelOf, mediaOf } from "./media.js";

// The title of the document and the page, where it has pages.
export const titleOf = (source) => {
  const page = source.media?.page ?? source.page;
  const title = source.title || source.document_id;
  return page ? [title, t("place.page", { page })].join(t("place.join")) : title;
};

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
const contentOf = (source) =>
  source.media ? mediaOf(source) : h("p", { class: "passage", tabindex: "0", role: "group", "aria-label": t("source.passage") }, source.text);

export const scoreOf = (source) => source.score.toFixed(3);

const signed = (value) => value.toFixed(2).replace("-", "\u2212");

const scoresOf = (source) => {
  const scores = [t("source.cosine", { value: scoreOf(source) })];
  if (source.likelihood !== null && source.likelihood !== undefined) {
    scores.push(t("source.likelihood", { value: signed(source.likelihood) }));
  }
  return scores.join(" · ");
};

// Items of a list; quotation.js marks an answer in them.
export const sourceItems = (sources) =>
  sources.map((source, place) =>
    h("li", { class: source.used ? "source used" : "source" },
      h("details", {},
        h("summary", {},
          h("span", { class: "number" }, String(place + 1)),
          h("span", { class: "name" }, titleOf(source)),
          sources.length > 1 ? h("span", { class: "use" }, source.used ? t("source.used") : t("source.unused")) : null),
        contentOf(source),
        h("p", { class: "place" }, placeOf(source)),
        h("p", { class: "scores" }, scoresOf(source)))));
