// The Embed tab: vectors of texts, drawn as a similarity matrix and a map with clusters.

import { call, post } from "./api.js";
import { clustersOf } from "./clusters.js";
import { $ } from "./dom.js";
import { heat } from "./heat.js";
import { t } from "./language.js";
import { plane } from "./plane.js";
import { server, store, whenServerChanges } from "./server.js";
import { showTrouble, stopped } from "./trouble.js";
import { cosines, decoded, pca } from "./vectors.js";

const LEAST = 2;
const MOST = 150;
const IN_MATRIX = 50; // texts; more are drawn as a map only
const SIDE_BY_SIDE = 10;
const EXAMPLE = [
  "The museum opens at ten.", "Visitors may come in from ten o'clock.", "The gallery is closed on Mondays.",
  "Bread dough has to rest for an hour.", "Let the yeast work before you bake.", "Salt goes in last.",
  "The train to the coast leaves at noon.", "There is a ferry to the island every hour.",
];

let request = null;
let last = null;

const texts = () => $("embed-texts").value.split("\n").map((line) => line.trim()).filter(Boolean);

const count = () => {
  const found = texts().length;
  $("embed-count").textContent = t("embed.count", { count: found, most: MOST });
  const wrong = found < LEAST ? t("embed.few", { count: found, least: LEAST })
    : found > MOST ? t("embed.many", { count: found, most: MOST }) : "";
  $("embed-texts").setCustomValidity(wrong);
};

const draw = () => {
  if (!last) return;
  $("embed-result").hidden = false;
  $("embed-result").classList.toggle("many", last.lines.length > SIDE_BY_SIDE);
  const tooMany = last.lines.length > IN_MATRIX;
  $("heat-card").hidden = tooMany;
  $("heat").replaceChildren(...(tooMany ? [] : heat(last.lines, cosines(last.vectors), $("heat").clientWidth)));
  $("plane-note").textContent = tooMany ? t("heat.many", { most: IN_MATRIX }) : "";
  $("plane").replaceChildren(...plane(last.lines, last.map, last.clusters, $("plane").clientWidth));
};

const submit = async (event) => {
  event.preventDefault();
  request?.abort();
  request = new AbortController();
  const lines = texts();
  const instruction = $("embed-instruction").value.trim();
  $("embed-status").textContent = t("embed.running");
  $("embed-trouble").replaceChildren();
  try {
    const started = performance.now();
    const { data, usage } = await post("v1/embeddings", {
      input: lines, encoding_format: "base64", ...(instruction ? { instruction } : {}),
    }, request.signal);
    const took = performance.now() - started;
    const vectors = data.map((each) => decoded(each.embedding));
    last = { lines, vectors, map: pca(vectors), clusters: clustersOf(vectors) };
    $("embed-status").textContent = t("embed.done", {
      vectors: lines.length, dimensions: vectors[0].length, tokens: usage.prompt_tokens, ms: took,
    });
    draw();
  } catch (error) {
    if (stopped(error)) return;
    $("embed-status").textContent = "";
    $("embed-result").hidden = true;
    showTrouble($("embed-trouble"), error);
  }
};

const fill = (lines) => {
  $("embed-texts").value = lines.join("\n");
  count();
  $("embed-texts").focus();
};

// The titles of the stored documents, as many as the page draws.
const fillTitles = async () => {
  $("embed-trouble").replaceChildren();
  try {
    const named = store() === null ? "" : `&store=${encodeURIComponent(store())}`;
    const { data } = await call(`v1/rag/documents?limit=${MOST}${named}`);
    fill([...new Set(data.map((each) => (each.title || each.id).replace(/\s+/g, " ")))]);
  } catch (error) {
    showTrouble($("embed-trouble"), error);
  }
};

export const startEmbed = () => {
  count();
  whenServerChanges(() => { $("embed-titles").hidden = !server.model?.documents; });
  $("embed-titles").addEventListener("click", fillTitles);
  $("embed-texts").addEventListener("input", count);
  $("embed-form").addEventListener("submit", submit);
  $("embed-example").addEventListener("click", () => fill(EXAMPLE));
  let width = 0;
  new ResizeObserver(([entry]) => {
    const now = Math.round(entry.contentRect.width);
    if (now && now !== width) { width = now; draw(); }
  }).observe($("embed-result"));
};
