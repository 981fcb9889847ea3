// The Ask tab: one question, answered with stored key/value state and then without it.

import * as answers from "./answers.js";
import { documents, refresh } from "./documents.js";
import { $, eachFrame, h } from "./dom.js";
import { t } from "./language.js";
import { markdown } from "./markdown.js";
import { bestSentence } from "./quote.js";
import { server, whenServerChanges } from "./server.js";
import { markAnswer, marked, sourceItems } from "./sources.js";
import { whenShown } from "./tabs.js";
import { charts, readNow, stages } from "./took.js";
import { showTrouble, stopped } from "./trouble.js";

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
    ? [way(t("ask.fresh"), "none", fusion, true)]
    : [way(t("ask.cached"), mode, fusion, false), way(t("ask.fresh"), "none", "joint", true)];

const times = (ratio) => (ratio >= 10 ? ratio.toFixed(0) : ratio.toFixed(1));

const verdict = ([cached, fresh]) => {
  if (!fresh?.trace || cached.first === null || fresh.first === null) return [];
  const ratio = fresh.first / cached.first;
  const spared = readNow(fresh.trace) - readNow(cached.trace);
  const sentence = t("ask.tokens", { cached: readNow(cached.trace), fresh: readNow(fresh.trace) });
  if (cached.trace.tokens_computed) return [`${sentence} ${t("ask.computed", { count: cached.trace.tokens_computed })}`];
  if (spared <= 0) return [t("ask.noneSaved", { mode: cached.trace.mode })];
  if (ratio < 1.05) return [`${sentence} ${t("ask.noFaster")}`];
  return [h("strong", {}, t("ask.sooner", { ratio: times(ratio) })), sentence];
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
      $("ask-status").textContent = one.fresh ? t("ask.runningFresh") : t("ask.runningCached");
      await askOne(one, wanted, drawn);
      if (one.shown) drawMarks(all);
    }
    $("ask-status").textContent = t("ask.quoting");
    await quote(all, wanted.question);
    $("ask-status").textContent = all.length > 1 ? t("ask.both") : t("ask.done");
  } catch (error) {
    $("ask-status").textContent = stopped(error) ? t("ask.stopped") : "";
    if (!stopped(error)) showTrouble($("ask-trouble"), error);
    for (const one of all) one.running = false;
    $("ask-result").hidden = !all[0].text;
  }
  drawn();
  control = null;
  busy(false);
};

const MODES = {
  doc: "ask.modeHint.doc", "doc-query": "ask.modeHint.docQuery", "query-doc": "ask.modeHint.queryDoc",
  query: "ask.modeHint.query", none: "ask.modeHint.none",
};

const FUSIONS = {
  sequence: "ask.fusionHint.sequence", token: "ask.fusionHint.token", joint: "ask.fusionHint.joint",
};

const showChoice = () => {
  // A passage is read alone only as stored documents, or from its text.
  const alone = ["doc", "none"].includes(chosen().mode);
  for (const input of document.querySelectorAll("#ask-fusion input")) {
    input.disabled = !alone && input.value !== "joint";
    if (!alone && input.value === "joint") input.checked = true;
  }
  const { mode, fusion } = chosen();
  $("ask-mode-hint").textContent = t(MODES[mode]);
  $("ask-fusion-hint").textContent = t(FUSIONS[fusion]);
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
    ? t("ask.emptyCount", documents)
    : t("ask.empty");
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
