// State of the server: health, model, and whether it has a document store.

import { call, health } from "./api.js";

// The model object of /v1/models; null until it is known.
export const server = { model: null };

const changes = new EventTarget();

// `then` runs whenever `server` has changed.
export const whenServerChanges = (then) => changes.addEventListener("change", then);

// Loads the model object. Throws the ApiError of a server that answers with none.
export const lookAtModel = async () => {
  const { data } = await call("v1/models");
  [server.model] = data;
  changes.dispatchEvent(new Event("change"));
};

const WORDS = { ok: "ready", draining: "shutting down" };

// {state: ready | wait | bad, words}
export const condition = async () => {
  try {
    const { ok, status, body } = await health();
    const code = ok ? body.status : (body.error?.code ?? `status ${status}`);
    return { state: ok ? "ready" : "wait", words: WORDS[code] ?? code };
  } catch {
    return { state: "bad", words: "cannot be reached" };
  }
};
