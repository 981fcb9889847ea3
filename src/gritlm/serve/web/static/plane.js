// Map of texts as points, by the principal components of their vectors, with their clusters.

import { h, svg } from "./dom.js";
import { t } from "./language.js";

const WIDEST = 1060;
const EDGE = 40;
const DENSE = 60; // texts; more are points without numbers
const LETTERS = 30;
const LETTER_WIDTH = 6.7;

const WIDE = /[\u2e80-\uffef]/g; // letters of twice the width

const short = (text) => (text.length > LETTERS ? `${text.slice(0, LETTERS - 1).trimEnd()}…` : text);

const widthOf = (words) => (words.length + (words.match(WIDE)?.length ?? 0)) * LETTER_WIDTH;

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

const around = ([x, y], width, radius) => [
  { ...box(x + radius + 5, y, width), x: x + radius + 5, anchor: "start" },
  { ...box(x - radius - 5 - width, y, width), x: x - radius - 5, anchor: "end" },
  { ...box(x - width / 2, y - radius - 11, width), x, anchor: "middle" },
  { ...box(x - width / 2, y + radius + 11, width), x, anchor: "middle" },
];

// Labels that overlap no point and no other label, those of the clusters first. The list below the
// map has all texts.
const labels = (texts, clusters, { spots, width, height, radius }) => {
  const taken = spots.map(([x, y]) => ({ left: x - radius, right: x + radius, top: y - radius, bottom: y + radius }));
  const fits = (each) => each.left > 2 && each.right < width - 2 && each.top > 2 && each.bottom < height - 2
    && taken.every((other) => apart(each, other));
  const named = clusters.length > 1 ? clusters.map(({ label }) => label) : [];
  const order = [...named, ...texts.map((_, k) => k).filter((k) => !named.includes(k))];
  return order.map((k) => {
    const words = short(texts[k]);
    const place = around(spots[k], widthOf(words), radius).find(fits);
    if (!place) return null;
    taken.push(place);
    return svg("text", { class: named.includes(k) ? "of-cluster" : null, x: place.x, y: place.top + 13.5, "text-anchor": place.anchor }, words);
  });
};

const turn = ([ax, ay], [bx, by], [cx, cy]) => (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);

const half = (points) => {
  const kept = [];
  for (const point of points) {
    while (kept.length > 1 && turn(kept.at(-2), kept.at(-1), point) <= 0) kept.pop();
    kept.push(point);
  }
  return kept.slice(0, -1);
};

// Convex hull of points, by the monotone chain; a point for points at one place.
const hull = (points) => {
  const sorted = points.toSorted((a, b) => a[0] - b[0] || a[1] - b[1]);
  const found = [...half(sorted), ...half(sorted.toReversed())];
  return found.length ? found : [sorted[0]];
};

const area = (cluster, k, spots) =>
  svg("path", { class: "area", "data-cluster": k, d: `M${hull(cluster.members.map((n) => spots[n])).map((point) => point.map((value) => value.toFixed(1)).join(" ")).join("L")}Z` });

const percent = (value) => `${Math.round(100 * value)}%`;

const list = (texts, cluster, k, { many, dense }) => h("section", { class: many ? "cluster" : "", "data-cluster": k },
  many ? h("h3", {}, t("plane.cluster", { label: texts[cluster.label], count: cluster.members.length })) : null,
  h("ol", { class: dense ? "names dense" : "names", "aria-label": many ? texts[cluster.label] : t("plane.names") }, ...cluster.members.map((n) =>
    h("li", {}, dense ? null : h("span", {}, String(n + 1)), h("span", { title: texts[n] }, texts[n])))));

// `room`: width in pixels. `clusters`: [{members, label}].
export const plane = (texts, { points, shares }, clusters, room) => {
  const width = Math.min(room, WIDEST);
  const height = Math.round(Math.max(280, Math.min(640, 0.62 * width)));
  const spots = placed(points, width, height);
  const clusterOf = (n) => clusters.findIndex(({ members }) => members.includes(n));
  const many = clusters.length > 1;
  const dense = texts.length > DENSE;
  const radius = dense ? 5.5 : 10;
  const drawing = svg("svg", {
    class: "plane", width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": t("plane.label", { size: texts.length, clusters: clusters.length }),
  },
  // The areas of many points lie over each other, and their colours are enough.
  ...(many && !dense ? clusters.map((cluster, k) => area(cluster, k, spots)) : []),
  ...labels(texts, clusters, { spots, width, height, radius }).filter(Boolean),
  ...spots.map(([x, y], n) =>
    svg("g", { class: "point", "data-cluster": clusterOf(n) },
      svg("title", {}, texts[n]),
      svg("circle", { cx: x, cy: y, r: radius }),
      dense ? null : svg("text", { class: "number", x, y: y + 4 }, String(n + 1)))));
  return [
    h("p", { class: "hint" }, t("plane.variance", { first: percent(shares[0]), second: percent(shares[1] ?? 0) })),
    drawing,
    h("div", { class: many ? "clusters" : "" }, ...clusters.map((cluster, k) => list(texts, cluster, k, { many, dense }))),
  ];
};
