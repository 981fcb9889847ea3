// The Search tab: passages ranked by meaning, next to the list of documents.

import { readable } from "./answers.js";
import { post } from "./api.js";
import { documents, refresh, startDocuments } from "./documents.js";
import { $, h, share } from "./dom.js";
import { t } from "./language.js";
import { mediaOf } from "./media.js";
import { placeOf, scoreOf, titleOf } from "./sources.js";
import { showTrouble, stopped } from "./trouble.js";
import { whenShown } from "./tabs.js";
import { server, store, whenServerChanges } from "./server.js";

let request = null;
let searched = null; // name of the store

const hit = (found, place) =>
  h("li", { class: "hit" },
    h("div", { class: "hit-top" },
      h("span", { class: "rank" }, String(place + 1)),
      h("h3", {}, titleOf(found)),
      h("div", { class: "bar", "aria-hidden": "true" }, share(h("i"), found.score)),
      h("span", { class: "score", title: t("search.cosine") }, scoreOf(found))),
    found.media ? mediaOf(found) : h("p", {}, found.text),
    h("p", { class: "place" }, placeOf(found)));

const emptyWords = () =>
  documents.count
    ? t("search.count", documents)
    : t("search.empty");

const drawEmpty = () => {
  $("search-empty-text").textContent = emptyWords();
  $("search-empty").hidden = $("search-hits").childElementCount > 0;
};

const submit = async (event) => {
  event.preventDefault();
  request?.abort();
  request = new AbortController();
  const started = performance.now();
  $("search-status").textContent = t("search.running");
  $("search-trouble").replaceChildren();
  try {
    const body = { question: $("search-query").value, top_k: Number($("search-k").value), hybrid: $("search-words").checked, store: store() };
    const { data } = await post("v1/rag/search", body, request.signal);
    $("search-hits").replaceChildren(...data.map(readable).map(hit));
    $("search-status").textContent = data.length
      ? t("search.found", { count: data.length, ms: performance.now() - started })
      : t("search.none");
  } catch (error) {
    if (stopped(error)) return;
    $("search-hits").replaceChildren();
    $("search-status").textContent = "";
    showTrouble($("search-trouble"), error);
  }
  drawEmpty();
};

// The hits of one store are not those of another. A search that was sent before the stores were
// known asks the server's only one: it goes on.
const clearForAnotherStore = () => {
  const before = searched;
  searched = store();
  if (before === null || before === searched) return;
  request?.abort();
  $("search-hits").replaceChildren();
  $("search-status").textContent = "";
};

export const startSearch = () => {
  startDocuments(drawEmpty);
  $("search-form").addEventListener("submit", submit);
  const load = () => { if (server.model?.documents) refresh(); };
  whenShown("search", load);
  whenServerChanges(() => {
    clearForAnotherStore();
    if (!$("search").hidden) load();
  });
};
