// The page: a place among the latents, which is moved, and what is shown of it.
const $ = (id) => document.getElementById(id);
const unpack = (text, kind) => new kind(bytes(text));
const unpackHalves = (text) => { const data = bytes(text); return halves(data, 0, data.byteLength / 2); };
const make = (tag, properties = {}, ...children) => {
  const found = Object.assign(document.createElement(tag), properties);
  found.append(...children);
  return found;
};

const { size, kept, units, ports, views, columns } = facts;
const codes = unpackHalves(facts.codes), scales = facts.scales && unpackHalves(facts.scales);
const points = unpack(facts.points, Uint16Array);
for (const each of columns) each.data = unpack(each.values, each.classes ? Uint8Array : Float32Array);
const codeOf = (row) => Float64Array.from(codes.subarray(row * size, (row + 1) * size));
const real = facts.axes.drag;
const owned = facts.label && columns[0]?.classes ? columns[0] : null;  // the labels of the rows
const PALETTE = ["#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f", "#ff9da7", "#76b7b2", "#d4b106", "#8c8c8c"];
const SCALE = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [225, 210, 60]];
const STEPS = 9, SLIDERS = 12, NEAREST = 8, STRIPS = views[0].kind === "table" ? 3 : 6;

let z = codeOf(0), label = 0, changes = 0;

// --- the decoder, the densities ---

function given(place) {
  let at = 0;
  return ports.map(([name, count]) => name === "y" && facts.label
    ? Float64Array.of(label) : place.subarray(at, at += count));
}
const decode = (place) => decoder(...given(place));

const spread = scales && scales.map((s) => Math.max(s, 1e-3));
const weights = scales && Float64Array.from({ length: kept }, (_, row) => {
  let sum = -Math.log(kept) - size * 0.5 * Math.log(2 * Math.PI);
  for (let i = row * size; i < (row + 1) * size; i++) sum -= Math.log(spread[i]);
  return sum;
});
function aggregate(place) {  // log of the mean of the Gaussians of the rows
  const each = new Float64Array(kept);
  let most = -Infinity;
  for (let row = 0, i = 0; row < kept; row++) {
    let sum = weights[row];
    for (let d = 0; d < size; d++, i++) sum -= 0.5 * square((place[d] - codes[i]) / spread[i]);
    each[row] = sum;
    most = Math.max(most, sum);
  }
  return most + Math.log(each.reduce((s, v) => s + Math.exp(v - most), 0));
}

function tellDensity(name, value, quantiles) {
  const found = value !== null;
  const below = (q) => Math.abs(q - value) < 2e-3 ? 0.5 : +(q < value);  // quantiles are rounded
  const share = found ? quantiles.reduce((s, q) => s + below(q), 0) / quantiles.length * 100 : 0;
  $(`${name}-value`).textContent = found ? `${value.toFixed(1).replace("-", "−")} nats` : "not known here";
  $(`${name}-place`).hidden = !found;
  $(`${name}-place`).value = share;
  $(`${name}-words`).textContent = !found ? "" : share < 1 ? "lower than at all draws of it"
    : share > 99 ? "higher than at all draws of it"
    : `higher than at ${share.toFixed(0)} % of draws of it`;
}

// --- what x looks like ---

function drawImage(canvas, view, values) {
  const [channels, height, width] = view.shape, range = view.high - view.low;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
  const plane = width * height, data = pixels.data;
  for (let i = 0; i < plane; i++) {
    for (let c = 0; c < 3; c++) {
      data[4 * i + c] = 255 * (values[(channels === 3 ? c : 0) * plane + i] - view.low) / range;
    }
    data[4 * i + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

function drawCurve(canvas, view, values) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, canvas.clientWidth * ratio), height = Math.max(1, canvas.clientHeight * ratio);
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d"), range = view.high - view.low || 1;
  const lines = view.shape.length > 1 ? view.shape.slice(1).reduce((a, b) => a * b, 1) : 1;
  const steps = values.length / lines;
  for (let k = 0; k < Math.min(lines, PALETTE.length); k++) {
    context.beginPath();
    for (let t = 0; t < steps; t++) {
      const x = steps > 1 ? t / (steps - 1) * width : width / 2;
      context.lineTo(x, height - (values[t * lines + k] - view.low) / range * height);
    }
    context.strokeStyle = PALETTE[k];
    context.lineWidth = 1.5 * ratio;
    context.stroke();
  }
}

const day = (days) => Number.isFinite(days) ? new Date(days * 864e5).toISOString().slice(0, 10) : "";
function short(value) {
  if (!Number.isFinite(value)) return "";
  const size = Math.abs(value);
  const text = size >= 1e6 || (size < 1e-3 && size > 0) ? value.toExponential(2)
    : value.toFixed(size >= 100 ? 0 : size >= 1 ? 2 : 3);
  return text.replace("-", "−");
}
function cell(column, view, results) {  // text, share of a bar
  if (column.categories) {
    const chances = results[column.output];
    let best = 0;
    for (let i = 1; i < chances.length; i++) if (chances[i] > chances[best]) best = i;
    return [`${column.categories[best]} (${(100 * chances[best]).toFixed(0)} %)`, chances[best]];
  }
  const value = results[view.output][column.place], range = column.high - column.low || 1;
  const text = column.date ? day(value) : column.chance ? `${(100 * value).toFixed(0)} %` : short(value);
  return [text, clamp((value - column.low) / range, 0, 1)];
}

const main = views.map((view) => {
  const figure = make("figure");
  if (view.kind === "table") {
    const rows = view.columns.map((column) => {
      const text = make("td"), bar = make("i");
      const head = make("th", { scope: "row", textContent: column.name });
      return { tr: make("tr", {}, head, text, make("td", { className: "bar" }, bar)), text, bar, column };
    });
    figure.append(make("div", { className: "scroll" }, make("table", {}, make("tbody", {}, ...rows.map((r) => r.tr)))));
    view.show = (results) => {
      for (const { text, bar, column } of rows) {
        const [said, share] = cell(column, view, results);
        text.textContent = said;
        bar.style.width = `${100 * share}%`;
      }
    };
  } else {
    const canvas = make("canvas", { className: view.kind });
    canvas.setAttribute("role", "img");
    figure.append(canvas);
    view.canvas = canvas;
    view.show = (results) => (view.kind === "image" ? drawImage : drawCurve)(canvas, view, results[view.output]);
  }
  if (views.length > 1) figure.append(make("figcaption", { textContent: view.name }));
  $("views").append(figure);
  return view;
});

// A strip of places: pictures to press, or a table with a column a place.
function strip(element, places, names) {
  const view = views[0], results = (place) => decode(place);
  if (view.kind === "table") {
    const head = make("tr", {}, make("td"), ...places.map((place, i) => {
      const button = make("button", { type: "button", textContent: names[i], title: "Go there" });
      button.onclick = () => go(place);
      return make("th", { scope: "col" }, button);
    }));
    const texts = places.map((place) => {
      const found = results(place);
      return view.columns.map((column) => cell(column, view, found)[0]);
    });
    const body = view.columns.map((column, k) => make("tr", {},
      make("th", { scope: "row", textContent: column.name }), ...texts.map((t) => make("td", { textContent: t[k] }))));
    element.replaceChildren(make("div", { className: "scroll" }, make("table", {}, make("tbody", {}, head, ...body))));
    return;
  }
  while (element.children.length > places.length) element.lastChild.remove();
  while (element.children.length < places.length) {
    element.append(make("button", { type: "button" }, make("canvas", { className: view.kind }), make("span")));
  }
  places.forEach((place, i) => {
    const button = element.children[i], found = results(place)[view.output];
    (view.kind === "image" ? drawImage : drawCurve)(button.firstChild, view, found);
    button.lastChild.textContent = names[i];
    button.setAttribute("aria-label", `Go to ${names[i]}`);
    button.onclick = () => go(place);
  });
}

// --- rows ---

const series = facts.series && unpackHalves(facts.series), elements = views[0].shape?.reduce((a, b) => a * b, 1);
const sheet = facts.sprite && Object.assign(new Image(), { src: facts.sprite.source });
function wordsOf(row) {
  const words = columns.filter((c) => c.classes || (!sheet && c.known === undefined)).slice(0, sheet ? 1 : 6).map((c) => {
    const value = c.data[row];
    const text = c.classes ? c.classes[value] ?? "?" : c.date ? day(value) : short(value);
    return sheet ? text : `${c.name} ${text}`;
  }).join(sheet ? ", " : "\n");
  return words || columns.filter((c) => c.known !== undefined).map((c) => `log p(x) ${short(c.data[row]) || "not measured"}`)[0];
}
function near(place, count) {
  const distance = new Float64Array(kept);
  for (let row = 0, i = 0; row < kept; row++) {
    for (let d = 0; d < size; d++, i++) distance[row] += square(place[d] - codes[i]);
  }
  return Array.from(distance.keys()).sort((a, b) => distance[a] - distance[b]).slice(0, count);
}
function showNearest(rows) {
  $("nearest").replaceChildren(...rows.map((row) => {
    const button = make("button", { type: "button" });
    if (sheet) {
      const { across, width, height } = facts.sprite, canvas = make("canvas", { width, height });
      canvas.getContext("2d").drawImage(sheet, row % across * width, Math.floor(row / across) * height, width, height, 0, 0, width, height);
      button.append(canvas);
    } else if ((row + 1) * elements <= series?.length) button.append(make("canvas", { className: "curve" }));
    button.append(make("span", { innerText: wordsOf(row) }));
    button.setAttribute("aria-label", `Go to the row ${wordsOf(row)}`);
    button.onclick = () => take(row);
    return button;
  }));
  rows.forEach((row, i) => {
    const canvas = series && $("nearest").children[i].querySelector("canvas");
    if (canvas) drawCurve(canvas, { ...views[0], low: 0, high: 1 }, series.subarray(row * elements, (row + 1) * elements));
  });
}

// --- the scatter ---

const scatter = $("scatter"), behind = document.createElement("canvas");
const directions = [
  { name: facts.axes.names[0], vector: facts.axes.matrix[0], own: 0 },
  { name: facts.axes.names[1], vector: facts.axes.matrix[1], own: 1 },
  ...(size > 2 && real ? units.map((u) => ({ name: u.name, vector: Array.from({ length: size }, (_, i) => +(i === u.place)) })) : []),
];
let plane = [directions[0], directions[1]], shown = null, box = facts.box;
const dot = (a, b) => { let s = 0; for (let i = 0; i < size; i++) s += a[i] * b[i]; return s; };
const centred = (direction) => direction.own === undefined ? 0 : dot(direction.vector, facts.axes.centre);
const along = (direction, place) => dot(direction.vector, place) - centred(direction);

function lay() {  // where the points are, in units of the axes
  if (plane[0].own === 0 && plane[1].own === 1) {
    const [[x0, y0], [x1, y1]] = box = facts.box;
    shown = Float32Array.from(points, (v, i) => i % 2 ? y0 + v / 65535 * (y1 - y0) : x0 + v / 65535 * (x1 - x0));
    return;
  }
  shown = new Float32Array(2 * kept);
  const low = [Infinity, Infinity], high = [-Infinity, -Infinity];
  for (let row = 0; row < kept; row++) {
    const place = codes.subarray(row * size, (row + 1) * size);
    for (let k = 0; k < 2; k++) {
      const v = shown[2 * row + k] = along(plane[k], place);
      low[k] = Math.min(low[k], v);
      high[k] = Math.max(high[k], v);
    }
  }
  box = [low, high.map((v, k) => v > low[k] ? v : v + 1)];
}
const MARGIN = 0.05;
const toPixel = (v, k) => {
  const share = MARGIN + (1 - 2 * MARGIN) * (v - box[0][k]) / (box[1][k] - box[0][k]);
  return k ? (1 - share) * scatter.height : share * scatter.width;
};
const fromPixel = (p, k) => {
  const share = k ? 1 - p / scatter.height : p / scatter.width;
  return box[0][k] + (share - MARGIN) / (1 - 2 * MARGIN) * (box[1][k] - box[0][k]);
};

function colours() {  // a colour for each row, and the legend
  const column = columns[$("colour").value];
  if (!column) return [() => PALETTE[0], []];
  if (column.classes) {
    const items = column.classes.map((name, i) => {
      const mark = make("i");
      mark.style.background = PALETTE[i % PALETTE.length];
      return make("span", {}, mark, name);
    });
    return [(row) => column.data[row] === 255 ? "#9994" : PALETTE[column.data[row] % PALETTE.length], items];
  }
  const known = column.data.filter(Number.isFinite).sort();
  const low = known[Math.floor(known.length * 0.01)] ?? 0, high = known[Math.floor(known.length * 0.99)] ?? 1;
  const shade = (t) => {
    const at = clamp(t, 0, 0.9999) * (SCALE.length - 1), i = Math.floor(at);
    return `rgb(${SCALE[i].map((v, c) => Math.round(v + (at - i) * (SCALE[i + 1][c] - v)))})`;
  };
  const mark = make("i", { className: "scale" });
  mark.style.background = `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map(shade)})`;
  const text = (v) => column.date ? day(v) : short(v);
  const items = [make("span", {}, text(low), mark, text(high))];
  if (known.length < facts.rows) items.push(make("span", { textContent: `known of ${known.length.toLocaleString("en")} rows` }));
  return [(row) => Number.isFinite(column.data[row]) ? shade((column.data[row] - low) / (high - low || 1)) : "#9994", items];
}

function drawRows() {
  const ratio = window.devicePixelRatio || 1, side = Math.max(1, Math.round(scatter.clientWidth * ratio));
  for (const canvas of [scatter, behind]) Object.assign(canvas, { width: side, height: side });
  const context = behind.getContext("2d"), [colour, items] = colours();
  const count = shown.length / 2, dots = (count > 5000 ? 2 : count > 800 ? 3 : 5) * ratio;
  for (let row = 0; row < count; row++) {
    context.fillStyle = colour(row);
    context.fillRect(toPixel(shown[2 * row], 0) - dots / 2, toPixel(shown[2 * row + 1], 1) - dots / 2, dots, dots);
  }
  $("legend").replaceChildren(...items);
  drawCursor();
}
function drawCursor() {
  const context = scatter.getContext("2d"), ratio = window.devicePixelRatio || 1;
  context.clearRect(0, 0, scatter.width, scatter.height);
  context.drawImage(behind, 0, 0);
  const ink = getComputedStyle(document.body).color;
  const [x, y] = [0, 1].map((k) => clamp(toPixel(along(plane[k], z), k), 0, k ? scatter.height : scatter.width));
  context.lineWidth = 2 * ratio;
  context.strokeStyle = getComputedStyle(document.body).backgroundColor;
  for (const wide of [4, 2]) {
    context.lineWidth = wide * ratio;
    context.beginPath();
    context.arc(x, y, 9 * ratio, 0, 7);
    context.moveTo(x - 15 * ratio, y);
    context.lineTo(x + 15 * ratio, y);
    context.moveTo(x, y - 15 * ratio);
    context.lineTo(x, y + 15 * ratio);
    context.stroke();
    context.strokeStyle = ink;
  }
}

function moveInPlane(to) {  // the smallest step that brings the cursor there
  const [a, b] = plane, delta = to.map((v, k) => v - along(plane[k], z));
  const aa = dot(a.vector, a.vector), ab = dot(a.vector, b.vector), bb = dot(b.vector, b.vector);
  const volume = aa * bb - ab * ab;
  const [s, t] = volume > 1e-9 ? [(bb * delta[0] - ab * delta[1]) / volume, (aa * delta[1] - ab * delta[0]) / volume]
    : [aa ? delta[0] / aa : 0, 0];
  go(z.map((v, i) => v + s * a.vector[i] + t * b.vector[i]));
}
function rowAt(x, y, most) {
  let best = -1, least = most;
  for (let row = 0; row < kept; row++) {
    const far = Math.hypot(toPixel(shown[2 * row], 0) - x, toPixel(shown[2 * row + 1], 1) - y);
    if (far < least) [best, least] = [row, far];
  }
  return best;
}
const pixelOf = (event) => {
  const frame = scatter.getBoundingClientRect();
  return [(event.clientX - frame.left) / frame.width * scatter.width, (event.clientY - frame.top) / frame.height * scatter.height];
};
let start = null;
scatter.addEventListener("pointerdown", (event) => {
  scatter.setPointerCapture(event.pointerId);
  start = pixelOf(event);
  scatter.focus({ preventScroll: true });
});
scatter.addEventListener("pointermove", (event) => {
  if (start && real) moveInPlane(pixelOf(event).map(fromPixel));
});
scatter.addEventListener("pointerup", (event) => {
  if (!start) return;
  const [x, y] = pixelOf(event), still = Math.hypot(x - start[0], y - start[1]) < 4;
  const row = still || !real ? rowAt(x, y, real ? 10 * (window.devicePixelRatio || 1) : Infinity) : -1;
  start = null;
  if (row >= 0) take(row);
  else if (real) moveInPlane([x, y].map(fromPixel));
});
scatter.addEventListener("pointercancel", () => { start = null; });
scatter.addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (event.key === "Enter") take(near(z, 1)[0]);
  else if (step && real) {
    const part = event.shiftKey ? 200 : 40;
    moveInPlane(step.map((s, k) => along(plane[k], z) + s * (box[1][k] - box[0][k]) / part));
  } else return;
  event.preventDefault();
});

// --- sliders ---

function valueOf(unit, place) {
  if (unit.kind !== "choice") return place[unit.place];
  const part = place.subarray(unit.place, unit.place + unit.size);
  return part.indexOf(Math.max(...part));
}
function withUnit(unit, value, place = z) {
  const found = Float64Array.from(place);
  if (unit.kind === "choice") {
    for (let i = 0; i < unit.size; i++) found[unit.place + i] = +(i === Math.round(value));
  } else if (unit.kind === "share") {  // the others share what is left
    const rest = found.reduce((s, v) => s + v, 0) - found[unit.place];
    for (let i = 0; i < size; i++) found[i] = i === unit.place ? value : rest > 0 ? found[i] * (1 - value) / rest : (1 - value) / (size - 1);
  } else found[unit.place] = unit.kind === "whole" ? Math.round(value) : value;
  return found;
}
const sliders = units.map((unit, number) => {
  const whole = unit.kind === "whole" || unit.kind === "choice";
  const [low, high] = unit.kind === "choice" ? [0, unit.size - 1] : unit.kind === "share" ? [0, 1] : [unit.low, unit.high];
  const input = make("input", { type: "range", min: low, max: high, step: whole ? 1 : "any" });
  const output = make("output");
  input.oninput = () => go(withUnit(unit, +input.value));
  input.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
    if (!step || whole) return;
    event.preventDefault();
    go(withUnit(unit, clamp(valueOf(unit, z) + step * (high - low) / (event.shiftKey ? 200 : 40), low, high)));
  });
  (number < SLIDERS ? $("sliders") : $("more")).append(make("label", {}, make("span", { textContent: unit.name, title: unit.name }), input, output));
  return { unit, input, output, low, high, whole };
});
if (units.length > SLIDERS) {
  $("rest").hidden = false;
  $("rest").firstChild.textContent = `${units.length - SLIDERS} more that vary less`;
}

// --- places, arithmetic, attributes ---

const slots = { A: codeOf(0), B: codeOf(1 % kept), C: codeOf(2 % kept) };
const stripOf = {};
function meanOf(column, value) {  // of the latents of the rows that have it, and of the others
  const found = [new Float64Array(size), new Float64Array(size)], count = [0, 0];
  for (let row = 0; row < kept; row++) {
    if (column.data[row] === 255) continue;
    const side = column.data[row] === value ? 0 : 1;
    count[side]++;
    for (let d = 0; d < size; d++) found[side][d] += codes[row * size + d];
  }
  return count[0] && count[1] ? found.map((sum, side) => sum.map((v) => v / count[side])) : null;
}
const classed = columns.flatMap((column) => (column.classes || []).map((name, value) => ({ column, name: `${column.name}: ${name}`, value })));
for (const name of ["A", "B", "C", "C + B − A"]) {
  const picture = make("div", { className: "strip" }), parts = [make("h3", { textContent: name }), picture];
  stripOf[name] = picture;
  if (slots[name]) {
    const here = make("button", { type: "button", textContent: "Put the place here" });
    here.setAttribute("aria-label", `Put the place into ${name}`);
    here.onclick = () => { slots[name] = Float64Array.from(z); showSlots(); };
    const controls = make("div", { className: "controls" }, here);
    if (real && classed.length) {
      const select = make("select", {}, make("option", { textContent: "or a mean", value: "" }),
        ...classed.map((c, i) => make("option", { textContent: c.name, value: i })));
      select.setAttribute("aria-label", `Put a mean into ${name}`);
      select.onchange = () => {
        const each = classed[select.value], means = each && meanOf(each.column, each.value);
        if (means) { slots[name] = means[0]; showSlots(); }
      };
      controls.append(select);
    }
    parts.push(controls);
  }
  $("slots").append(make("div", {}, ...parts));
}
const straight = (a, b, t) => a.map((v, i) => (1 - t) * v + t * b[i]);
function sphere(a, b, t) {
  const angle = Math.acos(clamp(dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b)), -1, 1)), sine = Math.sin(angle);
  if (!(sine > 1e-6)) return straight(a, b, t);
  return a.map((v, i) => (Math.sin((1 - t) * angle) * v + Math.sin(t * angle) * b[i]) / sine);
}
const shares = Array.from({ length: STEPS }, (_, i) => i / (STEPS - 1));
function showSlots() {
  const { A, B, C } = slots, between = shares.map((t) => t === 0 ? "A" : t === 1 ? "B" : `${Math.round(100 * t)} %`);
  for (const name of ["A", "B", "C"]) strip(stripOf[name], [slots[name]], [name]);
  if (!real) {  // nothing lies between categories
    $("linear").textContent = $("spherical").textContent = stripOf["C + B − A"].textContent = "Only between latents that are reals.";
    return;
  }
  strip(stripOf["C + B − A"], [C.map((v, i) => v + B[i] - A[i])], ["C + B − A"]);
  strip($("linear"), shares.map((t) => straight(A, B, t)), between);
  strip($("spherical"), shares.map((t) => sphere(A, B, t)), between);
}

function slope(column) {
  const rows = Array.from({ length: kept }, (_, row) => row).filter((row) => Number.isFinite(column.data[row]));
  const mean = rows.reduce((s, row) => s + column.data[row], 0) / rows.length;
  const deviation = Math.sqrt(rows.reduce((s, row) => s + square(column.data[row] - mean), 0) / rows.length);
  const found = new Float64Array(size);
  for (const row of rows) {
    for (let d = 0; d < size; d++) found[d] += codes[row * size + d] * (column.data[row] - mean) / (deviation * rows.length);
  }
  return deviation > 0 ? found : null;
}
const attributes = [...classed, ...columns.filter((c) => !c.classes).map((column) => ({ column, name: column.name }))];
let base = null;  // the place from which an attribute is added
function direction() {
  const each = attributes[$("attribute").value];
  if (!each) return null;
  if (!each.vector) {
    const means = each.value === undefined ? null : meanOf(each.column, each.value);
    each.vector = each.value === undefined ? slope(each.column) : means && means[0].map((v, d) => v - means[1][d]);
  }
  return each.vector;
}
function showAttribute() {
  const vector = direction();
  if (!vector) return $("attribute-strip").replaceChildren("All rows are alike in this.");
  const steps = [-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2];
  strip($("attribute-strip"), steps.map((t) => (base || z).map((v, d) => v + t * vector[d])), steps.map((t) => `${t}`.replace("-", "−")));
}
$("attribute-section").hidden = !real || !attributes.length;
$("attribute").append(...attributes.map((a, i) => make("option", { textContent: a.name, value: i })));
$("attribute").onchange = () => { setStrength(0); base = null; showAttribute(); };
function setStrength(value) {
  $("strength").value = value;
  $("strength-value").textContent = short(value);
}
$("strength").oninput = () => {
  const vector = direction(), value = +$("strength").value, from = base || Float64Array.from(z);
  if (!vector) return;
  go(from.map((v, d) => v + value * vector[d]));
  base = from;
  setStrength(value);
};

// --- everything follows the place ---

function go(place) {
  z = Float64Array.from(place);
  base = null;
  setStrength(0);
  if (!changes++) requestAnimationFrame(show);
}
function take(row) {  // a row, and its label where the decoder reads one
  if (owned && owned.data[row] !== 255 && owned.data[row] !== label) {
    $("label").value = label = owned.data[row];
    showSlots();
  }
  go(codeOf(row));
}
let later = 0;
function show() {
  changes = 0;
  const results = decode(z);
  for (const view of main) view.show(results);
  tellDensity("prior", prior && prior(...given(z))[0][0], facts.prior && facts.prior.quantiles);
  tellDensity("aggregate", scales && aggregate(z), facts.aggregate && facts.aggregate.quantiles);
  for (const { unit, input, output, whole } of sliders) {
    const value = valueOf(unit, z);
    input.value = value;
    output.textContent = whole ? value : short(value);
    input.setAttribute("aria-valuetext", output.textContent);
  }
  drawCursor();
  clearTimeout(later);
  later = setTimeout(() => showRest(0), 120);
}
function showRest(part) {  // in parts, so that a slow decoder does not hold up the hand
  if (part === 0) {
    const rows = near(z, NEAREST), words = rows.slice(0, 3).map(wordsOf).join("; ");
    showNearest(rows);
    for (const view of main) view.canvas?.setAttribute("aria-label", `Mean of p(x | z); the nearest rows are ${words}`);
    $("said").textContent = `${sliders.slice(0, 3).map((s) => `${s.unit.name} ${s.output.textContent}`).join(", ")}. `
      + `log p ${$("prior-value").textContent}, log q ${$("aggregate-value").textContent}. Nearest rows: ${words}.`;
  } else if (part <= Math.min(STRIPS, units.length)) {
    const { unit, low, high, whole } = sliders[part - 1];
    const count = whole ? Math.min(high - low + 1, 2 * STEPS) : STEPS;
    const stops = Array.from({ length: count }, (_, i) => low + (count > 1 ? i / (count - 1) : 0) * (high - low));
    strip(rowsOf[part - 1], stops.map((v) => withUnit(unit, v)), stops.map((v) => whole ? `${Math.round(v)}` : short(v)));
  } else if (real && attributes.length) {
    showAttribute();
  }
  if (part <= Math.min(STRIPS, units.length)) later = setTimeout(() => showRest(part + 1), 0);
}
const rowsOf = units.slice(0, STRIPS).map((unit) => {
  const element = make("div", { className: "strip" });
  $("traversals").append(make("h3", { textContent: unit.name }), element);
  return element;
});

if (!real) $("keys").textContent = "Nothing lies between these latents: a click takes the nearest point. Keyboard: Enter takes the row nearest in the latents.";
$("random").onclick = () => take(Math.floor(Math.random() * kept));
$("middle").onclick = () => go(real ? facts.centre : codeOf(near(Float64Array.from(facts.centre), 1)[0]));
if (facts.label) {
  $("label-control").hidden = false;
  $("label").append(...facts.label.map((name, i) => make("option", { textContent: name, value: i })));
  $("label").onchange = () => { label = +$("label").value; go(z); showSlots(); };
}
$("colour").append(...columns.map((c, i) => make("option", { textContent: c.name, value: i })));
$("colour").onchange = drawRows;
for (const [k, id] of ["across", "up"].entries()) {
  $(id).append(...directions.map((d, i) => make("option", { textContent: d.name, value: i, selected: i === k })));
  $(id).closest("label").hidden = directions.length < 3;
  $(id).onchange = () => { plane[k] = directions[$(id).value]; lay(); drawRows(); };
}
new ResizeObserver(drawRows).observe(scatter);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawCursor);

function compare() {  // this browser's decoder with PyTorch's answers, and its time
  const { arguments: places, answers, spans } = facts.reference;
  let most = 0;
  places.forEach((place, n) => decoder(...place.map((v) => Float64Array.from(v))).forEach((values, k) => {
    const right = unpack(answers[n][k], Float32Array);
    if (spans[k]) values.forEach((v, i) => { most = Math.max(most, Math.abs(v - right[i]) / spans[k]); });
  }));
  const begin = performance.now(), times = [];
  while (times.length < 4 || (times.length < 200 && performance.now() - begin < 300)) {
    const now = performance.now();
    decode(z);
    times.push(performance.now() - now);
  }
  // the first calls are slow: the browser has not compiled them yet
  const late = times.slice(times.length >> 1).sort((a, b) => a - b), each = late[late.length >> 1];
  Object.assign(document.body.dataset, { difference: most, milliseconds: each });
  $("check").textContent = `In this browser the decoder is within ${most.toExponential(1)} of PyTorch, as a share of the range of x, `
    + `at ${places.length} places, and takes ${each.toFixed(each < 10 ? 1 : 0)} ms. Densities in nats. `
    + (most < 1e-3 ? "" : "That is too far: do not trust what this page shows.");
}
lay();
drawRows();
if (owned && owned.data[0] !== 255) $("label").value = label = owned.data[0];
show();
setTimeout(compare, 400);
if (sheet && sheet.decode) sheet.decode().then(() => showNearest(near(z, NEAREST)), () => 0);
showSlots();
