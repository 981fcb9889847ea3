// Entry point: starts the parts of the page and polls the server.

import { lookAtAdaptations } from "./adaptations.js";
import { key } from "./api.js";
import { startAsk } from "./ask.js";
import { startChat } from "./chat.js";
import { $, h } from "./dom.js";
import { startEmbed } from "./embed.js";
import { t, translatePage } from "./language.js";
import { startLooks } from "./looks.js";
import { showMachineName, startMachine } from "./machine.js";
import { startSearch } from "./search.js";
import { chooseStore, condition, lookAtModel, server, store, whenServerChanges } from "./server.js";
import { startTabs } from "./tabs.js";
import { startKey } from "./unlock.js";

const LOOK_EVERY_MS = 10_000;

const look = async () => {
  try {
    await lookAtModel();
    await lookAtAdaptations();
  } catch {
    // The header shows that there is no model; the next request shows the reason.
  }
};

const showCondition = async () => {
  const { state, words } = await condition();
  if (state === "ready" && $("server").dataset.state === "bad") look(); // it may be another one now
  $("server").dataset.state = state;
  if ($("server-state").textContent !== words) $("server-state").textContent = words;
};

const watch = async () => {
  if (!document.hidden) await showCondition();
  setTimeout(watch, LOOK_EVERY_MS);
};

const noStore = () => [
  h("p", {}, t("page.noStore")),
  h("pre", {}, h("code", {}, "gritlm serve --store FOLDER")),
];

const showStores = () => {
  $("store-label").hidden = server.stores.length < 2;
  $("store").replaceChildren(...server.stores.map((name) => h("option", { value: name }, name)));
  $("store").value = store() ?? "";
};

const showServer = () => {
  const { model } = server;
  const hasStore = model?.documents ?? null;
  showMachineName();
  document.title = model ? `gritlm: ${model.id}` : "gritlm";
  $("key").hidden = !key.get();
  showStores();
  for (const place of document.querySelectorAll("[data-no-store]")) {
    place.hidden = hasStore !== false;
    if (!place.hidden && !place.childElementCount) place.append(...noStore());
  }
  for (const place of document.querySelectorAll("[data-needs-store]")) place.hidden = hasStore === false;
};

translatePage();
startLooks();
startMachine();
whenServerChanges(showServer);
$("store").addEventListener("change", () => chooseStore($("store").value));
startKey(() => { showServer(); look(); });
startChat();
startSearch();
startAsk();
startEmbed();
startTabs();
watch();
look();
