// Functions that create elements. Text is always inserted as text, never as markup.

export const $ = (id) => document.getElementById(id);

const fill = (element, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
};

export const h = (name, attributes = {}, ...children) =>
  fill(document.createElement(name), attributes, children);

const SVG = "http://www.w3.org/2000/svg";

export const svg = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);

export const icon = (name) =>
  svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));

// Sets a length between 0 and 1 for the style sheet. By script, as the page allows no inline style.
export const share = (element, value) => {
  element.style.setProperty("--share", `${(100 * Math.min(1, Math.max(0, value))).toFixed(2)}%`);
  return element;
};

// Returns a function that draws at most once a frame.
export const eachFrame = (draw) => {
  let pending = 0;
  return () => {
    if (!pending) pending = requestAnimationFrame(() => { pending = 0; draw(); });
  };
};
