// Tabs: one is shown, arrow keys move among them, the address holds its name.

import { $ } from "./dom.js";

const every = () => [...document.querySelectorAll('[role="tab"]')];
const tabs = () => every().filter((tab) => !tab.hidden);

const shown = new Map();

// `when` runs each time the tab of that name is shown.
export const whenShown = (name, when) => shown.set(name, when);

const show = (name, { focus = false } = {}) => {
  for (const tab of every()) {
    const chosen = tab.getAttribute("aria-controls") === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  history.replaceState(null, "", `#${name}`);
  scrollTo(0, 0);
  shown.get(name)?.();
};

const MOVES = { ArrowRight: 1, ArrowLeft: -1 };

const onKey = (event) => {
  const all = tabs();
  const at = all.indexOf(event.target.closest('[role="tab"]'));
  const to = { Home: 0, End: all.length - 1 }[event.key] ?? (event.key in MOVES ? at + MOVES[event.key] : null);
  if (at < 0 || to === null) return;
  event.preventDefault();
  show(all.at(to % all.length).getAttribute("aria-controls"), { focus: true });
};

const asked = location.hash; // before the first tab is shown

const named = (hash) => {
  const names = tabs().map((tab) => tab.getAttribute("aria-controls"));
  return names.find((name) => `#${name}` === hash) ?? names[0];
};

// Offers the tab of that name, which was hidden, and shows it if the address asked for it.
export const offerTab = (name) => {
  const tab = every().find((each) => each.getAttribute("aria-controls") === name);
  if (!tab.hidden) return;
  tab.hidden = false;
  if (asked === `#${name}` && location.hash === `#${named("")}`) show(name);
};

export const startTabs = () => {
  const list = document.querySelector('[role="tablist"]');
  list.addEventListener("keydown", onKey);
  list.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) show(tab.getAttribute("aria-controls"));
  });
  addEventListener("hashchange", () => show(named(location.hash)));
  show(named(location.hash));
};
