// Elements for the Markdown that models generate: paragraphs, lists, headings, code, emphasis.

import { h } from "./dom.js";

const INLINE = /`([^`]+)`|\*\*(\S(?:.*?\S)?)\*\*|(?<![\w*])\*(\S(?:[^*\n]*\S)?)\*(?![\w*])/g;

const inline = (text) => {
  const parts = [];
  let at = 0;
  for (const found of text.matchAll(INLINE)) {
    parts.push(text.slice(at, found.index));
    const [whole, code, strong, stressed] = found;
    if (code !== undefined) parts.push(h("code", {}, code));
    else if (strong !== undefined) parts.push(h("strong", {}, ...inline(strong)));
    else parts.push(h("em", {}, ...inline(stressed)));
    at = found.index + whole.length;
  }
  return [...parts, text.slice(at)].filter((part) => part !== "");
};

const BULLET = /^\s*[-*•]\s+(.*)$/;
const NUMBERED = /^\s*(\d{1,9})[.)]\s+(.*)$/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const FENCE = /^\s*```/;

const take = (lines, pattern) => {
  const taken = [];
  while (lines.length && pattern.test(lines[0])) taken.push(lines.shift());
  return taken;
};

const block = (lines) => {
  const [line] = lines;
  if (FENCE.test(line)) {
    lines.shift();
    const code = [];
    while (lines.length && !FENCE.test(lines[0])) code.push(lines.shift());
    lines.shift();
    return h("pre", { tabindex: "0" }, h("code", {}, code.join("\n")));
  }
  if (HEADING.test(line)) return h("h4", {}, ...inline(lines.shift().match(HEADING)[2]));
  if (BULLET.test(line))
    return h("ul", {}, ...take(lines, BULLET).map((each) => h("li", {}, ...inline(each.match(BULLET)[1]))));
  if (NUMBERED.test(line)) {
    const items = take(lines, NUMBERED).map((each) => each.match(NUMBERED));
    return h("ol", { start: items[0][1] }, ...items.map(([, , text]) => h("li", {}, ...inline(text))));
  }
  const text = [];
  const ends = (each) => !each.trim() || [FENCE, HEADING, BULLET, NUMBERED].some((one) => one.test(each));
  do text.push(lines.shift());
  while (lines.length && !ends(lines[0]));
  return h("p", {}, ...inline(text.join("\n").trim()));
};

export const markdown = (text) => {
  const lines = text.split("\n");
  const blocks = [];
  while (lines.length) {
    if (lines[0].trim()) blocks.push(block(lines));
    else lines.shift();
  }
  return blocks;
};
