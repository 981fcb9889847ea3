// Settings of the chat: system message, temperature, length, and whether documents are used.

import { $ } from "./dom.js";
import { server } from "./server.js";

const KEPT = "gritlm.chat.settings";

export const settings = () => ({
  system: $("chat-system").value.trim(),
  temperature: Number($("chat-temperature").value),
  length: Number($("chat-length").value),
  documents: !$("chat-documents-label").hidden && $("chat-documents").checked,
});

const keep = () => {
  $("chat-temperature-out").textContent = settings().temperature;
  sessionStorage.setItem(KEPT, JSON.stringify(settings()));
};

const recall = () => {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT));
  } catch {
    return null;
  }
};

const open = (on) => {
  $("chat-settings").hidden = !on;
  $("chat-settings-button").setAttribute("aria-expanded", String(on));
};

// By default an answer takes up to half of the context length; the conversation has the rest.
export const fitSettings = () => {
  $("chat-documents-label").hidden = !server.model.documents;
  $("chat-length").max = server.model.max_model_len;
  const half = Math.floor(server.model.max_model_len / 2);
  if (settings().length > half) $("chat-length").value = half;
};

export const startSettings = (opened) => {
  const kept = recall();
  if (kept) {
    $("chat-system").value = kept.system;
    $("chat-temperature").value = kept.temperature;
    $("chat-length").value = kept.length;
    $("chat-documents").checked = kept.documents;
  }
  $("chat-temperature-out").textContent = settings().temperature;
  $("chat-form").addEventListener("change", keep);
  $("chat-temperature").addEventListener("input", keep);
  $("chat-form").addEventListener("invalid", () => open(true), { capture: true });
  $("chat-settings-button").addEventListener("click", () => {
    open($("chat-settings").hidden);
    opened();
  });
};
