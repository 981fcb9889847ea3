// Dialog for the API key.

import { key } from "./api.js";
import { removeAll } from "./conversations.js";
import { $ } from "./dom.js";
import { trouble } from "./trouble.js";

let waiting = null;

const open = (error, used) => {
  $("key-trouble").replaceChildren(...(error && used ? [trouble(error)] : []));
  $("key-forget").hidden = !key.get();
  $("key-input").value = "";
  $("key-dialog").showModal();
};

// Several requests that are refused together wait for one dialog.
const ask = (error, used) => {
  waiting ??= new Promise((resolve) => {
    open(error, used);
    $("key-dialog").addEventListener("close", () => {
      waiting = null;
      resolve($("key-dialog").returnValue === "used");
    }, { once: true });
  });
  return waiting;
};

export const startKey = (changed) => {
  key.ask = ask;
  const close = (how) => { $("key-dialog").close(how); changed(); };
  $("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    key.set($("key-input").value.trim());
    close("used");
  });
  $("key-cancel").addEventListener("click", () => close(""));
  $("key-dialog").addEventListener("cancel", () => { $("key-dialog").returnValue = ""; });
  // Conversations quote documents that the next user of this browser may have no key for.
  $("key-forget").addEventListener("click", () => { key.forget(); removeAll(); location.reload(); });
  $("key").addEventListener("click", () => ask(null, ""));
};
