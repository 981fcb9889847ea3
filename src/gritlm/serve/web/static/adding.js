// Adding documents: one request for each file or text, with the progress of sending and indexing.

import { $ } from "./dom.js";
import { asRequest, ENDINGS } from "./files.js";
import { t } from "./language.js";
import { store } from "./server.js";
import { showTrouble, stopped } from "./trouble.js";
import { upload } from "./upload.js";

let adding = null; // AbortController of the addition that runs

// Only a new stage is announced; the numbers of a stage are not.
const STAGES = { sending: "adding.sending", reading: "adding.reading", indexing: "adding.indexing" };

const show = ({ name, place, of }, stage, share, count) => {
  if (share === null) $("adding-bar").removeAttribute("value");
  else $("adding-bar").value = share;
  const words = t(STAGES[stage], { name });
  const text = of > 1 ? t("adding.place", { place: place + 1, of, words }) : words;
  if ($("adding-text").textContent !== text) $("adding-text").textContent = text;
  $("adding-count").textContent = count;
};

const percent = (share) => `${Math.floor(100 * share)}%`;

// Without a share the bar just moves: the server reads the file.
const progressOf = (item) => ({
  sent: (share) => (share < 1 ? show(item, "sending", share, percent(share)) : show(item, "reading", null, "")),
  heard: (event) => {
    if (event.object !== "rag.documents.progress") return;
    show(item, "indexing", event.share, t("documents.passages", { count: event.passages }));
  },
});

// The last sentence has what is wrong with single documents; the others are stored.
const summary = (sum) => [
  sum.documents ? t("adding.done", sum) : null,
  sum.unchanged ? t("adding.unchanged", { count: sum.unchanged }) : null,
  ...sum.skipped.map((each) => t("adding.skipped", each)),
  sum.unnamed ? t("adding.unnamed", { count: sum.unnamed }) : null,
].filter(Boolean).join(t("adding.join"));

// What is wrong with this one; others may be added.
const REFUSED = ["no_documents_added", "max_tokens_per_request", "request_too_large"];

const addOne = async (item, to, sum) => {
  let body;
  try {
    body = await item.body();
  } catch (error) {
    sum.skipped.push({ name: item.name, reason: error.message });
    return;
  }
  try {
    show(item, "sending", 0, percent(0));
    const done = await upload("v1/rag/documents", { ...body, store: to }, {
      signal: adding.signal, ...progressOf(item),
    });
    for (const name of ["documents", "passages", "unchanged", "seconds"]) sum[name] += done[name];
    sum.skipped.push(...done.skipped);
    sum.unnamed += done.skipped_count - done.skipped.length;
  } catch (error) {
    if (!REFUSED.includes(error.code)) throw error;
    sum.skipped.push({ name: item.name, reason: error.message });
  }
};

// `items`: [{name, body}]. One request each, so that stopping loses one at most. `changed` runs at the end.
const add = async (items, changed) => {
  if (!items.length) return;
  const to = store();
  const sum = { documents: 0, passages: 0, unchanged: 0, seconds: 0, skipped: [], unnamed: 0 };
  let failed = null;
  adding = new AbortController();
  $("adding").hidden = false;
  $("documents-status").textContent = "";
  $("documents-next").hidden = true;
  $("documents-trouble").replaceChildren();
  try {
    for (const [place, item] of items.entries()) await addOne({ ...item, place, of: items.length }, to, sum);
  } catch (error) {
    failed = error;
  }
  adding = null;
  $("adding").hidden = true;
  await changed();
  if (failed && !stopped(failed)) showTrouble($("documents-trouble"), failed);
  $("documents-next").hidden = sum.documents === 0;
  $("documents-status").textContent = [failed && stopped(failed) ? t("adding.stopped") : "", summary(sum)].filter(Boolean).join(t("adding.join"));
};

// Whether an addition may start; the page says so if another one runs.
const isFree = () => {
  if (adding) $("documents-status").textContent = t("adding.busy");
  return adding === null;
};

const addFiles = async (files, changed) =>
  isFree() && add([...files].map((file) => ({ name: file.name, body: () => asRequest(file) })), changed);

const addPasted = async (changed) => {
  if (!isFree()) return;
  const text = $("paste-text").value;
  const title = $("paste-title").value.trim();
  $("paste-form").reset();
  const document = { text, ...(title ? { title } : {}) };
  await add([{ name: title || t("documents.pasted"), body: async () => ({ documents: [document] }) }], changed);
};

const startDrop = (changed) => {
  const place = $("drop");
  const over = (on) => (event) => {
    event.preventDefault();
    place.classList.toggle("over", on);
  };
  place.addEventListener("dragover", over(true));
  place.addEventListener("dragleave", over(false));
  place.addEventListener("drop", (event) => {
    over(false)(event);
    addFiles(event.dataTransfer.files, changed);
  });
  // A file that misses the box would otherwise take the place of the page.
  for (const name of ["dragover", "drop"]) addEventListener(name, (event) => event.preventDefault());
};

// `changed` loads the list again, after something was added.
export const startAdding = (changed) => {
  $("drop-hint").textContent = ENDINGS.join("  ");
  // A server whose model reads no images or sound says so.
  $("files").accept = [...ENDINGS, "image/*", "audio/*"].join();
  startDrop(changed);
  $("files").addEventListener("change", async () => {
    await addFiles($("files").files, changed);
    $("files").value = "";
  });
  $("paste-form").addEventListener("submit", (event) => {
    event.preventDefault();
    addPasted(changed);
  });
  $("adding-stop").addEventListener("click", () => adding?.abort());
};
