// The dialog of earlier conversations: open, rename, delete, save as a file.

import { conversations, remove, rename, restore } from "./conversations.js";
import { $, h, icon } from "./dom.js";
import { saveAs } from "./exports.js";
import { language, t } from "./language.js";

const dates = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });

let chat = null; // {open, closed}: what the tab does when a conversation is chosen or deleted

const button = (name, words, onclick) =>
  h("button", { class: "round", type: "button", "aria-label": words, title: words, onclick }, icon(name));

const draw = () => {
  const all = conversations();
  $("history-list").replaceChildren(...all.map(item));
  $("history-empty").hidden = all.length > 0;
};

const focusOn = (place) => {
  const names = $("history-list").querySelectorAll(".open");
  (names[Math.min(place, names.length - 1)] ?? $("history-close")).focus();
};

const removeOne = (conversation) => {
  const place = conversations().findIndex((each) => each.id === conversation.id);
  remove(conversation.id);
  chat.closed(conversation.id);
  draw();
  const undo = h("button", {
    class: "quiet", type: "button",
    onclick: () => { restore(conversation); $("history-status").replaceChildren(); draw(); focusOn(place); },
  }, t("history.undo"));
  $("history-status").replaceChildren(t("history.deleted", conversation), " ", undo);
  focusOn(place);
};

const renameOne = (row, conversation) => {
  const input = h("input", { "aria-label": t("history.title"), value: conversation.title, maxlength: "200", required: true });
  const end = () => { draw(); focusOn(conversations().findIndex((each) => each.id === conversation.id)); };
  const form = h("form", {
    class: "renaming",
    onsubmit: (event) => { event.preventDefault(); rename(conversation.id, input.value.trim() || conversation.title); end(); },
    // Escape leaves the field, not the dialog.
    onkeydown: (event) => { if (event.key === "Escape") { event.preventDefault(); event.stopPropagation(); end(); } },
  }, input, h("button", { type: "submit" }, t("history.save")));
  row.replaceChildren(form);
  input.select();
};

const item = (conversation) => {
  const { id, title, changed, turns } = conversation;
  const row = h("li", {},
    h("button", { class: "open", type: "button", onclick: () => { chat.open(id); $("history").close(); } },
      h("span", { class: "name" }, title),
      h("span", { class: "size" }, t("history.about", { count: turns.length, date: dates.format(changed) }))),
    button("edit", t("history.rename", { title }), () => renameOne(row, conversation)),
    button("save", t("history.markdown", { title }), () => saveAs(conversation, "md")),
    button("code", t("history.json", { title }), () => saveAs(conversation, "json")),
    button("bin", t("documents.deleteOne", { name: title }), () => removeOne(conversation)));
  return row;
};

// `then`: {open, closed}, called with the id of a conversation that is chosen or deleted.
export const startHistory = (then) => {
  chat = then;
  $("chat-history").addEventListener("click", () => {
    $("history-status").replaceChildren();
    draw();
    $("history").showModal();
  });
  $("history-close").addEventListener("click", () => $("history").close());
};
