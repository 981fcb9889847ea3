// The server as a whole: how it is, which model it serves, whether it has documents.

import { call, health } from "./api.js";

// What /v1/models says of the model; null until it is known.
export const server = { model: null };

const changes = new EventTarget();

// `then` runs whenever `server` has changed.
export const whenServerChanges = (then) => changes.addEventListener("change", then);

// Throws what the API answers in place of a model.
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
    const said = ok ? body.status : (body.error?.code ?? `status ${status}`);
    return { state: ok ? "ready" : "wait", words: WORDS[said] ?? said };
  } catch {
    return { state: "bad", words: "cannot be reached" };
  }
};
