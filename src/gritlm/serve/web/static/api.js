// Client of the server's API: requests with the key, parsed responses, the server's error messages.

import { t } from "./language.js";

const KEY = "gritlm.key";

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
  // Asks the user for a key and returns whether there is a new one. unlock.js sets it to the dialog.
  ask: async () => false,
};

export class ApiError extends Error {
  constructor(message, facts = {}) {
    super(message);
    Object.assign(this, { status: 0, code: null, type: null, param: null, request: null }, facts);
  }
}

export const address = (path) => new URL(path, document.baseURI);

export const headers = (body) => ({
  ...(body === undefined ? {} : { "Content-Type": "application/json" }),
  ...(key.get() ? { Authorization: `Bearer ${key.get()}` } : {}),
});

const messageOf = (status, error) =>
  typeof error?.message === "string" ? error.message : t("error.status", { status });

// Returns the error of a response with this status and text.
export const refusal = (status, text, request) => {
  let error = null;
  try {
    error = JSON.parse(text).error;
  } catch {
    // A proxy in between answers in another form.
  }
  return new ApiError(messageOf(status, error), {
    status, code: error?.code ?? null, type: error?.type ?? null, param: error?.param ?? null, request,
  });
};

export const unreachable = () => new ApiError(t("error.unreachable"), { code: "unreachable" });

const reach = async (path, { method, body, signal }) => {
  try {
    return await fetch(address(path), {
      method, signal, headers: headers(body), cache: "no-store", redirect: "error",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw unreachable();
  }
};

// Runs a request again with the key that the user enters, for as long as the server wants another one.
export const withKey = async (request) => {
  for (;;) {
    const used = key.get();
    try {
      return await request();
    } catch (error) {
      // Another request may have brought the key while this one was on its way.
      if (error.status !== 401 || !(key.get() !== used || (await key.ask(error, used)))) throw error;
    }
  }
};

const send = (path, options) => withKey(async () => {
  const response = await reach(path, options);
  if (response.ok) return response;
  throw refusal(response.status, await response.text(), response.headers.get("x-request-id"));
});

export const call = async (path, { method = "GET", body, signal } = {}) =>
  (await send(path, { method, body, signal })).json();

export const text = async (path) => (await send(path, { method: "GET" })).text();

// Fetches a file with the key and returns its address for an element of the page. The caller revokes
// the address, which keeps the file in memory.
export const fileUrl = async (path) => URL.createObjectURL(await (await send(path, { method: "GET" })).blob());

export const post = (path, body, signal) => call(path, { method: "POST", body, signal });

export const brokenOff = () =>
  new ApiError(t("error.brokenOff"), { code: "broken_off" });

async function* linesOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      yield* lines;
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : brokenOff();
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already, which was reported
  }
}

// Returns the object of a line of server-sent events; null for a line that holds none.
export const eventOf = (line, status) => {
  if (!line.startsWith("data:")) return null;
  const data = line.slice(5).trim();
  if (data === "[DONE]") return { done: true };
  const event = JSON.parse(data);
  if (event.error) throw new ApiError(messageOf(status, event.error), event.error);
  return event;
};

// Yields the parsed object of each server-sent event.
export async function* stream(path, body, signal) {
  const response = await send(path, { method: "POST", body: { ...body, stream: true }, signal });
  for await (const line of linesOf(response)) {
    const event = eventOf(line, response.status);
    if (event?.done) return;
    if (event) yield event;
  }
  throw brokenOff();
}

// Returns the state of the server, without the key dialog: health needs no key.
export const health = async () => {
  const response = await fetch(address("health"), { headers: headers(), cache: "no-store" });
  const body = await response.json().catch(() => ({}));
  return { ok: response.ok, status: response.status, body };
};
