// Clusters of vectors: spherical k-means from a fixed start, so that the same texts give the same
// clusters. Shapes: N texts, D dimensions, K clusters.

const MOST = 8; // clusters
const ROUNDS = 50;
const FEWEST = 4; // texts; fewer are not divided
const WORTH = 0.04; // least mean silhouette of a division; random directions have 0.01

const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);

const unit = (vector) => {
  const norm = Math.sqrt(dot(vector, vector)) || 1;
  return vector.map((value) => value / norm);
};

const meanOf = (vectors) => unit(vectors[0].map((_, d) => vectors.reduce((sum, vector) => sum + vector[d], 0)));

const best = (count, value) => {
  let found = 0;
  for (let place = 1; place < count; place += 1) if (value(place) > value(found)) found = place;
  return found;
};

// The text nearest to the mean, then always the one farthest from those chosen.
const starts = (rows, count) => {
  const mean = meanOf(rows);
  const chosen = [best(rows.length, (n) => dot(rows[n], mean))];
  const nearest = rows.map((row) => dot(row, rows[chosen[0]]));
  while (chosen.length < count) {
    const next = best(rows.length, (n) => -nearest[n]);
    chosen.push(next);
    rows.forEach((row, n) => { nearest[n] = Math.max(nearest[n], dot(row, rows[next])); });
  }
  return chosen.map((n) => rows[n]);
};

// The cluster of each text, (N,) with values below `count`.
const divide = (rows, count) => {
  let centres = starts(rows, count);
  let clusters = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    const now = rows.map((row) => best(count, (k) => dot(row, centres[k])));
    if (now.every((cluster, n) => cluster === clusters[n])) break;
    clusters = now;
    centres = centres.map((centre, k) => {
      const members = rows.filter((_, n) => clusters[n] === k);
      return members.length ? meanOf(members) : centre;
    });
  }
  return clusters;
};

// Mean silhouette: how much nearer a text is to its own cluster than to the next one, -1 to 1.
const silhouette = (similar, clusters, count) => {
  const widths = similar.map((row, n) => {
    const sums = Array.from({ length: count }, () => [0, 0]);
    row.forEach((value, m) => { if (m !== n) { sums[clusters[m]][0] += 1 - value; sums[clusters[m]][1] += 1; } });
    const means = sums.map(([sum, size]) => (size ? sum / size : null));
    const own = means[clusters[n]];
    const other = Math.min(...means.filter((mean, k) => mean !== null && k !== clusters[n]));
    return own === null || !Number.isFinite(other) ? 0 : (other - own) / (Math.max(own, other) || 1);
  });
  return widths.reduce((sum, width) => sum + width, 0) / widths.length;
};

// Clusters in the order of their first text: {members, label}, both as places of texts. The label is
// the text nearest to the centre. One cluster, if no division is worth it.
const described = (rows, clusters) =>
  [...new Set(clusters)].map((cluster) => {
    const members = rows.map((_, n) => n).filter((n) => clusters[n] === cluster);
    const centre = meanOf(members.map((n) => rows[n]));
    return { members, label: members[best(members.length, (place) => dot(rows[members[place]], centre))] };
  });

// (N, D) -> clusters; the number of clusters is the one with the largest silhouette.
export const clustersOf = (vectors) => {
  const rows = vectors.map((vector) => unit(Array.from(vector)));
  if (rows.length < FEWEST) return described(rows, rows.map(() => 0));
  const similar = rows.map((a) => rows.map((b) => dot(a, b)));
  let found = { worth: WORTH, clusters: rows.map(() => 0) };
  for (let count = 2; count <= Math.min(MOST, Math.floor(rows.length / 2)); count += 1) {
    const clusters = divide(rows, count);
    const worth = silhouette(similar, clusters, count);
    if (worth > found.worth) found = { worth, clusters };
  }
  return described(rows, found.clusters);
};
