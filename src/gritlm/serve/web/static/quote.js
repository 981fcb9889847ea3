// Words and sentences of a passage: the run of words of an answer that also stands in it, and the
// sentence that answers the question best.

import { post } from "./api.js";

// Chinese and Japanese have no spaces between words, so each character counts as a word. Offsets are
// those of JavaScript, where a character such as an emoji has two.
const CHARACTER = "[\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}ー]";
const WORD = new RegExp(`${CHARACTER}|(?:(?!${CHARACTER})[\\p{L}\\p{N}])+`, "gu");

const wordsOf = (text) =>
  [...text.matchAll(WORD)].map((match) => ({
    word: match[0].toLowerCase(), start: match.index, end: match.index + match[0].length,
  }));

const isNumber = (word) => /\p{N}/u.test(word);

// Returns [start, end] in the passage, or null without a run of two words or a number.
export const quoteIn = (passage, answer) => {
  const [ours, theirs] = [wordsOf(passage), wordsOf(answer)];
  let best = { length: 0, last: -1 };
  let before = new Array(theirs.length + 1).fill(0);
  ours.forEach(({ word }, at) => {
    const lengths = new Array(theirs.length + 1).fill(0);
    theirs.forEach((other, place) => {
      if (other.word !== word) return;
      const length = before[place] + 1;
      lengths[place + 1] = length;
      const counts = length > 1 || isNumber(word);
      if (counts && length > best.length) best = { length, last: at };
    });
    before = lengths;
  });
  if (!best.length) return null;
  return [ours[best.last - best.length + 1].start, ours[best.last].end];
};

const MOST_SENTENCES = 64; // of a passage, which are read for a quote

// Joins lines that were broken at the width of a page. The length is the same, so offsets stay. A line that is
// short (a heading) or ends a sentence is kept, and so are lists and indented lines.
export const joined = (text) => text.replace(/(?<=[^\n]{39}[^\n.!?:。！？])\n(?!\s|[-*\u2022#|>]|\d+[.)]\s)/g, " ");

export const sentencesOf = (text) =>
  [...new Intl.Segmenter(undefined, { granularity: "sentence" }).segment(joined(text))]
    .map(({ segment, index }) => text.slice(index, index + segment.length).trim())
    .filter(Boolean);

// The sentence of a source that answers the question best, as the server ranks them; null if it refuses.
export const bestSentence = async (question, source, signal) => {
  const sentences = sentencesOf(source.text).slice(0, MOST_SENTENCES);
  if (sentences.length < 2) return sentences[0] ?? null;
  const documents = sentences.map((sentence) => `${source.title} ${sentence}`.trim());
  try {
    const { results } = await post("v1/rerank", { query: question, documents, top_n: 1, return_documents: false }, signal);
    return sentences[results[0].index];
  } catch (error) {
    if (error.name === "AbortError") throw error;
    return null; // the answer stands without a quote, e.g. with a key that may not rank
  }
};
