// Map of texts as points, by the principal components of their vectors.

import { h, svg } from "./dom.js";
import { t } from "./language.js";

const WIDEST = 760;
const EDGE = 34;
const RADIUS = 10;
const LETTERS = 30;
const LETTER_WIDTH = 6.7;

const short = (text) => (text.length > LETTERS ? `${text.slice(0, LETTERS - 1).trimEnd()}…` : text);

// Points in pixels, with one scale in both directions so that distances are comparable.
const placed = (points, width, height) => {
  const spans = [0, 1].map((axis) => points.map((point) => point[axis]));
  const lows = spans.map((span) => Math.min(...span));
  const sizes = spans.map((span, axis) => Math.max(...span) - lows[axis]);
  const unit = Math.min((width - 2 * EDGE) / (sizes[0] || 1e-9), (height - 2 * EDGE) / (sizes[1] || 1e-9), 1e6);
  return points.map(([x, y]) => [
    width / 2 + (x - lows[0] - sizes[0] / 2) * unit,
    height / 2 - (y - lows[1] - sizes[1] / 2) * unit,
  ]);
};

const apart = (a, b) => a.right < b.left || b.right < a.left || a.bottom < b.top || b.bottom < a.top;

const box = (left, middle, width) => ({ left, right: left + width, top: middle - 9, bottom: middle + 9 });

const around = ([x, y], width) => [
  { ...box(x + RADIUS + 5, y, width), x: x + RADIUS + 5, anchor: "start" },
  { ...box(x - RADIUS - 5 - width, y, width), x: x - RADIUS - 5, anchor: "end" },
  { ...box(x - width / 2, y - RADIUS - 11, width), x, anchor: "middle" },
  { ...box(x - width / 2, y + RADIUS + 11, width), x, anchor: "middle" },
];

// Labels that overlap no point and no other label. The list below the map has all texts.
const labels = (texts, spots, width, height) => {
  const taken = spots.map(([x, y]) => box(x - RADIUS, y, 2 * RADIUS));
  const fits = (each) => each.left > 2 && each.right < width - 2 && each.top > 2 && each.bottom < height - 2
    && taken.every((other) => apart(each, other));
  return texts.map((text, k) => {
    const words = short(text);
    const place = around(spots[k], words.length * LETTER_WIDTH).find(fits);
    if (!place) return null;
    taken.push(place);
    return svg("text", { x: place.x, y: place.top + 13.5, "text-anchor": place.anchor }, words);
  });
};

const percent = (value) => `${Math.round(100 * value)}%`;

// `room`: width in pixels.
export const plane = (texts, { points, shares }, room) => {
  const width = Math.min(room, WIDEST);
  const height = Math.round(Math.max(280, 0.62 * width));
  const spots = placed(points, width, height);
  const drawing = svg("svg", {
    class: "plane", width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": t("plane.label", { size: texts.length }),
  },
  svg("path", { class: "axis", d: `M${width / 2} 4V${height - 4}M4 ${height / 2}H${width - 4}` }),
  ...labels(texts, spots, width, height).filter(Boolean),
  ...spots.map(([x, y], k) =>
    svg("g", { class: "point" },
      svg("title", {}, texts[k]),
      svg("circle", { cx: x, cy: y, r: RADIUS }),
      svg("text", { class: "number", x, y: y + 4 }, String(k + 1)))));
  return [
    h("p", { class: "hint" }, t("plane.variance", { first: percent(shares[0]), second: percent(shares[1] ?? 0) })),
    drawing,
    h("ol", { class: "names", "aria-label": t("plane.names") }, ...texts.map((text, k) =>
      h("li", {}, h("span", {}, String(k + 1)), h("span", { title: text }, text)))),
  ];
};
