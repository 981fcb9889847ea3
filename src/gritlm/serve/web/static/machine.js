// The dialog of the model and the machine: its size, its memory, its load, refreshed while it is open.

import { call, text } from "./api.js";
import { $, h, share } from "./dom.js";
import { t } from "./language.js";
import { server } from "./server.js";
import { trouble } from "./trouble.js";
import { bytes, number, span } from "./words.js";

const EVERY_MS = 2000;

let timer = 0;
let openings = 0; // a refresh of an earlier opening starts no timer
let last = null; // {time, metrics} of the refresh before

// Sums the samples of each metric over their labels, from the text format of Prometheus.
export const sums = (exposition) => {
  const found = {};
  for (const line of exposition.split("\n")) {
    const [, name, value] = /^(gritlm_\w+)(?:\{.*\})? (\S+)$/.exec(line) ?? [];
    if (name) found[name] = (found[name] ?? 0) + Number(value);
  }
  return found;
};

const rate = (name, now) => {
  if (!last?.metrics || !now.metrics) return null;
  const tokens = now.metrics[name] - last.metrics[name];
  return Math.max(0, tokens) / ((now.time - last.time) / 1000);
};

const perSecond = (value) => (value === null ? t("machine.measuring") : t("machine.rate", { rate: value }));

const row = (name, value) => [h("dt", {}, name), h("dd", {}, value)];

const group = (name, rows) => h("section", {}, h("h3", {}, name), h("dl", {}, ...rows.flat()));

const modelRows = (model, version) => [
  row(t("machine.name"), model.id),
  row(t("machine.parameters"), t("machine.amount", { value: model.parameters })),
  row(t("machine.dtype"), model.dtype),
  row(t("machine.device"), model.device),
  row(t("machine.context"), t("machine.tokens", { count: model.max_model_len })),
  row(t("machine.dimension"), number(model.embedding_dimension)),
  row(t("machine.version"), version),
  row(t("machine.uptime"), span(Date.now() / 1000 - model.created)),
];

const adapterRows = (models) => {
  const named = models.filter((each) => each.parent !== null && !each.id.includes(":rag")).map((each) => each.id);
  return [row(t("machine.adapters"), named.length ? named.join(", ") : t("machine.noAdapters"))];
};

const bar = (part) => h("i", { class: "level", "aria-hidden": "true" }, share(h("i"), part));

const memoryRows = (model, metrics, stores) => [
  row(t("machine.weights"), bytes(model.memory_bytes)),
  ...(metrics ? [row(t("machine.kv"), [
    t("machine.used", { of: metrics.gritlm_kv_cache_bytes, part: metrics.gritlm_kv_cache_usage_perc }),
    bar(metrics.gritlm_kv_cache_usage_perc)])] : []),
  ...stores.map((store) => row(t("machine.store", { name: store.id }),
    t("machine.storeBytes", { documents: store.documents, disk: store.disk_bytes, memory: store.memory_bytes }))),
];

const loadRows = (now) => [
  row(t("machine.running"), number(now.metrics.gritlm_num_requests_running)),
  row(t("machine.waiting"), number(now.metrics.gritlm_num_requests_waiting)),
  row(t("machine.generated"), perSecond(rate("gritlm_generation_tokens_total", now))),
  row(t("machine.read"), perSecond(rate("gritlm_prompt_tokens_total", now))),
  row(t("machine.totals"), t("machine.totalTokens", {
    read: now.metrics.gritlm_prompt_tokens_total ?? 0, written: now.metrics.gritlm_generation_tokens_total ?? 0,
  })),
];

// What a key may not see is left out, with the reason.
const allowed = async (request) => {
  try {
    return { value: await request };
  } catch (error) {
    if (error.status !== 403) throw error;
    return { value: null, error };
  }
};

const refresh = async () => {
  const [models, { version }, metrics, stores] = await Promise.all([
    call("v1/models"), call("api/version"), allowed(text("metrics")), allowed(call("v1/rag/stores")),
  ]);
  const now = { time: performance.now(), metrics: metrics.value && { gritlm_generation_tokens_total: 0, gritlm_prompt_tokens_total: 0, ...sums(metrics.value) } };
  const [model] = models.data;
  $("machine-body").replaceChildren(...[
    group(t("machine.model"), [...modelRows(model, version), ...adapterRows(models.data)]),
    group(t("machine.memory"), memoryRows(model, now.metrics, stores.value?.data ?? [])),
    now.metrics ? group(t("machine.load"), loadRows(now)) : null,
    metrics.error ? trouble(metrics.error) : null,
  ].filter(Boolean));
  last = now;
};

const watch = async (opening) => {
  try {
    await refresh();
  } catch (error) {
    $("machine-body").replaceChildren(trouble(error));
  }
  if ($("machine").open && opening === openings) timer = setTimeout(() => watch(opening), EVERY_MS);
};

export const showMachineName = () => {
  const name = server.model?.id ?? "";
  $("server-model").textContent = name;
  $("server-model").hidden = !name;
  $("server-model").setAttribute("aria-label", t("machine.open", { name }));
  $("server-model").title = t("machine.open", { name });
};

export const startMachine = () => {
  $("server-model").addEventListener("click", () => {
    last = null;
    $("machine").showModal();
    openings += 1;
    watch(openings);
  });
  $("machine-close").addEventListener("click", () => $("machine").close());
  $("machine").addEventListener("close", () => clearTimeout(timer));
};
