// Vectors of the API: decoding, cosines, principal components.
// Shapes: N texts, D dimensions.

// Little-endian float32 in base64 -> (D,).
export const decoded = (base64) => {
  const raw = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const view = new DataView(raw.buffer);
  return Float64Array.from({ length: raw.length / 4 }, (_, place) => view.getFloat32(4 * place, true));
};

const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);

// (N, D) -> (N, N)
export const cosines = (vectors) => {
  const norms = vectors.map((vector) => Math.sqrt(dot(vector, vector)) || 1);
  return vectors.map((a, i) => vectors.map((b, j) => dot(a, b) / (norms[i] * norms[j])));
};

const centred = (vectors) => {
  const mean = vectors[0].map((_, d) => vectors.reduce((sum, vector) => sum + vector[d], 0) / vectors.length);
  return vectors.map((vector) => vector.map((value, d) => value - mean[d]));
};

// One plane rotation that makes matrix[p][q] zero; changes both arguments.
const rotate = (matrix, basis, p, q) => {
  if (Math.abs(matrix[p][q]) < 1e-14) return;
  const theta = (matrix[q][q] - matrix[p][p]) / (2 * matrix[p][q]);
  const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
  const c = 1 / Math.sqrt(t * t + 1);
  const s = t * c;
  const turn = (row) => { [row[p], row[q]] = [c * row[p] - s * row[q], s * row[p] + c * row[q]]; };
  matrix.forEach(turn);
  [matrix[p], matrix[q]] = [
    matrix[p].map((value, k) => c * value - s * matrix[q][k]),
    matrix[p].map((value, k) => s * value + c * matrix[q][k]),
  ];
  basis.forEach(turn);
};

// Eigenvalues and vectors (columns of `basis`) of a small symmetric matrix, by Jacobi's method.
const eigen = (symmetric) => {
  const matrix = symmetric.map((row) => Array.from(row));
  const basis = matrix.map((_, i) => matrix.map((_, j) => Number(i === j)));
  const size = matrix.length;
  for (let sweep = 0; sweep < 30; sweep += 1)
    for (let p = 0; p < size; p += 1)
      for (let q = p + 1; q < size; q += 1) rotate(matrix, basis, p, q);
  return { values: matrix.map((row, i) => Math.max(0, row[i])), basis };
};

// The first two principal components: points (N, 2), and the share of the variance in each.
export const pca = (vectors) => {
  const rows = centred(vectors.map((vector) => Array.from(vector)));
  // N is smaller than D, so the (N, N) products are decomposed, not the (D, D) covariance.
  const { values, basis } = eigen(rows.map((a) => rows.map((b) => dot(a, b))));
  const order = values.map((_, place) => place).sort((a, b) => values[b] - values[a]).slice(0, 2);
  const total = values.reduce((sum, value) => sum + value, 0) || 1;
  return {
    points: rows.map((_, i) => order.map((k) => basis[i][k] * Math.sqrt(values[k]))),
    shares: order.map((k) => values[k] / total),
  };
};
