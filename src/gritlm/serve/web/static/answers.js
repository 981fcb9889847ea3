// Chat completions and answers from documents, as streams of the same pieces:
// {text}, {sources}, {trace}, {usage}, {finish}.

import { stream } from "./api.js";
import { joined } from "./quote.js";
import { store } from "./server.js";

// A passage of a PDF file, which has pages, without the line breaks of the file.
export const readable = (source) => (source.page ? { ...source, text: joined(source.text) } : source);

const pieces = async function* (events) {
  for await (const event of events) {
    const { sources, trace } = event.rag ?? event;
    if (sources) yield { sources: sources.map(readable) };
    const [choice] = event.choices ?? [];
    if (choice?.delta?.content) yield { text: choice.delta.content };
    if (choice?.finish_reason) yield { finish: choice.finish_reason };
    if (trace) yield { trace };
    if (event.usage) yield { usage: event.usage };
  }
};

// `passages`: candidates of an answer from documents; null for an answer without documents.
export const chat = (messages, { temperature, length, passages }, signal) =>
  pieces(stream("v1/chat/completions", {
    messages, temperature, max_completion_tokens: length, stream_options: { include_usage: true },
    ...(passages === null ? {} : { rag: { top_k: passages, ...(store() === null ? {} : { store: store() }) } }),
  }, signal));

export const fromDocuments = (question, { mode, fusion, passages, temperature, length }, signal) =>
  pieces(stream("v1/rag/answer", {
    question, mode, fusion, top_k: passages, temperature, max_tokens: length, store: store(),
  }, signal));
