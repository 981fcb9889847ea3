// Questions to try, made of the titles of the stored documents in the language of each title.

import { h } from "./dom.js";

const MOST = 3;
const LONGEST = 60; // characters of a title

const CHINESE = /[\u3400-\u9fff]/;
const FILE = /\.\w{2,5}$/; // a name and no title

const question = (title) => (CHINESE.test(title) ? `关于${title}，应该知道什么？` : `What should I know about ${title}?`);

// A few titles, spread over the list so that they differ.
const spread = (titles) => {
  const usable = titles.filter((title) => title.length <= LONGEST && !FILE.test(title));
  const step = Math.max(1, Math.floor(usable.length / MOST));
  return usable.filter((_, place) => place % step === 0).slice(0, MOST);
};

// Buttons; `ask` gets the question of the one that is pressed.
export const ideas = (titles, ask) =>
  spread(titles).map((title) =>
    h("button", { class: "chip", type: "button", lang: CHINESE.test(title) ? "zh-CN" : "en", onclick: () => ask(question(title)) },
      question(title)));
