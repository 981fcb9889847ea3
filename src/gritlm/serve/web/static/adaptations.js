// The Adapters tab: reports of `gritlm adapt` on the adapters of the server. Hidden without any.

import { call } from "./api.js";
import { $, h } from "./dom.js";
import { t } from "./language.js";
import { offerTab } from "./tabs.js";
import { duration, number } from "./words.js";

const points = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const signed = new Intl.NumberFormat("en", {
  minimumFractionDigits: 1, maximumFractionDigits: 1, signDisplay: "exceptZero",
});

const interval = ({ low, high }) =>
  low === null || high === null ? t("adapted.unknown") : t("adapted.range", { low: signed.format(low), high: signed.format(high) });

// Only a difference whose whole interval is on one side of zero has a colour.
const direction = ({ low, high }) => (low > 0 ? "better" : high !== null && high < 0 ? "worse" : null);

const table = (caption, columns, rows) =>
  h("div", { class: "scroll" }, h("table", { class: "plain" }, h("caption", { class: "unseen" }, caption),
    h("thead", {}, h("tr", {}, ...columns.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, ...rows)));

const scores = (differences) => table(t("adapted.scores"),
  [t("adapted.task"), t("adapted.before"), t("adapted.after"), t("adapted.difference"), t("adapted.interval")],
  differences.map(({ task, before, after, estimate }) => h("tr", { class: direction(estimate) },
    h("th", { scope: "row" }, task),
    h("td", {}, points.format(before)), h("td", {}, points.format(after)),
    h("td", { class: "difference" }, signed.format(estimate.value)), h("td", {}, interval(estimate)))));

const counts = (found) => Object.entries(found).map(([name, count]) => `${number(count)} ${name}`).join(", ");

const steps = (found) => h("details", { class: "stages" }, h("summary", {}, t("adapted.steps")),
  table(t("adapted.stepsTable"), [t("adapted.step"), t("adapted.counts"), t("adapted.time")], Object.entries(found).map(([name, step]) => h("tr", {},
    h("th", { scope: "row" }, name), h("td", {}, counts(step.counts)),
    h("td", {}, duration(1000 * step.seconds))))));

const report = ({ id, verdict, steps: finished, problem }) => h("article", { class: "card adapted" },
  h("h2", {}, id),
  problem === null ? null : h("p", { class: "trouble" }, problem),
  ...(verdict === null ? [] : [
    h("p", { class: "decision", "data-decision": verdict.decision }, verdict.sentence),
    scores(verdict.differences), steps(finished)]));

// Loads the reports, and offers the tab if there are any.
export const lookAtAdaptations = async () => {
  const { data } = await call("v1/adaptations");
  $("adaptations").replaceChildren(...data.map(report));
  if (data.length) offerTab("adapted");
};
