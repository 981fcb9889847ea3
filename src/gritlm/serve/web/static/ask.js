// The Ask tab: one question, answered with stored key/value state and then without it.

import * as answers from "./answers.js";
import { drawAnswers, ways } from "./ask-answers.js";
import { chosen, startOptions } from "./ask-options.js";
import { documents, refresh } from "./documents.js";
import { $, eachFrame } from "./dom.js";
import { ideas } from "./ideas.js";
import { t } from "./language.js";
import { markAnswer, quotation } from "./quotation.js";
import { server, whenServerChanges } from "./server.js";
import { sourceItems } from "./sources.js";
import { whenShown } from "./tabs.js";
import { showTrouble, stopped } from "./trouble.js";

let control = null;

const drawSources = (sources) => {
  $("ask-read").hidden = !sources.length;
  $("ask-sources").replaceChildren(...sourceItems(sources));
};

// Asks in one way. The page measures the time from sending to the arrival of the first token.
const askOne = async (one, wanted, drawn) => {
  const started = performance.now();
  one.running = true;
  const { question, passages, length } = wanted;
  const how = { mode: one.mode, fusion: one.fusion, passages, length, temperature: 0 };
  for await (const piece of answers.fromDocuments(question, how, control.signal)) {
    if (piece.text) {
      one.first ??= performance.now() - started;
      one.text += piece.text;
    }
    if (piece.sources) one.sources = piece.sources;
    if (piece.sources && one.shown) drawSources(piece.sources);
    if (piece.trace) one.trace = piece.trace;
    drawn();
  }
  one.first ??= performance.now() - started;
  one.running = false;
};

// Quotes the sentence of the passage that answers the question best.
const quote = async ({ sources, text }, question) => {
  const list = $("ask-sources");
  const sentence = await markAnswer(list, sources, { question, answer: text, signal: control.signal });
  $("ask-quote").replaceChildren(...quotation(sentence, text, list));
};

const busy = (on) => {
  $("ask-send").hidden = on;
  $("ask-stop").hidden = !on;
};

const begin = () => {
  control = new AbortController();
  busy(true);
  $("ask-trouble").replaceChildren();
  $("ask-empty").hidden = true;
  $("ask-result").hidden = false;
  $("ask-quote").replaceChildren();
  drawSources([]);
};

const fail = (error, all) => {
  $("ask-status").textContent = stopped(error) ? t("ask.stopped") : "";
  if (!stopped(error)) showTrouble($("ask-trouble"), error);
  for (const one of all) one.running = false;
  $("ask-result").hidden = !all[0].text;
};

const submit = async (event) => {
  event.preventDefault();
  const wanted = chosen();
  if (!wanted.question || control) return;
  const all = ways(wanted);
  all[0].shown = true;
  begin();
  const drawn = eachFrame(() => drawAnswers(all));
  drawn();
  try {
    for (const one of all) {
      $("ask-status").textContent = one.fresh ? t("ask.runningFresh") : t("ask.runningCached");
      await askOne(one, wanted, drawn);
    }
    $("ask-status").textContent = t("ask.quoting");
    await quote(all[0], wanted.question);
    $("ask-status").textContent = all.length > 1 ? t("ask.both") : t("ask.done");
  } catch (error) {
    fail(error, all);
  }
  drawn();
  control = null;
  busy(false);
};

const onKey = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask-form").requestSubmit();
  }
};

const askIdea = (question) => {
  $("ask-question").value = question;
  $("ask-form").requestSubmit();
};

const drawEmpty = async () => {
  if ($("ask").hidden || !server.model?.documents) return;
  await refresh();
  $("ask-empty-text").textContent = documents.count ? t("ask.emptyCount", documents) : t("ask.empty");
  const found = ideas(documents.titles, askIdea);
  $("ask-ideas").replaceChildren(...found);
  $("ask-ideas").hidden = !found.length;
  $("ask-add").hidden = documents.count > 0;
};

const stop = () => {
  control?.abort();
  $("ask-question").focus();
};

export const startAsk = () => {
  startOptions();
  whenShown("ask", drawEmpty);
  whenServerChanges(drawEmpty);
  $("ask-form").addEventListener("submit", submit);
  $("ask-question").addEventListener("keydown", onKey);
  $("ask-stop").addEventListener("click", stop);
  addEventListener("keydown", (event) => { if (event.key === "Escape" && control && !$("ask").hidden) stop(); });
};
