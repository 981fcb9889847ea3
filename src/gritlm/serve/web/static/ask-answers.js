// Two answers next to each other, from stored key/value state and without it, with the cost of each.

import { $, h } from "./dom.js";
import { t } from "./language.js";
import { markdown } from "./markdown.js";
import { charts, readNow, stages } from "./took.js";

const way = (name, hint, mode, fusion, fresh) =>
  ({ name, hint, mode, fusion, fresh, first: null, trace: null, text: "", sources: [] });

// The fresh answer next to a cached one reads all passages in one prompt.
export const ways = ({ mode, fusion }) => {
  const fresh = (used) => way(t("ask.fresh"), t(used === "joint" ? "ask.freshHint" : "ask.freshEach"), "none", used, true);
  return mode === "none"
    ? [fresh(fusion)]
    : [way(t("ask.cached"), t("ask.cachedHint"), mode, fusion, false), fresh("joint")];
};

const times = (ratio) => (ratio >= 10 ? ratio.toFixed(0) : ratio.toFixed(1));

const verdict = ([cached, fresh]) => {
  if (!fresh?.trace || cached.first === null || fresh.first === null) return [];
  const ratio = fresh.first / cached.first;
  const spared = readNow(fresh.trace) - readNow(cached.trace);
  const sentence = t("ask.tokens", { cached: readNow(cached.trace), fresh: readNow(fresh.trace) });
  if (cached.trace.tokens_computed) return [`${sentence} ${t("ask.computed", { count: cached.trace.tokens_computed })}`];
  if (spared <= 0) return [t("ask.noneSaved", { mode: cached.trace.mode })];
  if (ratio < 1.05) return [`${sentence} ${t("ask.noFaster")}`];
  return [h("strong", {}, t("ask.sooner", { ratio: times(ratio) })), sentence];
};

const figures = ({ first, trace }) =>
  first === null ? [t("took.waiting")] : [
    h("strong", {}, t("ask.figures", { ms: first })),
    trace ? h("span", {}, t("ask.figuresRead", { count: readNow(trace) })) : null,
  ].filter(Boolean);

const drawOne = (one, places) => {
  $(places.card).hidden = !one;
  if (!one) return;
  $(places.title).replaceChildren(one.name, " ", h("span", { class: "count" }, one.hint));
  $(places.figures).replaceChildren(...figures(one));
  $(places.text).replaceChildren(...markdown(one.text));
  $(places.text).classList.toggle("writing", one.running === true);
};

const MAIN = { card: "ask-main", title: "ask-main-title", figures: "ask-main-figures", text: "ask-answer" };
const OTHER = { card: "ask-other", title: "ask-other-title", figures: "ask-other-figures", text: "ask-other-text" };

// Draws the ways that a question is answered in; the first one is shown with its sources.
export const drawAnswers = (all) => {
  const [main, other] = all;
  drawOne(main, MAIN);
  drawOne(other, OTHER);
  $("ask-pair").classList.toggle("alone", !other);
  $("ask-support").hidden = main.trace?.supported !== false;
  $("ask-charts").replaceChildren(...charts(all));
  $("ask-verdict").replaceChildren(...verdict(all));
  $("ask-stages").hidden = !all.some((each) => each.trace);
  $("ask-stages-table").replaceChildren(stages(all));
};
