// Similarity matrix as coloured squares, with values where they fit and below for the chosen one.

import { h, svg } from "./dom.js";
import { t } from "./language.js";

const HEAD = 26;
const READABLE = 29;
const MANY = 20;
const MOVES = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] };

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

const range = (similar) => {
  const others = similar.flatMap((row, i) => row.filter((_, j) => i !== j));
  return [Math.min(...others), Math.max(...others)];
};

// Shares of the accent colour from which its own ink has more contrast, in light and dark.
const INVERTED = { light: 0.78, dark: 0.6 };

const ink = (inverted) => (inverted ? "var(--accent-ink)" : "var(--ink)");

const paint = (cell, at) => {
  const percent = Math.round(100 * at);
  cell.style.setProperty("--fill", `color-mix(in oklab, var(--accent) ${percent}%, var(--low))`);
  cell.style.setProperty("--on", `light-dark(${ink(at > INVERTED.light)}, ${ink(at > INVERTED.dark)})`);
  return cell;
};

const cellOf = (value, i, j, side, [low, high]) => {
  const x = HEAD + j * side;
  const y = HEAD + i * side;
  const cell = svg("g", { class: i === j ? "cell self" : "cell", "data-at": `${i} ${j}` },
    svg("rect", { x: x + 1, y: y + 1, width: side - 2, height: side - 2 }),
    side >= READABLE ? svg("text", { x: x + side / 2, y: y + side / 2 + 4, "text-anchor": "middle" }, value.toFixed(2)) : null);
  return i === j ? cell : paint(cell, high > low ? (value - low) / (high - low) : 1);
};

const heads = (count, side) =>
  Array.from({ length: count }, (_, k) => {
    const middle = HEAD + k * side + side / 2;
    return [
      svg("text", { x: HEAD - 8, y: middle + 4, "text-anchor": "end" }, String(k + 1)),
      svg("text", { x: middle, y: HEAD - 10, "text-anchor": "middle" }, String(k + 1)),
    ];
  }).flat();

const scale = ([low, high]) =>
  h("p", { class: "scale" }, low.toFixed(2), h("i", { "aria-hidden": "true" }), high.toFixed(2),
    h("span", {}, t("heat.scale")));

const mostAlike = (similar) => {
  let best = [0, 1];
  similar.forEach((row, i) => row.forEach((value, j) => {
    if (j > i && value > similar[best[0]][best[1]]) best = [i, j];
  }));
  return best;
};

// `room`: width in pixels; a wider matrix scrolls.
export const heat = (texts, similar, room) => {
  const size = texts.length;
  const side = clamp(Math.floor((room - HEAD - 2) / size), size > MANY ? 18 : READABLE, 72);
  const span = HEAD + size * side;
  const limits = range(similar);
  const cursor = svg("rect", { class: "cursor", width: side, height: side });
  const field = svg("svg", {
    class: "heat", width: span, height: span, viewBox: `0 0 ${span} ${span}`, tabindex: "0", role: "application",
    "aria-label": t("heat.label", { size }), "aria-describedby": "heat-readout",
  }, ...heads(size, side), ...similar.flatMap((row, i) => row.map((value, j) => cellOf(value, i, j, side, limits))), cursor);
  const readout = h("div", { class: "readout", id: "heat-readout", role: "status" });
  let at = mostAlike(similar);

  const choose = (i, j) => {
    at = [i, j];
    cursor.setAttribute("x", HEAD + j * side);
    cursor.setAttribute("y", HEAD + i * side);
    readout.replaceChildren(
      h("strong", {}, similar[i][j].toFixed(3)), h("p", {}, `${i + 1}  ${texts[i]}`), h("p", {}, `${j + 1}  ${texts[j]}`));
  };
  const pointed = (event) => {
    const cell = event.target.closest("[data-at]");
    if (cell) choose(...cell.dataset.at.split(" ").map(Number));
  };
  field.addEventListener("pointermove", pointed);
  field.addEventListener("click", pointed);
  field.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move) return;
    event.preventDefault();
    choose(clamp(at[0] + move[0], 0, size - 1), clamp(at[1] + move[1], 0, size - 1));
  });
  choose(...at);
  return [h("div", { class: "scroll" }, field), scale(limits), readout];
};
