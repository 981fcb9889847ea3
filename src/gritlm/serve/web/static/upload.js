// Requests whose body is large: the progress of sending, and then the events of the server.
// By XMLHttpRequest, because fetch reports nothing while it sends.

import { address, ApiError, brokenOff, eventOf, headers, refusal, unreachable, withKey } from "./api.js";

// Calls `heard` with each complete line of the response that is new.
const reader = (request, heard) => {
  let at = 0;
  return () => {
    for (let end = request.responseText.indexOf("\n", at); end >= 0; end = request.responseText.indexOf("\n", at)) {
      heard(request.responseText.slice(at, end));
      at = end + 1;
    }
  };
};

const aborted = () => new DOMException("The request was stopped", "AbortError");

const once = (path, body, { signal, sent, heard }) => new Promise((resolve, reject) => {
  const request = new XMLHttpRequest();
  let last = null;
  let failed = null;
  let complete = false;
  const read = reader(request, (line) => {
    try {
      const event = eventOf(line, request.status);
      if (!event) return;
      complete = event.done === true;
      if (complete) return;
      last = event;
      heard(event);
    } catch (error) {
      failed = error;
    }
  });
  request.open("POST", address(path));
  for (const [name, value] of Object.entries(headers(body))) request.setRequestHeader(name, value);
  request.upload.onprogress = ({ loaded, total }) => sent(total ? loaded / total : 1);
  request.onprogress = () => { if (request.status === 200) read(); };
  request.onload = () => {
    if (request.status !== 200) {
      reject(refusal(request.status, request.responseText, request.getResponseHeader("x-request-id")));
      return;
    }
    read();
    if (complete && !failed) resolve(last);
    else reject(failed instanceof ApiError ? failed : brokenOff());
  };
  request.onerror = () => reject(request.status === 200 ? brokenOff() : unreachable());
  request.onabort = () => reject(aborted());
  signal.addEventListener("abort", () => request.abort(), { once: true });
  if (signal.aborted) reject(aborted());
  else request.send(JSON.stringify(body));
});

// Sends a body and returns the last event of the response. `sent` gets the share of the body that is
// sent, from 0 to 1, and `heard` each event.
export const upload = (path, body, progress) => withKey(() => once(path, { ...body, stream: true }, progress));
