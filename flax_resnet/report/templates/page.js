// The parts of a run's page: curves, confusion matrix and its photos, calibration, confidence.

if (byId("curves")) curvesPanel(byId("curves"), [{ name: data.name, entries: data.history }]);

const photosByCell = new Map();
for (const photo of data.photos || []) {
  const key = `${photo.t},${photo.top[0][0]}`;
  photosByCell.set(key, [...(photosByCell.get(key) || []), photo]);
}

// The matrix: rows are true classes, columns predicted ones.
const cells = new Map((data.cells || []).map(([t, p, count]) => [`${t},${p}`, count]));
const totals = new Map();
for (const [t, , count] of data.cells || []) totals.set(t, (totals.get(t) || 0) + count);

function showCell(t, p) {
  const count = cells.get(`${t},${p}`) || 0, photos = photosByCell.get(`${t},${p}`) || [];
  const panel = byId("cell-photos");
  const kept = photos.length < count
    ? ` This page has pictures of ${thousands(photos.length)} of them.` : "";
  panel.replaceChildren(
    element("h3", {}, text(nameOf(t)), t === p ? " predicted as such" : " predicted as ",
      t === p ? "" : text(nameOf(p)), `: ${thousands(count)} ${count === 1 ? "image" : "images"}`),
    element("p", { class: "note" },
      `${percent(count / Math.max(totals.get(t) || 0, 1))} of the images of this class.${count ? kept : ""}`),
    photoGrid(photos));
  document.querySelectorAll(".matrix button").forEach((button) => button.setAttribute(
    "aria-pressed", button.dataset.t === String(t) && button.dataset.p === String(p)));
}

function tipOfCell(event, t, p) {
  const count = cells.get(`${t},${p}`) || 0;
  showTip(event, ["true: ", text(nameOf(t))], ["predicted: ", text(nameOf(p))],
    `${thousands(count)} of ${thousands(totals.get(t) || 0)} images (${percent(count / Math.max(totals.get(t) || 0, 1))})`);
}

// Small counts of mistakes must be visible: their colour grows with the square root.
const strength = (t, p, count) => {
  const fraction = count / Math.max(totals.get(t) || 0, 1);
  return t === p ? .12 + .78 * fraction : count ? .08 + .85 * Math.sqrt(fraction) : 0;
};

function smallMatrix(holder, size) {
  const width = holder.clientWidth || 320;
  const longest = Math.max(...data.classes.map((name) => name.length));
  const names = Math.min(width < 500 ? 84 : 150, 20 + 7.5 * longest);
  const cell = Math.max(18, Math.min(54, Math.floor((width - names) / size) - 2));
  const grid = element("div", { class: "matrix", style:
    `--cell:${cell}px;--names:${names}px;grid-template-columns:${names}px repeat(${size},${cell}px)` });
  // All counts are written, or none: an empty cell must mean zero where others have a number.
  const digits = Math.max(1, ...[...cells.values()].map((count) => thousands(count).length));
  const fits = cell >= 4 + 7 * digits;
  grid.append(element("span", { class: "name axis" }, "true ╲ predicted"));
  for (let p = 0; p < size; p++)
    grid.append(element("span", { class: "name top", title: nameOf(p) }, text(nameOf(p))));
  for (let t = 0; t < size; t++) {
    grid.append(element("span", { class: "name", title: nameOf(t) }, text(nameOf(t))));
    for (let p = 0; p < size; p++) {
      const count = cells.get(`${t},${p}`) || 0, amount = strength(t, p, count);
      const color = t === p ? "--hit" : "--miss";
      const shown = count && fits ? thousands(count) : "";
      grid.append(element("button", { "data-t": t, "data-p": p,
        "aria-label": `true ${nameOf(t)}, predicted ${nameOf(p)}: ${count}`,
        style: `background:color-mix(in srgb, var(${color}) ${(100 * amount).toFixed(1)}%, var(--chip));`
          + (amount > .5 ? "color:#fff" : "") + (cell < 34 ? ";font-size:11px" : ""),
        onclick: () => showCell(t, p), onpointermove: (event) => tipOfCell(event, t, p),
        onpointerleave: hideTip }, shown));
    }
  }
  holder.replaceChildren(element("div", { class: "scroll" }, grid));
}

function largeMatrix(holder, size) {
  const canvas = element("canvas", { role: "img", "aria-label": "confusion matrix" });
  holder.replaceChildren(canvas);
  const draw = () => {
    const side = Math.min(holder.clientWidth || 320, 760) * (devicePixelRatio || 1);
    canvas.width = canvas.height = Math.round(side);
    const context = canvas.getContext("2d");
    const step = canvas.width / size, dot = Math.max(step, 2.2 * (devicePixelRatio || 1));
    context.clearRect(0, 0, canvas.width, canvas.height);
    const probe = element("span", { style: "color:var(--hit)" });
    holder.append(probe);
    const colors = ["--hit", "--miss"].map((name) => {
      probe.style.color = `var(${name})`;
      return getComputedStyle(probe).color;
    });
    probe.remove();
    for (const [t, p, count] of data.cells) {
      context.globalAlpha = Math.min(1, .15 + strength(t, p, count));
      context.fillStyle = colors[t === p ? 0 : 1];
      context.fillRect(p * step - (dot - step) / 2, t * step - (dot - step) / 2, dot, dot);
    }
  };
  // The nearest cell that has images, within a few pixels.
  const cellAt = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * size - .5;
    const y = (event.clientY - box.top) / box.height * size - .5;
    const reach = 6 * size / box.width;
    let best = null, least = Math.max(reach, .71);
    for (const [t, p] of data.cells) {
      const distance = Math.hypot(t - y, p - x);
      if (distance <= least) { least = distance; best = [t, p]; }
    }
    return best;
  };
  canvas.style.maxWidth = "760px";
  canvas.addEventListener("pointermove", (event) => {
    const cell = cellAt(event);
    if (cell) tipOfCell(event, ...cell); else hideTip();
  });
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("click", (event) => {
    const cell = cellAt(event);
    if (cell) showCell(...cell);
  });
  document.addEventListener("themechange", draw);
  new ResizeObserver(draw).observe(holder);
  draw();
}

if (byId("confusion")) {
  const size = data.classes.length;
  const draw = () => (size <= 40 ? smallMatrix : largeMatrix)(byId("confusion"), size);
  draw();
  if (size <= 40) {
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
  }
  const first = (data.pairs || [])[0];
  if (first) showCell(first[0], first[1]);
}
document.querySelectorAll("tr.link").forEach((row) => row.addEventListener("click", () => {
  showCell(Number(row.dataset.t), Number(row.dataset.p));
  byId("cell-photos").scrollIntoView({ block: "center" });
}));

for (const name of ["mistakes", "hits"])
  if (byId(name)) byId(name).append(photoGrid(data[name].map((index) => data.photos[index])));
if (byId("heat")) byId("heat").addEventListener("change", (event) =>
  document.body.classList.toggle("heated", event.target.checked));

// Calibration: the diagram at the temperature of the slider.
function reliabilityDiagram(holder, bins) {
  const [counts, confidences, hits] = bins, size = counts.length;
  const most = Math.max(...counts);
  const width = Math.max(Math.min(holder.clientWidth, 460), 240), height = width * .86, left = 46;
  const plot = width - left - 10, tall = height - 78, strip = 34;
  const x = (value) => left + value * plot, y = (value) => 6 + (1 - value) * tall;
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, style: "max-width:460px",
    role: "img", "aria-label": "reliability diagram" });
  for (const value of [0, .25, .5, .75, 1]) {
    svg.append(element("line", { x1: left, x2: left + plot, y1: y(value), y2: y(value),
      stroke: "var(--line)" }), element("text", { x: left - 6, y: y(value) + 4,
      "text-anchor": "end" }, percent(value, 0)), element("text", { x: x(value), y: height - 16,
      "text-anchor": "middle" }, percent(value, 0)));
  }
  for (let n = 0; n < size; n++) {
    if (!counts[n]) continue;
    const accuracy = hits[n] / counts[n], confidence = confidences[n] / counts[n];
    const wide = plot / size - 2, start = x(n / size) + 1;
    const share = counts[n] / most * strip;
    const group = element("g", { onpointermove: (event) => showTip(event,
      `confidence ${percent(confidence)}`, `accuracy ${percent(accuracy)}`,
      `${thousands(counts[n])} images`), onpointerleave: hideTip },
    element("rect", { x: start, y: y(accuracy), width: wide, height: y(0) - y(accuracy),
      fill: "var(--hit)", opacity: .75 }),
    element("rect", { x: start, y: y(Math.max(accuracy, confidence)), width: wide,
      height: Math.abs(y(accuracy) - y(confidence)), fill: "var(--miss)", opacity: .55 }),
    element("rect", { x: start, y: height - 32 - share, width: wide, height: share,
      fill: "var(--train)" }));
    svg.append(group);
  }
  svg.append(element("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), stroke: "var(--ink)",
    "stroke-dasharray": "4 3" }));
  svg.append(element("text", { x: left + plot, y: height - 2, "text-anchor": "end" },
    "confidence; grey: number of images"));
  holder.replaceChildren(svg);
}

function calibrationError(bins) {
  const total = bins[0].reduce((a, b) => a + b, 0);
  return bins[0].reduce((sum, _, n) => sum + Math.abs(bins[2][n] - bins[1][n]), 0) / total;
}

if (byId("temperature")) {
  const { temperatures, bins, losses, fitted } = data.reliability, slider = byId("temperature");
  const nearest = temperatures.reduce((best, one, n) =>
    Math.abs(Math.log(one / fitted)) < Math.abs(Math.log(temperatures[best] / fitted)) ? n : best, 0);
  slider.max = temperatures.length - 1;
  slider.value = (temperatures.length - 1) / 2;
  const draw = () => {
    const n = Number(slider.value);
    byId("temperature-text").textContent = `Temperature ${temperatures[n].toFixed(2)}: expected `
      + `calibration error ${percent(calibrationError(bins[n]), 2)}, loss ${losses[n].toFixed(4)}`;
    reliabilityDiagram(byId("reliability"), bins[n]);
  };
  slider.addEventListener("input", draw);
  byId("fitted").addEventListener("click", () => { slider.value = nearest; draw(); });
  byId("as-trained").addEventListener("click", () => {
    slider.value = (temperatures.length - 1) / 2; draw(); });
  new ResizeObserver(draw).observe(byId("reliability").parentElement);
}

// Confidence: how many images stay above a threshold, and how many of these are right.
if (byId("threshold")) {
  const { counts, hits } = data.confidence, size = counts.length, slider = byId("threshold");
  const kept = new Array(size + 1).fill(0), right = new Array(size + 1).fill(0);
  for (let n = size - 1; n >= 0; n--) {
    kept[n] = kept[n + 1] + counts[n];
    right[n] = right[n + 1] + hits[n];
  }
  const points = (of) => kept.map((_, n) => [n / size, of(n)]).filter(([, y]) => y !== null);
  const series = [
    { name: "correct of those kept", color: "var(--good)",
      points: points((n) => (kept[n] ? right[n] / kept[n] : null)) },
    { name: "kept of all", color: "var(--accent)", points: points((n) => kept[n] / kept[0]) },
  ];
  slider.max = size;
  slider.value = size / 2;
  const options = { yMin: 0, yMax: 1, yFormat: (y) => percent(y, 0), yTip: (y) => percent(y),
    xFormat: (x) => percent(x, 0), xLabel: "confidence at least", label: "precision and coverage" };
  const chart = lineChart(byId("coverage"), series, options);
  byId("coverage").after(element("div", { class: "legend" }, ...series.map((one) =>
    element("span", {}, swatch(one.color), one.name))));
  const draw = () => {
    const n = Number(slider.value);
    const precision = kept[n] ? `${percent(right[n] / kept[n])} of them correct` : "none";
    byId("threshold-text").textContent = `At ${percent(n / size, 0)} and more: `
      + `${thousands(kept[n])} of ${thousands(kept[0])} images (${percent(kept[n] / kept[0])}), `
      + `${precision}; ${thousands(kept[0] - kept[n])} are left to a person.`;
    options.mark = n / size;
    chart.redraw();
  };
  slider.addEventListener("input", draw);
  draw();
}

// Class table: a click on a row shows the class in the matrix; the field filters by name.
if (byId("filter")) byId("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of byId("classes-table").tBodies[0].rows)
    row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
});
