// The Ask tab: one question, answered with stored key/value state and then without it.

import * as answers from "./answers.js";
import { documents, refresh } from "./documents.js";
import { $, eachFrame, h } from "./dom.js";
import { markdown } from "./markdown.js";
import { bestSentence } from "./quote.js";
import { server, whenServerChanges } from "./server.js";
import { markAnswer, marked, sourceItems } from "./sources.js";
import { whenShown } from "./tabs.js";
import { charts, readNow, stages } from "./took.js";
import { showTrouble, stopped } from "./trouble.js";
import { number, some } from "./words.js";

let control = null;

const chosen = () => ({
  question: $("ask-question").value.trim(),
  mode: document.querySelector('#ask-mode input:checked').value,
  fusion: document.querySelector('#ask-fusion input:checked').value,
  passages: Number($("ask-k").value),
  length: Number($("ask-length").value),
});

const way = (name, mode, fusion, fresh) =>
  ({ name, mode, fusion, fresh, first: null, trace: null, text: "", sources: [] });

// The fresh answer next to a cached one reads all passages in one prompt.
const ways = ({ mode, fusion }) =>
  mode === "none"
    ? [way("fresh", "none", fusion, true)]
    : [way("cached", mode, fusion, false), way("fresh", "none", "joint", true)];

const times = (ratio) => (ratio >= 10 ? ratio.toFixed(0) : ratio.toFixed(1));

const verdict = ([cached, fresh]) => {
  if (!fresh?.trace || cached.first === null || fresh.first === null) return [];
  const ratio = fresh.first / cached.first;
  const spared = readNow(fresh.trace) - readNow(cached.trace);
  const sentence = `${number(readNow(cached.trace))} tokens were read instead of ${number(readNow(fresh.trace))}.`;
  if (cached.trace.tokens_computed) return [`${sentence} The state of ${number(cached.trace.tokens_computed)} tokens had to be computed first; ask again to reuse it.`];
  if (spared <= 0) return [`No tokens were saved: mode ${cached.trace.mode} read as many as without stored state.`];
  if (ratio < 1.05) return [`${sentence} It was no faster: for few tokens, loading state takes as long as computing it.`];
  return [h("strong", {}, `${times(ratio)}× sooner`), sentence];
};

const draw = (all) => {
  const [main, other] = all;
  $("ask-answer").replaceChildren(...markdown(main.text));
  $("ask-answer").classList.toggle("writing", main.running === true);
  $("ask-support").hidden = main.trace?.supported !== false;
  $("ask-other").hidden = !other?.text;
  $("ask-other-text").replaceChildren(...markdown(other?.text ?? ""));
  $("ask-charts").replaceChildren(...charts(all));
  $("ask-verdict").replaceChildren(...verdict(all));
  $("ask-stages").hidden = !all.some((each) => each.trace);
  $("ask-stages-table").replaceChildren(stages(all));
};

const drawSources = (sources) => {
  $("ask-sources-title").hidden = !sources.length;
  $("ask-sources").replaceChildren(...sourceItems(sources));
};

const drawMarks = ([main]) => markAnswer($("ask-sources"), main.sources, main.text);

// Quotes the sentence of the passage that answers the question best, below the answer.
const quote = async ([main], question) => {
  const source = main.sources.find((each) => each.used);
  const sentence = source && !source.media ? await bestSentence(question, source, control.signal) : null;
  $("ask-quote").hidden = !sentence;
  $("ask-quote").replaceChildren(...(sentence ? marked(sentence, main.text) : []));
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

const busy = (on) => {
  $("ask-send").hidden = on;
  $("ask-stop").hidden = !on;
};

const submit = async (event) => {
  event.preventDefault();
  const wanted = chosen();
  if (!wanted.question || control) return;
  const all = ways(wanted);
  all[0].shown = true;
  control = new AbortController();
  busy(true);
  $("ask-trouble").replaceChildren();
  $("ask-empty").hidden = true;
  $("ask-result").hidden = false;
  $("ask-other").open = false;
  $("ask-quote").hidden = true;
  drawSources([]);
  const drawn = eachFrame(() => draw(all));
  drawn();
  try {
    for (const one of all) {
      $("ask-status").textContent = one.fresh ? "Answering without stored state" : "Answering with stored state";
      await askOne(one, wanted, drawn);
      if (one.shown) drawMarks(all);
    }
    $("ask-status").textContent = "Looking for the sentence";
    await quote(all, wanted.question);
    $("ask-status").textContent = all.length > 1 ? "Asked both ways" : "Answered";
  } catch (error) {
    $("ask-status").textContent = stopped(error) ? "Stopped" : "";
    if (!stopped(error)) showTrouble($("ask-trouble"), error);
    for (const one of all) one.running = false;
    $("ask-result").hidden = !all[0].text;
  }
  drawn();
  control = null;
  busy(false);
};

const MODES = {
  doc: "Reuse the stored state of the documents; compute the question.",
  "doc-query": "Reuse both: the state of the question comes from the search and is moved behind the documents. Only the end of the prompt is computed.",
  "query-doc": "Reuse both in the other order: the state of the documents is moved behind the question.",
  query: "Reuse the state of the question from the search; compute the documents.",
  none: "Compute everything, once; there is nothing to compare.",
};

const FUSIONS = {
  sequence: "Read the question after each passage alone, and answer from the passage after which it is most likely.",
  token: "Read each passage alone, and mix what they predict at every token.",
  joint: "Put all passages into one prompt.",
};

const showChoice = () => {
  // A passage is read alone only as stored documents, or from its text.
  const alone = ["doc", "none"].includes(chosen().mode);
  for (const input of document.querySelectorAll("#ask-fusion input")) {
    input.disabled = !alone && input.value !== "joint";
    if (!alone && input.value === "joint") input.checked = true;
  }
  const { mode, fusion } = chosen();
  $("ask-mode-hint").textContent = MODES[mode];
  $("ask-fusion-hint").textContent = FUSIONS[fusion];
};

const onKey = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("ask-form").requestSubmit();
  }
};

const drawEmpty = async () => {
  if ($("ask").hidden || !server.model?.documents) return;
  await refresh();
  $("ask-empty-text").textContent = documents.count
    ? `The answer from ${some(documents.count, "document")} appears here, with its sources and the cost of both ways.`
    : "There are no documents yet. Add some on the Search tab, then ask about them here.";
};

export const startAsk = () => {
  showChoice();
  whenShown("ask", drawEmpty);
  whenServerChanges(drawEmpty);
  $("ask-mode").addEventListener("change", showChoice);
  $("ask-fusion").addEventListener("change", showChoice);
  $("ask-form").addEventListener("submit", submit);
  $("ask-question").addEventListener("keydown", onKey);
  $("ask-stop").addEventListener("click", () => { control?.abort(); $("ask-question").focus(); });
};
