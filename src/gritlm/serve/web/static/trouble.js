// Error messages, with status, code and request id.

import { h } from "./dom.js";
import { t } from "./language.js";

const facts = (error) =>
  [error.status ? t("error.facts.status", { status: error.status }) : null, error.code, error.type, error.param ? t("error.facts.param", { param: error.param }) : null,
    error.request ? t("error.facts.request", { request: error.request }) : null]
    .filter((each, place, all) => each && all.indexOf(each) === place)
    .join(" · ");

export const trouble = (error, again = null) =>
  h("div", { class: "trouble", role: "alert" },
    h("div", { class: "trouble-words" },
      h("p", { class: "trouble-message" }, error.message),
      h("p", { class: "trouble-facts" }, facts(error))),
    again && h("button", { type: "button", onclick: again }, t("page.tryAgain")));

export const showTrouble = (place, error, again = null) => place.replaceChildren(trouble(error, again));

export const stopped = (error) => error.name === "AbortError";
