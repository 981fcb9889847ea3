// Clusters of vectors: spherical k-means from several fixed starts, so that the same texts give the
// same clusters. Shapes: N texts, D dimensions, K clusters.

const MOST = 8; // clusters
const ROUNDS = 50;
const FEWEST = 4; // texts; fewer are not divided
const TRIES = 12; // starts; the one with the largest sum of cosines to the centres is kept
const SMALLEST = 3; // a cluster has at least this share of the mean size, 1 / SMALLEST: no lone outliers
const WORTH = 0.04; // least mean silhouette of a division; random directions have 0.01

const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);

const unit = (vector) => {
  const norm = Math.sqrt(dot(vector, vector)) || 1;
  return vector.map((value) => value / norm);
};

const sumOf = (vectors) => vectors[0].map((_, d) => vectors.reduce((sum, vector) => sum + vector[d], 0));

const meanOf = (vectors) => unit(sumOf(vectors));

// Directions from the common mean, as on the map: what all texts share says nothing about groups.
const centred = (vectors) => {
  const sum = sumOf(vectors);
  return vectors.map((vector) => unit(vector.map((value, d) => value - sum[d] / vectors.length)));
};

const best = (count, value) => {
  let found = 0;
  for (let place = 1; place < count; place += 1) if (value(place) > value(found)) found = place;
  return found;
};

// Numbers from 0 to 1, always the same for a seed (a linear congruential generator).
const randomFrom = (seed) => {
  let state = seed;
  return () => {
    state = (1664525 * state + 1013904223) % 2 ** 32;
    return state / 2 ** 32;
  };
};

// Texts drawn with a probability that grows with the distance from the nearest one drawn before
// (k-means++).
const starts = (rows, count, random) => {
  const far = rows.map(() => 1);
  const chosen = [];
  while (chosen.length < count) {
    let left = random() * far.reduce((sum, value) => sum + value, 0);
    let next = 0;
    while (next < far.length - 1 && (left -= far[next]) > 0) next += 1;
    chosen.push(rows[next]);
    rows.forEach((row, n) => { far[n] = Math.min(far[n], Math.max(1 - dot(row, rows[next]), 0)); });
  }
  return chosen;
};

// The best of several divisions: the cluster of each text, (N,) with values below `count`.
const divide = (rows, count) => {
  const tries = Array.from({ length: TRIES }, (_, seed) => converge(rows, starts(rows, count, randomFrom(seed + 1))));
  return tries[best(TRIES, (place) => tries[place].cosine)].clusters;
};

const converge = (rows, first) => {
  let centres = first;
  let clusters = [];
  const count = first.length;
  for (let round = 0; round < ROUNDS; round += 1) {
    const now = rows.map((row) => best(count, (k) => dot(row, centres[k])));
    if (now.every((cluster, n) => cluster === clusters[n])) break;
    clusters = now;
    centres = centres.map((centre, k) => {
      const members = rows.filter((_, n) => clusters[n] === k);
      return members.length ? meanOf(members) : centre;
    });
  }
  return { clusters, cosine: rows.reduce((sum, row, n) => sum + dot(row, centres[clusters[n]]), 0) };
};

const smallest = (clusters, count) =>
  Math.min(...Array.from({ length: count }, (_, k) => clusters.filter((cluster) => cluster === k).length));

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
  const rows = centred(vectors.map((vector) => unit(Array.from(vector))));
  if (rows.length < FEWEST) return described(rows, rows.map(() => 0));
  const similar = rows.map((a) => rows.map((b) => dot(a, b)));
  let found = { worth: WORTH, clusters: rows.map(() => 0) };
  for (let count = 2; count <= Math.min(MOST, Math.floor(rows.length / 2)); count += 1) {
    const clusters = divide(rows, count);
    if (smallest(clusters, count) * SMALLEST < rows.length / count) continue;
    const worth = silhouette(similar, clusters, count);
    if (worth > found.worth) found = { worth, clusters };
  }
  return described(rows, found.clusters);
};
