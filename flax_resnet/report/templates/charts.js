"use strict";
// Elements, charts and photos that a run's page and a comparison share. All text is set as text.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const percent = (value, digits = 1) => (100 * value).toFixed(digits) + "%";
const thousands = (value) => value.toLocaleString("en-US");

function element(tag, attributes = {}, ...children) {
  const isSvg = ["svg", "g", "path", "line", "rect", "circle", "text"].includes(tag);
  const made = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false)
      made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

const tip = element("div", { class: "tip", hidden: "" });
document.body.append(tip);

function showTip(event, ...lines) {
  tip.replaceChildren(...lines.map((line) => element("div", {}, ...[line].flat())));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(event.clientX + 14, innerWidth - box.width - 8);
  const top = event.clientY + 16 + box.height > innerHeight
    ? event.clientY - box.height - 12 : event.clientY + 16;
  tip.style.left = Math.max(8, left) + "px";
  tip.style.top = Math.max(8, top) + "px";
}
const hideTip = () => { tip.hidden = true; };

const swatch = (color) => element("i", { style: "background:" + color });

// Numbers at equal, round distances that lie in an interval.
function ticks(low, high, count, whole = false) {
  const raw = Math.max((high - low) / count || 1, whole ? 1 : 0);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, whole ? 2 : 2.5, 5, 10].map((one) => one * power).find((one) => one >= raw * .999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++)
    found.push(n * step);
  return found;
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e4) return thousands(Math.round(value));
  if (size && size < 1e-3) return value.toExponential(1);
  return String(+value.toPrecision(4));
}

// Draws lines into a holder and again when its width changes. A mouse shows values and drags to
// zoom in; a double click, or the button that calls reset(), shows all.
//   series: [{name, color, points: [[x, y], ...], dash}], by x
//   options: {yFormat, xFormat, xLabel, height, yMin, yMax, mark, onZoom}
function lineChart(holder, series, options) {
  const height = options.height || 260;
  const margin = { left: 54, right: 14, top: 10, bottom: 34 };
  let range = null, dragged = null;
  const format = options.yFormat || short, formatX = options.xFormat || short;
  const all = series.flatMap((one) => one.points);

  function draw() {
    const width = Math.max(holder.clientWidth, 240);
    const plotWidth = width - margin.left - margin.right;
    const plotHeight = height - margin.top - margin.bottom;
    const xs = all.map((point) => point[0]);
    let [low, high] = range || [xs.reduce((a, b) => Math.min(a, b), Infinity),
      xs.reduce((a, b) => Math.max(a, b), -Infinity)];
    if (!(high > low)) [low, high] = [low - .5, high + .5];
    const inside = all.filter(([x]) => x >= low && x <= high).map((point) => point[1]);
    let bottom = options.yMin ?? inside.reduce((a, b) => Math.min(a, b), Infinity);
    let top = options.yMax ?? inside.reduce((a, b) => Math.max(a, b), -Infinity);
    if (!inside.length && options.yMin === undefined) [bottom, top] = [0, 1];
    if (!(top > bottom)) [bottom, top] = [bottom - Math.abs(bottom) * .1 - 1e-9, top + Math.abs(top) * .1 + 1e-9];
    const pad = options.yMin === undefined ? (top - bottom) * .05 : 0;
    bottom -= pad; top += pad;
    const toX = (x) => margin.left + (x - low) / (high - low) * plotWidth;
    const toY = (y) => margin.top + (top - y) / (top - bottom) * plotHeight;
    const fromX = (x) => low + (x - margin.left) / plotWidth * (high - low);

    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, height,
      style: "touch-action:pan-y;cursor:crosshair", role: "img",
      "aria-label": options.label || "chart" });
    for (const y of ticks(bottom, top, 5)) {
      svg.append(element("line", { x1: margin.left, x2: width - margin.right, y1: toY(y),
        y2: toY(y), stroke: "var(--line)" }));
      svg.append(element("text", { x: margin.left - 8, y: toY(y) + 4, "text-anchor": "end" },
        format(y)));
    }
    for (const x of ticks(low, high, Math.max(2, Math.floor(plotWidth / 90)), options.xWhole))
      svg.append(element("text", { x: toX(x), y: height - 16, "text-anchor": "middle" },
        formatX(x)));
    if (options.xLabel) svg.append(element("text",
      { x: width - margin.right, y: height - 2, "text-anchor": "end" }, options.xLabel));
    for (const one of series) {
      const points = one.points.filter(([x]) => range === null || (x >= low && x <= high));
      const path = points.map(([x, y], n) =>
        `${n ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join("");
      svg.append(element("path", { d: path, fill: "none", stroke: one.color, "stroke-width": 2,
        "stroke-linejoin": "round", "stroke-dasharray": one.dash }));
      if (points.length < 25 && !options.mark) for (const [x, y] of points)
        svg.append(element("circle", { cx: toX(x), cy: toY(y), r: 3, fill: one.color }));
    }
    const cursor = element("line", { y1: margin.top, y2: height - margin.bottom,
      stroke: "var(--faint)", visibility: "hidden" });
    const zone = element("rect", { y: margin.top, height: plotHeight, fill: "var(--accent)",
      opacity: .15, visibility: "hidden" });
    svg.append(zone, cursor);
    if (options.mark !== undefined && options.mark !== null)
      svg.append(element("line", { x1: toX(options.mark), x2: toX(options.mark), y1: margin.top,
        y2: height - margin.bottom, stroke: "var(--ink)", "stroke-dasharray": "4 3" }));
    const place = (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) * width / box.width;
      return Math.min(Math.max(x, margin.left), width - margin.right);
    };
    svg.addEventListener("pointermove", (event) => {
      const at = place(event), x = fromX(at);
      if (dragged !== null) {
        zone.setAttribute("x", Math.min(at, dragged));
        zone.setAttribute("width", Math.abs(at - dragged));
        zone.setAttribute("visibility", "visible");
      }
      const nearest = series.map((one) => one.points.reduce((best, point) =>
        best === null || Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best, null));
      const first = nearest.filter(Boolean)
        .sort((a, b) => Math.abs(a[0] - x) - Math.abs(b[0] - x))[0];
      if (!first) return;
      cursor.setAttribute("x1", toX(first[0]));
      cursor.setAttribute("x2", toX(first[0]));
      cursor.setAttribute("visibility", "visible");
      showTip(event, `${options.xLabel || ""} ${formatX(first[0])}`, ...series.map((one, n) =>
        nearest[n] ? [swatch(one.color), `${one.name} ${(options.yTip || format)(nearest[n][1])}`]
          : []));
    });
    svg.addEventListener("pointerleave", () => {
      cursor.setAttribute("visibility", "hidden");
      zone.setAttribute("visibility", "hidden");
      dragged = null;
      hideTip();
    });
    svg.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse" && options.onZoom) { dragged = place(event); event.preventDefault(); }
    });
    svg.addEventListener("pointerup", (event) => {
      if (dragged === null) return;
      const ends = [dragged, place(event)].sort((a, b) => a - b);
      dragged = null;
      if (ends[1] - ends[0] > 8) zoom([fromX(ends[0]), fromX(ends[1])]);
      else zone.setAttribute("visibility", "hidden");
    });
    svg.addEventListener("dblclick", () => zoom(null));
    holder.replaceChildren(svg);
  }
  function zoom(to) {
    range = to;
    hideTip();
    draw();
    if (options.onZoom) options.onZoom(range !== null);
  }
  new ResizeObserver(() => { if (holder.clientWidth !== holder.drawnWidth) {
    holder.drawnWidth = holder.clientWidth; draw(); } }).observe(holder);
  draw();
  return { reset: () => zoom(null), redraw: draw };
}

const RUN_COLORS = ["#1f6feb", "#d1432f", "#2a9d5c", "#a35bd6", "#c98a12", "#0f9fb0", "#d6529b", "#7a8494"];
const METRICS = [
  ["Loss", ["train_loss", "val_loss"], short],
  ["Top-1 accuracy", ["train_top1", "val_top1"], percent],
  ["Top-5 accuracy", ["val_top5"], percent],
  ["Mean average precision", ["val_map"], percent],
  ["Learning rate", ["learning_rate"], short],
  ["Images per second", ["images_per_second"], short],
  ["Waiting for data", ["data_wait"], percent],
];
const AXES = { epoch: ["epoch", short], step: ["step", short], time: ["minutes", short] };

// The panel of learning curves: buttons for the metric and for the x axis, and the chart.
//   runs: [{name, entries: lines of history.jsonl}]
function curvesPanel(holder, runs) {
  const has = (key) => runs.some((run) => run.entries.some((entry) => entry[key]));
  // Of up to five classes top-5 is always 100%. A comparison names no classes.
  const trivial = data.classes.length && data.classes.length <= 5 ? "val_top5" : null;
  const metrics = METRICS.filter(([, keys]) => keys.some((key) => key !== trivial && has(key)));
  let metric = metrics[0], axis = "epoch";
  const buttons = element("div", { class: "bar" }), chart = element("div");
  const legend = element("div", { class: "legend" });
  const reset = element("button", { hidden: "", onclick: () => drawn.reset() }, "Show all");
  let drawn = null;
  const picker = element("select", { "aria-label": "x axis", onchange: () => {
    axis = picker.value; draw(); } }, ...Object.keys(AXES).map((name) =>
    element("option", { value: name }, name === "time" ? "by time" : "by " + name)));
  const choices = metrics.map((one) => element("button", { onclick: () => { metric = one; draw(); } },
    one[0]));
  buttons.append(...choices, picker, reset);
  holder.append(buttons, chart, legend);
  function draw() {
    choices.forEach((button, n) => button.setAttribute("aria-pressed", metrics[n] === metric));
    reset.hidden = true;
    const scale = axis === "time" ? 1 / 60 : 1;
    const series = runs.flatMap((run, n) => metric[1].filter(has).map((key) => {
      const isTrain = key.startsWith("train_"), single = runs.length === 1;
      const part = isTrain ? "training" : key.startsWith("val_") ? "validation" : "";
      return {
        name: (single ? part || metric[0].toLowerCase() : `${run.name} ${part}`).trim(),
        color: single ? (isTrain ? "var(--train)" : "var(--accent)")
          : RUN_COLORS[n % RUN_COLORS.length],
        dash: isTrain && !single ? "4 4" : null,
        points: run.entries.filter((entry) => entry[key] !== null && entry[key] !== undefined)
          .map((entry) => [entry[axis] * scale, entry[key]]),
      };
    })).filter((one) => one.points.length);
    legend.replaceChildren(...series.map((one) =>
      element("span", {}, swatch(one.color), one.name + (one.dash ? " (dashed)" : ""))));
    drawn = lineChart(chart, series, { yFormat: metric[2], xLabel: AXES[axis][0], xWhole: axis !== "time",
      yTip: metric[2] === percent ? (y) => percent(y, 2) : short, label: metric[0],
      onZoom: (zoomed) => { reset.hidden = !zoomed; } });
  }
  draw();
}

const nameOf = (index) => data.classes[index] ?? String(index);
const text = (value) => element("bdi", {}, value);

// One photo with the predicted and the true class; photo: see photos in page_data.py.
function photoFigure(photo) {
  const [best, probability] = photo.top[0], wrong = best !== photo.t;
  const image = element("img", { src: photo.src, alt: photo.n });
  image.addEventListener("load", () => image.classList.toggle("small", image.naturalWidth < 72));
  const rest = photo.top.map(([c, p]) => `${nameOf(c)} ${percent(p)}`);
  return element("figure", { class: wrong ? "wrong" : "", title: [photo.n, ...rest].join("\n") },
    element("div", { class: "frame" }, image,
      photo.heat ? element("img", { class: "heat", src: photo.heat, alt: "" }) : null),
    element("figcaption", {}, text(nameOf(best)), " " + percent(probability, 0),
      wrong ? element("span", {}, "is ", text(nameOf(photo.t)), " " + percent(photo.q, 0)) : null,
      element("span", { class: "file" }, photo.n)));
}
const photoGrid = (photos) => element("div", { class: "photos" }, ...photos.map(photoFigure));

// Lets the headings of a table sort its rows, by number where cells hold data-v.
function sortable(table) {
  const body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  };
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = element("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [value(row, column), row]);
      rows.sort(([a], [b]) => (typeof a === "number" ? a - b : a.localeCompare(b)) * (up ? 1 : -1));
      body.append(...rows.map(([, row]) => row));
    });
  });
}
document.querySelectorAll("table.sortable").forEach(sortable);

const theme = byId("theme");
theme.addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  document.dispatchEvent(new Event("themechange"));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change",
  () => document.dispatchEvent(new Event("themechange")));
