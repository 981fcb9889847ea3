// Drawing of a turn of a conversation: question, answer, sources with the quoted sentence, facts.

import { $, h, icon } from "./dom.js";
import { t } from "./language.js";
import { markdown } from "./markdown.js";
import { markAnswer, quotation } from "./quotation.js";
import { sourceItems } from "./sources.js";
import { trouble } from "./trouble.js";

// Browsers allow access to the clipboard on localhost and over HTTPS only.
const copy = (turn) =>
  navigator.clipboard && h("button", {
    class: "quiet", type: "button",
    onclick: async () => {
      await navigator.clipboard.writeText(turn.answer);
      $("chat-status").textContent = t("chat.copied");
    },
  }, icon("copy"), t("chat.copy"));

// The quoted sentence and the sources; a sentence of an earlier visit is known.
const evidence = (turn, writing) => {
  const list = h("ol", { class: "sources", "aria-label": t("page.sources") }, ...sourceItems(turn.sources));
  if (writing) return [list];
  markAnswer(list, turn.sources, { answer: turn.answer, sentence: turn.sentence ?? null, unfold: false });
  return [...quotation(turn.sentence, turn.answer, list), list];
};

// The elements of a turn, and `update`, which redraws them from the turn. `isRunning` returns whether
// the turn is being answered, `again` asks its question again.
export const drawTurn = (turn, { isRunning, again }) => {
  const text = h("div", { class: "text" });
  const below = h("div");
  const item = h("li", { class: "turn" },
    h("div", { class: "mine" }, h("span", { class: "unseen" }, t("chat.you")), turn.question),
    h("div", { class: "theirs" }, h("span", { class: "unseen" }, t("chat.answer")), text, below));
  const update = () => {
    const writing = isRunning(turn);
    text.classList.toggle("writing", writing);
    text.replaceChildren(...markdown(turn.answer));
    below.replaceChildren(...[
      ...(turn.sources?.length ? evidence(turn, writing) : []),
      turn.error ? trouble(turn.error, () => again(turn)) : null,
      !writing && turn.answer ? h("div", { class: "facts" }, copy(turn), turn.facts && h("span", {}, turn.facts)) : null,
    ].filter(Boolean));
  };
  update();
  return { item, update };
};
