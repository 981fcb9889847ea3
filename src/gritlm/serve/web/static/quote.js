// The longest run of words of an answer that also stands in a passage.

const wordsOf = (text) =>
  [...text.matchAll(/[\p{L}\p{N}]+/gu)].map((match) => ({
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
