// Cost of both ways of answering, as bars on one scale.

import { h, share } from "./dom.js";
import { t } from "./language.js";
import { duration, number } from "./words.js";

const bar = (row, of, format) => {
  const parts = row.parts ?? [];
  const sum = parts.reduce((total, part) => total + part.value, 0);
  const pending = row.parts === null;
  return [
    h("span", {}, row.name),
    h("span", { class: "stack", "aria-hidden": "true" },
      ...parts.map((part) => share(h("i", { class: part.kind ?? "" }), of ? part.value / of : 0))),
    h("span", { class: pending ? "value pending" : "value" },
      pending ? t("took.waiting") : format(row.counted ?? sum)),
  ];
};

const chart = (title, rows, format, keys = []) => {
  const largest = Math.max(...rows.map((row) => (row.parts ?? []).reduce((sum, part) => sum + part.value, 0)));
  return h("figure", { class: "chart" },
    h("figcaption", {}, title,
      keys.length ? h("span", { class: "keys" }, ...keys.map(([kind, words]) => h("span", { class: kind }, words))) : null),
    h("div", { class: "lines" }, ...rows.flatMap((row) => bar(row, largest, format))));
};

// Tokens computed after the question arrived.
export const readNow = (trace) =>
  trace.tokens_prefilled + trace.tokens_recomputed + trace.tokens_selecting + trace.tokens_computed;

// `ways`: [{name, fresh, first, trace}]; first (ms) and trace are null until they are known.
export const charts = (ways) => [
  chart(t("took.first"), ways.map(({ name, first, fresh }) => ({
    name, parts: first === null ? null : [{ value: first, kind: fresh ? "fresh" : "" }],
  })), duration),
  chart(t("took.read"), ways.map(({ name, trace, fresh }) => ({
    name,
    parts: trace === null ? null : [
      { value: readNow(trace), kind: fresh ? "fresh" : "" },
      { value: Math.max(0, trace.tokens_reused - trace.tokens_recomputed), kind: "reused" },
    ],
    counted: trace === null ? null : readNow(trace),
  })), number, [["reused", t("took.reused")]]),
];

const STAGES = {
  embed: "stage.embed", search: "stage.search", rerank: "stage.rerank", plan: "stage.plan", load: "stage.load",
  move: "stage.move", score: "stage.score", prefill: "stage.prefill", decode: "stage.decode",
  first_token: "stage.firstToken", queue: "stage.queue",
};

export const stages = (ways) => {
  const known = ways.filter((way) => way.trace);
  const names = [...new Set(known.flatMap((way) => Object.keys(way.trace.milliseconds)))];
  const order = Object.keys(STAGES);
  names.sort((a, b) => order.indexOf(a) - order.indexOf(b));
  return h("table", { class: "plain" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "unseen" }, t("took.stage"))),
      ...known.map((way) => h("th", { scope: "col" }, way.name)))),
    h("tbody", {}, ...names.map((name) => h("tr", {}, h("th", { scope: "row" }, STAGES[name] ? t(STAGES[name]) : name),
      ...known.map((way) => {
        const ms = way.trace.milliseconds[name];
        return h("td", {}, ms === undefined ? "–" : duration(ms));
      })))));
};
