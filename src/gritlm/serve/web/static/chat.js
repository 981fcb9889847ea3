// The Chat tab: a conversation that is kept until a new one starts or the browser tab is closed.

import * as answers from "./answers.js";
import { $, eachFrame, h, icon } from "./dom.js";
import { t } from "./language.js";
import { markdown } from "./markdown.js";
import { server, whenServerChanges } from "./server.js";
import { sourceItems } from "./sources.js";
import { stopped, trouble } from "./trouble.js";

const KEPT = "gritlm.chat";
const SETTINGS = "gritlm.chat.settings";
const PASSAGES = 5;
const LEAST_S = 0.2; // seconds; tokens that arrive faster come in one piece and give no rate

// A turn: {question, answer, sources, facts, error}; the last two only once it has ended.
let turns = [];
let running = null;

const keep = () => sessionStorage.setItem(KEPT, JSON.stringify(turns.map(({ error, ...turn }) => turn)));

const settings = () => ({
  system: $("chat-system").value.trim(),
  temperature: Number($("chat-temperature").value),
  length: Number($("chat-length").value),
  documents: !$("chat-documents-label").hidden && $("chat-documents").checked,
});

const keepSettings = () => {
  $("chat-temperature-out").textContent = settings().temperature;
  sessionStorage.setItem(SETTINGS, JSON.stringify(settings()));
};

const recall = (name) => {
  try {
    return JSON.parse(sessionStorage.getItem(name));
  } catch {
    return null;
  }
};

const messages = (question, system) => [
  ...(system ? [{ role: "system", content: system }] : []),
  ...turns.filter((turn) => turn.answer && turn.question !== undefined && turn !== running?.turn).flatMap((turn) => [
    { role: "user", content: turn.question }, { role: "assistant", content: turn.answer },
  ]),
  { role: "user", content: question },
];

// Browsers allow access to the clipboard on localhost and over HTTPS only.
const copy = (turn) =>
  navigator.clipboard && h("button", {
    class: "quiet", type: "button",
    onclick: async () => {
      await navigator.clipboard.writeText(turn.answer);
      $("chat-status").textContent = t("chat.copied");
    },
  }, icon("copy"), t("chat.copy"));

// The elements of a turn, and `update`, which redraws them from the turn.
const draw = (turn) => {
  const text = h("div", { class: "text" });
  const below = h("div");
  const item = h("li", { class: "turn" },
    h("div", { class: "mine" }, h("span", { class: "unseen" }, t("chat.you")), turn.question),
    h("div", { class: "theirs" }, h("span", { class: "unseen" }, t("chat.answer")), text, below));
  const update = () => {
    const writing = running?.turn === turn;
    text.classList.toggle("writing", writing);
    text.replaceChildren(...markdown(turn.answer));
    below.replaceChildren(...[
      turn.sources?.length ? h("ol", { class: "sources", "aria-label": t("page.sources") }, ...sourceItems(turn.sources, writing ? "" : turn.answer)) : null,
      turn.error ? trouble(turn.error, () => again(turn)) : null,
      !writing && turn.answer ? h("div", { class: "facts" }, copy(turn), turn.facts && h("span", {}, turn.facts)) : null,
    ].filter(Boolean));
  };
  update();
  return { item, update };
};

const atBottom = () => innerHeight + scrollY > document.documentElement.scrollHeight - 120;

const toBottom = () => scrollTo({ top: document.documentElement.scrollHeight });

const show = () => {
  $("talk").replaceChildren(...turns.map((turn) => draw(turn).item));
  frame();
};

const frame = () => {
  $("chat-empty").hidden = turns.length > 0;
  $("chat-new").hidden = turns.length === 0;
  $("chat-send").hidden = running !== null;
  $("chat-stop").hidden = running === null;
};

const factsOf = ({ usage, trace, finish, first, started }) => {
  const written = usage?.completion_tokens ?? trace?.tokens_generated;
  const rest = (performance.now() - started - first) / 1000;
  const reused = trace?.tokens_reused ?? usage?.prompt_tokens_details?.cached_tokens;
  return [
    written && t("chat.facts.tokens", { count: written }),
    first && t("chat.facts.first", { ms: first }),
    written > 1 && rest > LEAST_S && t("chat.facts.rate", { rate: (written - 1) / rest }),
    reused ? t("chat.facts.reused", { count: reused }) : null,
    finish === "length" && t("chat.facts.length"),
    finish === "stopped" && t("chat.facts.stopped"),
  ].filter(Boolean).join(" · ");
};

const write = async (turn, update) => {
  const seen = { started: performance.now(), first: 0 };
  const { system, ...how } = settings();
  try {
    const pieces = how.documents
      ? answers.fromDocuments(turn.question, { ...how, mode: "doc", fusion: "sequence", passages: PASSAGES }, running.control.signal)
      : answers.chat(messages(turn.question, system), how, running.control.signal);
    for await (const piece of pieces) {
      if (piece.text) {
        seen.first ||= performance.now() - seen.started;
        turn.answer += piece.text;
      }
      if (piece.sources) turn.sources = piece.sources;
      Object.assign(seen, piece);
      update();
    }
  } catch (error) {
    if (stopped(error)) seen.finish = "stopped";
    else turn.error = error;
  }
  turn.facts = factsOf(seen);
  return seen;
};

const run = async (turn) => {
  running = { turn, control: new AbortController() };
  const { item, update } = draw(turn);
  $("talk").append(item);
  frame();
  $("talk").setAttribute("aria-busy", "true");
  $("chat-status").textContent = t("chat.writing");
  toBottom();
  const drawn = eachFrame(() => {
    const follow = atBottom();
    update();
    if (follow) toBottom();
  });
  const { finish } = await write(turn, drawn);
  running = null;
  drawn();
  frame();
  $("talk").removeAttribute("aria-busy");
  $("chat-status").textContent = turn.error ? "" : finish === "stopped" ? t("chat.stopped") : t("chat.complete");
  keep();
};

const ask = (question) => {
  const turn = { question, answer: "", sources: null, facts: "" };
  turns.push(turn);
  return run(turn);
};

const again = (turn) => {
  if (running) return;
  turns = turns.filter((each) => each !== turn);
  show();
  ask(turn.question);
  $("chat-text").focus();
};

const submit = (event) => {
  event.preventDefault();
  const question = $("chat-text").value.trim();
  if (!question || running) return;
  $("chat-text").value = "";
  ask(question);
};

const stop = () => {
  running?.control.abort();
  $("chat-text").focus();
};

const startNew = () => {
  stop();
  turns = [];
  keep();
  show();
};

const onKey = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("chat-form").requestSubmit();
  }
};

const openSettings = (open) => {
  $("chat-settings").hidden = !open;
  $("chat-settings-button").setAttribute("aria-expanded", String(open));
  if (turns.length) toBottom();
};

// By default an answer takes up to half of the context length; the conversation has the rest.
const fit = () => {
  $("chat-documents-label").hidden = !server.model.documents;
  $("chat-length").max = server.model.max_model_len;
  const half = Math.floor(server.model.max_model_len / 2);
  if (settings().length > half) $("chat-length").value = half;
};

const restore = () => {
  turns = recall(KEPT) ?? [];
  const kept = recall(SETTINGS);
  if (!kept) return;
  $("chat-system").value = kept.system;
  $("chat-temperature").value = kept.temperature;
  $("chat-length").value = kept.length;
  $("chat-documents").checked = kept.documents;
};

export const startChat = () => {
  restore();
  show();
  $("chat-temperature-out").textContent = settings().temperature;
  $("chat-form").addEventListener("submit", submit);
  $("chat-form").addEventListener("change", keepSettings);
  $("chat-temperature").addEventListener("input", keepSettings);
  $("chat-form").addEventListener("invalid", () => openSettings(true), { capture: true });
  $("chat-text").addEventListener("keydown", onKey);
  $("chat-stop").addEventListener("click", stop);
  $("chat-new").addEventListener("click", startNew);
  $("chat-settings-button").addEventListener("click", () => openSettings($("chat-settings").hidden));
  addEventListener("keydown", (event) => { if (event.key === "Escape" && running) stop(); });
  $("chat-ideas").addEventListener("click", (event) => {
    const idea = event.target.closest("button");
    if (idea) ask(idea.textContent);
  });
  whenServerChanges(fit);
};
