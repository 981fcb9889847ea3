// The Chat tab: a conversation, answered by the model or from documents, and kept in this browser.

import * as answers from "./answers.js";
import { fitSettings, settings, startSettings } from "./chat-settings.js";
import { conversations, current, keep, open } from "./conversations.js";
import { $, eachFrame } from "./dom.js";
import { startHistory } from "./history.js";
import { t } from "./language.js";
import { bestSentence } from "./quote.js";
import { whenServerChanges } from "./server.js";
import { drawTurn } from "./turns.js";
import { stopped } from "./trouble.js";

const PASSAGES = 5;
const LEAST_S = 0.2; // seconds; tokens that arrive faster come in one piece and give no rate

// A turn: {question, answer, sources, sentence, facts, error}; the last three only once it has ended.
let conversation = current();
let running = null;

const before = (turn) => conversation.turns.filter((each) => each.answer && each !== turn);

const spoken = (turns) => turns.flatMap(({ question, answer }) => [
  { role: "user", content: question }, { role: "assistant", content: answer },
]);

// A question that refers to the one before: it is searched together with that one.
const REFERS = /\b(it|its|they|them|their|this|that|these|those|he|she|him|her)\b|它|她|(?<!其)他|[这那][个些种样是]|其(?![实他它余次])/i;
const FEW_WORDS = 2;
const WORDS = new Intl.Segmenter(undefined, { granularity: "word" });

const wordsOf = (text) => [...WORDS.segment(text)].filter(({ isWordLike }) => isWordLike);

const refers = (question) => REFERS.test(question) || wordsOf(question).length <= FEW_WORDS;

const messages = (turn, { system, documents }) => {
  const earlier = before(turn);
  const last = refers(turn.question) ? earlier.slice(-1) : [];
  return [
    ...(system ? [{ role: "system", content: system }] : []),
    ...spoken(documents ? last : earlier),
    { role: "user", content: turn.question },
  ];
};

const atBottom = () => innerHeight + scrollY > document.documentElement.scrollHeight - 120;

const toBottom = () => scrollTo({ top: document.documentElement.scrollHeight });

const drawn = (turn) => drawTurn(turn, { isRunning: (each) => running?.turn === each, again });

const show = () => {
  $("talk").replaceChildren(...conversation.turns.map((turn) => drawn(turn).item));
  frame();
};

const frame = () => {
  $("chat-empty").hidden = conversation.turns.length > 0;
  $("chat-new").hidden = conversation.turns.length === 0;
  $("chat-send").hidden = running !== null;
  $("chat-stop").hidden = running === null;
};

const factsOf = ({ usage, trace, finish, first, started, ended }) => {
  const written = usage?.completion_tokens ?? trace?.tokens_generated;
  const rest = (ended - started - first) / 1000;
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
  const how = settings();
  const { signal } = running.control;
  try {
    const passages = how.documents ? PASSAGES : null;
    for await (const piece of answers.chat(messages(turn, how), { ...how, passages }, signal)) {
      if (piece.text) {
        seen.first ||= performance.now() - seen.started;
        turn.answer += piece.text;
      }
      if (piece.sources) turn.sources = piece.sources;
      Object.assign(seen, piece);
      update();
    }
    seen.ended = performance.now();
    const used = turn.sources?.find((source) => source.used && !source.media);
    if (used) turn.sentence = await bestSentence(turn.question, used, signal);
  } catch (error) {
    if (stopped(error)) seen.finish = "stopped";
    else turn.error = error;
  }
  seen.ended ??= performance.now();
  turn.facts = factsOf(seen);
  return seen;
};

const run = async (turn) => {
  running = { turn, control: new AbortController() };
  const { item, update } = drawn(turn);
  $("talk").append(item);
  frame();
  $("talk").setAttribute("aria-busy", "true");
  $("chat-status").textContent = t("chat.writing");
  toBottom();
  const redraw = eachFrame(() => {
    const follow = atBottom();
    update();
    if (follow) toBottom();
  });
  const talk = conversation;
  const { finish } = await write(turn, redraw);
  running = null;
  redraw();
  frame();
  $("talk").removeAttribute("aria-busy");
  $("chat-status").textContent = turn.error ? "" : finish === "stopped" ? t("chat.stopped") : t("chat.complete");
  if (talk === conversation) keep(conversation);
};

const ask = (question) => {
  const turn = { question, answer: "", sources: null, facts: "" };
  conversation.turns.push(turn);
  keep(conversation);
  return run(turn);
};

const again = (turn) => {
  if (running) return;
  conversation.turns = conversation.turns.filter((each) => each !== turn);
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

// Shows the conversation with this id; null for a new one. An answer that is being written ends here.
const turnTo = (id) => {
  if (running && conversations().some((each) => each.id === conversation.id)) keep(conversation);
  stop();
  open(id);
  conversation = current();
  show();
  toBottom();
};

const onKey = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("chat-form").requestSubmit();
  }
};

export const startChat = () => {
  startSettings(() => { if (conversation.turns.length) toBottom(); });
  show();
  startHistory({ open: turnTo, closed: (id) => { if (id === conversation.id) turnTo(null); } });
  $("chat-form").addEventListener("submit", submit);
  $("chat-text").addEventListener("keydown", onKey);
  $("chat-stop").addEventListener("click", stop);
  $("chat-new").addEventListener("click", () => turnTo(null));
  addEventListener("keydown", (event) => { if (event.key === "Escape" && running) stop(); });
  $("chat-ideas").addEventListener("click", (event) => {
    const idea = event.target.closest("button");
    if (idea) ask(idea.textContent);
  });
  whenServerChanges(fitSettings);
};
