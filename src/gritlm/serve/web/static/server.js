// State of the server: health, model, and its document stores.

import { call, health } from "./api.js";
import { t } from "./language.js";

const STORE = "gritlm.store";

// `model`: the model object of /v1/models; null until it is known. `stores`: names of the stores.
export const server = { model: null, stores: [] };

// The name of the chosen store; null without one, and the server then takes its only one.
export const store = () => {
  const kept = sessionStorage.getItem(STORE);
  return server.stores.includes(kept) ? kept : (server.stores[0] ?? null);
};

export const chooseStore = (name) => {
  sessionStorage.setItem(STORE, name);
  changes.dispatchEvent(new Event("change"));
};

const changes = new EventTarget();

// `then` runs whenever `server` has changed.
export const whenServerChanges = (then) => changes.addEventListener("change", then);

// A key without the right to search has stores that it cannot list.
const storeNames = async () => {
  try {
    return (await call("v1/rag/stores")).data.map((each) => each.id);
  } catch (error) {
    if (error.status === 403) return [];
    throw error;
  }
};

// Loads the model object and the names of the stores. Throws the ApiError of a server that answers with none.
export const lookAtModel = async () => {
  const { data } = await call("v1/models");
  [server.model] = data;
  server.stores = server.model.documents ? await storeNames() : [];
  changes.dispatchEvent(new Event("change"));
};

const WORDS = { ok: "server.ready", draining: "server.draining" };

// {state: ready | wait | bad, words}
export const condition = async () => {
  try {
    const { ok, status, body } = await health();
    const code = ok ? body.status : (body.error?.code ?? t("server.status", { status }));
    return { state: ok ? "ready" : "wait", words: WORDS[code] ? t(WORDS[code]) : code };
  } catch {
    return { state: "bad", words: t("server.gone") };
  }
};
