// A conversation as a file: JSON for programs, Markdown for people.

import { h } from "./dom.js";
import { t } from "./language.js";
import { titleOf } from "./sources.js";

const sourcesOf = (turn) => (turn.sources ?? []).filter((source) => source.used);

const asJson = ({ title, changed, turns }) =>
  JSON.stringify({
    title,
    changed: new Date(changed).toISOString(),
    messages: turns.flatMap(({ question, answer, sources, sentence }) => [
      { role: "user", content: question },
      { role: "assistant", content: answer, ...(sources ? { sources, quote: sentence ?? null } : {}) },
    ]),
  }, null, 2);

const quoted = (text) => text.split("\n").map((line) => `> ${line}`).join("\n");

const asMarkdown = ({ title, turns }) => [
  `# ${title}`,
  ...turns.flatMap((turn) => [
    `## ${turn.question}`,
    turn.answer,
    turn.sentence ? quoted(turn.sentence) : null,
    sourcesOf(turn).length ? `${t("page.sources")}: ${sourcesOf(turn).map(titleOf).join("; ")}` : null,
  ]),
].filter(Boolean).join("\n\n");

const FORMATS = {
  json: { type: "application/json", write: asJson },
  md: { type: "text/markdown", write: asMarkdown },
};

const fileName = (title) => title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40) || "chat";

// Saves a conversation as a file with this ending: json or md.
export const saveAs = (conversation, ending) => {
  const { type, write } = FORMATS[ending];
  const url = URL.createObjectURL(new Blob([write(conversation)], { type }));
  h("a", { href: url, download: `${fileName(conversation.title)}.${ending}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000); // after the download has begun
};
