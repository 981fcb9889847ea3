// The documents of the store: a list with a button that deletes one.

import { startAdding } from "./adding.js";
import { call } from "./api.js";
import { $, h, icon } from "./dom.js";
import { t } from "./language.js";
import { store } from "./server.js";
import { showTrouble } from "./trouble.js";
import { number } from "./words.js";

const PAGE = 50;

// `titles`: those of the documents that are listed.
export const documents = { count: 0, titles: [] };

let all = [];
let more = null; // where the list goes on, on the server
let redrawn = () => {};

const draw = () => {
  $("documents-count").textContent = documents.count ? number(documents.count) : "";
  $("documents-go").textContent = t("documents.go", documents);
  $("documents").replaceChildren(...all.map(item));
  $("documents-more").hidden = more === null;
  redrawn();
};

const item = (document) =>
  h("li", {},
    icon("file"),
    h("span", {},
      h("span", { class: "name", title: document.id }, document.title || document.id),
      h("span", { class: "size" }, t("documents.passages", { count: document.passages }))),
    h("button", {
      class: "round", type: "button", "aria-label": t("documents.deleteOne", { name: document.title || document.id }), title: t("documents.delete"),
      onclick: () => remove(document),
    }, icon("bin")));

const inStore = (sign) => (store() === null ? "" : `${sign}store=${encodeURIComponent(store())}`);

const fetchFrom = async (after) => {
  try {
    const query = after === null ? "" : `&after=${encodeURIComponent(after)}`;
    const { data, total, has_more, last_id } = await call(`v1/rag/documents?limit=${PAGE}${query}${inStore("&")}`);
    all = after === null ? data : [...all, ...data];
    more = has_more ? last_id : null;
    documents.count = total;
    documents.titles = [...new Set(all.map((each) => each.title).filter(Boolean))];
    $("documents-trouble").replaceChildren();
  } catch (error) {
    showTrouble($("documents-trouble"), error, () => fetchFrom(after));
  }
  draw();
};

export const refresh = () => fetchFrom(null);

const remove = async (document) => {
  const place = all.indexOf(document);
  try {
    await call(`v1/rag/documents/${encodeURIComponent(document.id)}${inStore("?")}`, { method: "DELETE" });
  } catch (error) {
    showTrouble($("documents-trouble"), error);
    return;
  }
  all = all.filter((each) => each !== document);
  documents.count -= 1;
  draw();
  $("documents-status").textContent = t("documents.deleted", { name: document.title || document.id });
  // Where the focus was is gone; the next document takes it.
  ($("documents").querySelectorAll("button")[Math.min(place, all.length - 1)] ?? $("files")).focus();
};

// `changed` runs whenever the list is drawn.
export const startDocuments = (changed) => {
  redrawn = changed;
  startAdding(refresh);
  $("documents-more").addEventListener("click", () => fetchFrom(more));
  $("documents-go").addEventListener("click", () => {
    $("documents-title").scrollIntoView();
    $("files").focus({ preventScroll: true });
  });
};
