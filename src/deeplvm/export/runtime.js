// What the scripts of deeplvm.export.javascript call. All arrays are typed and flat.
"use strict";

function bytes(text) {
  const raw = atob(text), found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found.buffer;
}

const floats = (data, start, count) => new Float32Array(data, start, count);
const whole = (data, start, count) => new Int32Array(data, start, count);

function halves(data, start, count) {
  const bits = new Uint16Array(data, start, count), found = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const h = bits[i], power = (h >> 10) & 31, part = h & 1023;
    const size = power === 0 ? part * 2 ** -24
      : power === 31 ? (part ? NaN : Infinity) : (1024 + part) * 2 ** (power - 25);
    found[i] = h & 32768 ? -size : size;
  }
  return found;
}

// Where the elements of a strided view lie.
function places(shape, strides, offset) {
  const count = shape.reduce((a, b) => a * b, 1), found = new Int32Array(count);
  const at = shape.map(() => 0);
  for (let i = 0, place = offset; i < count; i++) {
    found[i] = place;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      place += strides[axis];
      if (++at[axis] < shape[axis]) break;
      place -= strides[axis] * shape[axis];
      at[axis] = 0;
    }
  }
  return found;
}

const square = (x) => x * x;
const clamp = (x, low, high) => Math.min(Math.max(x, low), high);
const remainder = (a, b) => a - Math.floor(a / b) * b;

function round(x) {  // halves to even, as torch does
  const r = Math.round(x);
  return Math.abs(x % 1) === 0.5 && r % 2 !== 0 ? r - 1 : r;
}

function erf(x) {  // by its series near 0, by a continued fraction beyond
  const a = Math.abs(x);
  if (a > 6) return Math.sign(x);
  if (a < 2.5) {
    let term = x, sum = x;
    for (let n = 1; n < 60; n++) {
      term *= -x * x / n;
      sum += term / (2 * n + 1);
    }
    return sum * 2 / Math.sqrt(Math.PI);
  }
  let f = a;
  for (let n = 60; n > 0; n--) f = a + n / 2 / f;
  return Math.sign(x) * (1 - Math.exp(-a * a) / f / Math.sqrt(Math.PI));
}

// Rows of a times matrices b: axpy by axpy, and none for a 0, of which relu makes many.
function product(out, a, b, batch, rows, inner, columns) {
  out.fill(0);
  for (let n = 0; n < batch * rows; n++) {
    const o = n * columns, start = Math.floor(n / rows) * inner * columns;
    for (let k = 0; k < inner; k++) {
      const x = a[n * inner + k];
      if (x === 0) continue;
      const w = start + k * columns;
      for (let j = 0; j < columns; j++) out[o + j] += x * b[w + j];
    }
  }
}

// A kernel without stride over a plane; what falls between the lines is not looked at.
function sweep(out, x, w, k, plane, source, s) {
  const end = plane + (s.high - 1) * s.line + s.wide, [tallStep, step] = s.apart;
  for (let u = 0; u < s.tall; u++) {
    let v = 0, i = source + u * tallStep * s.line;
    for (; v + 2 < s.broad; v += 3, k += 3, i += 3 * step) {
      const a = w[k], b = w[k + 1], c = w[k + 2];
      for (let o = plane, j = i; o < end; o++, j++) {
        out[o] += a * x[j] + b * x[j + step] + c * x[j + 2 * step];
      }
    }
    for (; v < s.broad; v++, k++, i += step) {
      const a = w[k];
      for (let o = plane, j = i; o < end; o++, j++) out[o] += a * x[j];
    }
  }
  return k;
}

// out[y * to + tap of out] += w * from[y * from + tap of in]; the taps are of the one that spreads.
function convolve(out, x, w, bias, s) {
  const [down, right] = s.from, [outDown, outRight] = s.to, [tallStep, broadStep] = s.apart;
  for (let g = 0, k = 0; g < s.groups; g++) for (let c = 0; c < s.outputs; c++) {
    const plane = (g * s.outputs + c) * s.full;
    out.fill(bias ? bias[g * s.outputs + c] : 0, plane, plane + s.full);
    for (let d = 0; d < s.inputs; d++) {
      const source = (g * s.inputs + d) * s.plane;
      if (s.flat) {
        k = sweep(out, x, w, k, plane, source, s);
        continue;
      }
      for (let u = 0; u < s.tall; u++) for (let v = 0; v < s.broad; v++, k++) {
        const weight = w[k];
        if (weight === 0) continue;
        const tap = s.spread ? u * tallStep * s.row + v * broadStep
          : u * tallStep * s.line + v * broadStep;
        for (let y = 0; y < s.high; y++) {
          let o = plane + y * outDown * s.row + (s.spread ? tap : 0);
          let i = source + y * down * s.line + (s.spread ? 0 : tap);
          for (const end = i + s.wide * right; i < end; i += right, o += outRight) {
            out[o] += weight * x[i];
          }
        }
      }
    }
  }
}

function lookup(out, x, index, size, count, inner) {
  for (let o = 0, block = 0; o < out.length; block += size * inner) {
    for (let n = 0; n < count; n++) {
      const start = block + (index[n] < 0 ? index[n] + size : index[n]) * inner;
      for (let j = 0; j < inner; j++) out[o++] = x[start + j];
    }
  }
}

// How many of the increasing steps lie below x, or not above it.
function search(out, steps, x, count, inner, after) {
  for (let i = 0; i < out.length; i++) {
    let low = Math.floor(i / inner) * count, high = low + count;
    const start = low;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (after ? steps[middle] <= x[i] : steps[middle] < x[i]) low = middle + 1;
      else high = middle;
    }
    out[i] = low - start;
  }
}

function argmax(out, x, inner) {
  for (let i = 0; i < out.length; i++) {
    let best = i * inner;
    for (let j = best; j < (i + 1) * inner; j++) if (x[j] > x[best]) best = j;
    out[i] = best - i * inner;
  }
}

function variance(out, x, inner, correction) {
  for (let i = 0; i < out.length; i++) {
    const part = x.subarray(i * inner, (i + 1) * inner);
    const mean = part.reduce((s, v) => s + v, 0) / inner;
    out[i] = part.reduce((s, v) => s + square(v - mean), 0) / (inner - correction);
  }
}

function cumsum(out, x, size, inner) {
  for (let i = 0; i < out.length; i++) {
    out[i] = x[i] + (Math.floor(i / inner) % size ? out[i - inner] : 0);
  }
}
