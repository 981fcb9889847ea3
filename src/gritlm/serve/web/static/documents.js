// The documents beside the search: listed, added from files or pasted text, deleted.

import { call, post } from "./api.js";
import { $, h, icon } from "./dom.js";
import { asRequest, ENDINGS } from "./files.js";
import { t } from "./language.js";
import { store } from "./server.js";
import { showTrouble, stopped } from "./trouble.js";
import { number } from "./words.js";

const PAGE = 50;

export const documents = { count: 0 };

let all = [];
let more = null; // where the list goes on, on the server
let adding = null;
let told = () => {};

const draw = () => {
  $("documents-count").textContent = documents.count ? number(documents.count) : "";
  $("documents").replaceChildren(...all.map(item));
  $("documents-more").hidden = more === null;
  told();
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

const progress = (done, of, name) => {
  // Without a value the bar just moves: of one document there is nothing to count.
  if (of > 1) $("adding-bar").value = done / of;
  else $("adding-bar").removeAttribute("value");
  $("adding-text").textContent = of > 1 ? t("documents.progress", { place: done + 1, of, name }) : name;
};

const summary = (sum) => [
  sum.documents ? t("documents.added", sum) : null,
  sum.unchanged ? t("documents.unchanged", { count: sum.unchanged }) : null,
  ...sum.skipped.map((each) => t("documents.skipped", each)),
  sum.unnamed ? t("documents.unnamed", { count: sum.unnamed }) : null,
].filter(Boolean).join(". ");

// What is wrong with this one; others may go in.
const REFUSED = ["no_documents_added", "max_tokens_per_request", "request_too_large"];

const addOne = async (item, sum) => {
  let body;
  try {
    body = await item.body();
  } catch (error) {
    sum.skipped.push({ name: item.name, reason: error.message });
    return;
  }
  try {
    const done = await post("v1/rag/documents", { ...body, store: store() }, adding.signal);
    for (const name of ["documents", "passages", "unchanged"]) sum[name] += done[name];
    sum.skipped.push(...done.skipped);
    sum.unnamed += done.skipped_count - done.skipped.length;
  } catch (error) {
    if (!REFUSED.includes(error.code)) throw error;
    sum.skipped.push({ name: item.name, reason: error.message });
  }
};

// `items`: [{name, body}]. One request each, so that there is progress to show, and stopping loses
// one at most.
const add = async (items) => {
  if (adding || !items.length) return;
  const sum = { documents: 0, passages: 0, unchanged: 0, skipped: [], unnamed: 0 };
  let failed = null;
  adding = new AbortController();
  $("adding").hidden = false;
  $("documents-status").textContent = "";
  try {
    for (const [place, item] of items.entries()) {
      progress(place, items.length, item.name);
      await addOne(item, sum);
    }
  } catch (error) {
    if (!stopped(error)) failed = error;
  }
  adding = null;
  $("adding").hidden = true;
  await refresh();
  if (failed) showTrouble($("documents-trouble"), failed);
  $("documents-status").textContent = summary(sum);
};

const addFiles = (files) =>
  add([...files].map((file) => ({ name: file.name, body: () => asRequest(file) })));

const paste = async (event) => {
  event.preventDefault();
  const text = $("paste-text").value;
  const title = $("paste-title").value.trim();
  $("paste-form").reset();
  const document = { text, ...(title ? { title } : {}) };
  await add([{ name: title || t("documents.pasted"), body: async () => ({ documents: [document] }) }]);
};

const startDrop = () => {
  const place = $("drop");
  const over = (on) => (event) => {
    event.preventDefault();
    place.classList.toggle("over", on);
  };
  place.addEventListener("dragover", over(true));
  place.addEventListener("dragleave", over(false));
  place.addEventListener("drop", (event) => {
    over(false)(event);
    addFiles(event.dataTransfer.files);
  });
  // A file that misses the box would otherwise take the place of the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
};

// `changed` runs whenever the list is drawn.
export const startDocuments = (changed) => {
  told = changed;
  $("drop-hint").textContent = ENDINGS.join("  ");
  // A server whose model reads no images or sound says so.
  $("files").accept = [...ENDINGS, "image/*", "audio/*"].join();
  startDrop();
  $("files").addEventListener("change", async () => {
    await addFiles($("files").files);
    $("files").value = "";
  });
  $("paste-form").addEventListener("submit", paste);
  $("adding-stop").addEventListener("click", () => adding?.abort());
  $("documents-more").addEventListener("click", () => fetchFrom(more));
};
