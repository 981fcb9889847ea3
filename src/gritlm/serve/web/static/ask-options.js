// Options of the Ask tab: what is reused, how many passages are read and how they are combined.

import { $ } from "./dom.js";
import { t } from "./language.js";

export const chosen = () => ({
  question: $("ask-question").value.trim(),
  mode: document.querySelector("#ask-mode input:checked").value,
  fusion: document.querySelector("#ask-fusion input:checked").value,
  passages: Number($("ask-k").value),
  length: Number($("ask-length").value),
});

const MODES = {
  doc: "ask.modeHint.doc", "doc-query": "ask.modeHint.docQuery", "query-doc": "ask.modeHint.queryDoc",
  query: "ask.modeHint.query", none: "ask.modeHint.none",
};

const FUSIONS = {
  sequence: "ask.fusionHint.sequence", token: "ask.fusionHint.token", joint: "ask.fusionHint.joint",
};

const showChoice = () => {
  // A passage is read alone only as stored documents, or from its text.
  const alone = ["doc", "none"].includes(chosen().mode);
  for (const input of document.querySelectorAll("#ask-fusion input")) {
    input.disabled = !alone && input.value !== "joint";
    if (!alone && input.value === "joint") input.checked = true;
  }
  const { mode, fusion } = chosen();
  $("ask-mode-hint").textContent = t(MODES[mode]);
  $("ask-fusion-hint").textContent = t(FUSIONS[fusion]);
};

const open = (on) => {
  $("ask-options").hidden = !on;
  $("ask-options-button").setAttribute("aria-expanded", String(on));
};

export const startOptions = () => {
  showChoice();
  $("ask-mode").addEventListener("change", showChoice);
  $("ask-fusion").addEventListener("change", showChoice);
  $("ask-options-button").addEventListener("click", () => open($("ask-options").hidden));
  // A length out of range is reported at its field, which has to be visible.
  $("ask-form").addEventListener("invalid", (event) => { if (event.target.id === "ask-length") open(true); }, { capture: true });
};
