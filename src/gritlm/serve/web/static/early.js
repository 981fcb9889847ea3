// Sets colours and language before the page is drawn, so a classic script and not a module.
(() => {
  const root = document.documentElement;
  const look = localStorage.getItem("gritlm.look");
  root.dataset.look = ["light", "dark"].includes(look) ? look : "auto";
  const chosen = localStorage.getItem("gritlm.language");
  const wanted = [chosen, ...navigator.languages].filter(Boolean);
  const known = wanted.find((name) => /^(en|zh)\b/i.test(name)) ?? "en";
  root.lang = /^zh/i.test(known) ? "zh-CN" : "en";
})();
