// The buttons of colours and language in the header.

import { $ } from "./dom.js";
import { language, t } from "./language.js";

const LOOKS = { auto: "colours.auto", light: "colours.light", dark: "colours.dark" };

const showLook = () => {
  const words = t(LOOKS[document.documentElement.dataset.look]);
  $("look").setAttribute("aria-label", words);
  $("look").title = words;
};

const nextLook = () => {
  const names = Object.keys(LOOKS);
  const look = names[(names.indexOf(document.documentElement.dataset.look) + 1) % names.length];
  document.documentElement.dataset.look = look;
  localStorage.setItem("gritlm.look", look);
  showLook();
};

// The page loads again in the other language: conversations are kept, the tab is in the address.
const nextLanguage = () => {
  localStorage.setItem("gritlm.language", language === "en" ? "zh-CN" : "en");
  location.reload();
};

export const startLooks = () => {
  showLook();
  $("look").addEventListener("click", nextLook);
  $("language").lang = language === "en" ? "zh-CN" : "en";
  $("language").addEventListener("click", nextLanguage);
};
