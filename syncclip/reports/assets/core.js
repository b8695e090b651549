// Shared by all figures: DOM nodes, scales, number formats, tooltip, controls and figure frame.
// Six kinds of SVG marks need less code than the settings of a chart library.

const payload = JSON.parse(document.getElementById("payload").textContent);
const NS = "http://www.w3.org/2000/svg";
const MINUS = "−";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}
const html = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(NS, name), attributes, children);

// ---- numbers -------------------------------------------------------------------------------------------------------

const known = (value) => typeof value === "number" && Number.isFinite(value);
const fixed = (value, digits = 1) => (known(value) ? (Number(value.toFixed(digits)) + 0).toFixed(digits).replace("-", MINUS) : "–");
const signed = (value, digits = 1) => (known(value) ? (Number(value.toFixed(digits)) > 0 ? "+" : "") + fixed(value, digits) : "–");
const spread = (low, high) => (known(low) && known(high) ? `${signed(low)} to ${signed(high)}` : "–");
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

// ---- scales --------------------------------------------------------------------------------------------------------

function linear([from, to], [start, end]) {
  const scale = (value) => start + ((value - from) / (to - from || 1)) * (end - start);
  scale.invert = (place) => from + ((place - start) / (end - start || 1)) * (to - from);
  return scale;
}
function logarithmic([from, to], range) {
  const inner = linear([Math.log(from), Math.log(to)], range);
  const scale = (value) => inner(Math.log(value));
  scale.invert = (place) => Math.exp(inner.invert(place));
  return scale;
}
/** Round numbers between low and high, about `count` of them. */
function ticks(low, high, count = 5) {
  const raw = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const values = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) values.push(+(at * step).toFixed(6));
  return values;
}
/** Spread labels ({y}) so that neighbours keep `gap` pixels, inside [top, bottom]. */
function settle(labels, gap, top, bottom) {
  labels.sort((a, b) => a.y - b.y);
  labels.forEach((label, i) => { label.y = Math.max(label.y, i ? labels[i - 1].y + gap : top); });
  for (let i = labels.length - 1, limit = bottom; i >= 0; i -= 1, limit -= gap) labels[i].y = Math.min(labels[i].y, limit);
  return labels;
}

// ---- configurations ------------------------------------------------------------------------------------------------

const configurations = new Map((payload.configurations || []).map((configuration) => [configuration.id, configuration]));
/** Colour of a configuration: its number is set in configurations.py, the colour in palette.css. */
const tone = (configuration) => `var(--tone-${configuration.tone})`;

/** Marker of a configuration; shapes differ, so that colour is never the only difference. */
function shape(name, x, y, size, attributes = {}) {
  const r = size;
  const paths = {
    square: `M${x - r * 0.88},${y - r * 0.88}h${r * 1.76}v${r * 1.76}h${-r * 1.76}z`,
    triangle: `M${x},${y - r * 1.15}l${r * 1.15},${r * 2}h${-r * 2.3}z`,
    diamond: `M${x},${y - r * 1.3}l${r * 1.3},${r * 1.3}l${-r * 1.3},${r * 1.3}l${-r * 1.3},${-r * 1.3}z`,
  };
  return paths[name] ? svg("path", { d: paths[name], ...attributes }) : svg("circle", { cx: x, cy: y, r, ...attributes });
}
const swatch = (configuration) =>
  svg("svg", { width: 14, height: 14, "aria-hidden": "true", class: "swatch" }, shape(configuration.shape, 7, 7, 5, { fill: tone(configuration) }));

// ---- tooltip -------------------------------------------------------------------------------------------------------

const tip = html("div", { class: "tip", role: "status", hidden: "" });
document.body.append(tip);

/** `gap`: pixels to keep free on both sides of the position. */
function showTip(clientX, clientY, gap, ...content) {
  tip.replaceChildren(...content);
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const room = document.documentElement.clientWidth;
  const left = clientX + gap + width < room ? clientX + gap : clientX - gap - width;
  tip.style.left = `${Math.min(Math.max(8, left), Math.max(8, room - width - 8))}px`;
  tip.style.top = `${Math.max(8, clientY - height - 14)}px`;
}
function hideTip() { tip.hidden = true; }
window.addEventListener("scroll", hideTip, { passive: true });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
document.addEventListener("pointerdown", (event) => { if (!event.target.closest(".plot")) hideTip(); });

const tipTitle = (text) => html("strong", {}, text);
const tipRow = (mark, name, value) => html("div", { class: "tip-row" }, mark, html("span", {}, name), html("b", {}, value));

// ---- controls ------------------------------------------------------------------------------------------------------

// The URL fragment holds the state of all controls, as #section&figure.control=value, so a link restores it.
const fragment = () => location.hash.slice(1).split("&");
const address = new URLSearchParams(fragment().filter((pair) => pair.includes("=")).join("&"));
const section = () => (fragment()[0].includes("=") ? "" : fragment()[0]);
/** Initial value of a control: from the URL if it is one of the options, otherwise the first. */
const initialValue = (key, options, first) => (options.some(([value]) => String(value) === address.get(key)) ? address.get(key) : first);
function keep(key, value, standard) {
  if (String(value) === (address.get(key) ?? String(standard))) return;
  if (String(value) === String(standard)) address.delete(key); else address.set(key, String(value));
  locate();
}
function locate() {
  history.replaceState(null, "", `#${section()}${String(address) && `&${address}`}`);
}
window.addEventListener("hashchange", () => { if (String(address)) locate(); });
/** Figure that owns the controls being created. */
let owner = "page";

/** Row of exclusive options with arrow-key navigation. The URL omits the value `standard`. */
function choice(label, options, first, changed, standard = first) {
  const key = `${owner}.${label}`;
  const initial = initialValue(key, options, first);
  const chosen = (value) => { keep(key, value, standard); changed(value); };
  if (initial !== first) changed(initial);
  const group = html("div", { class: "choice", role: "radiogroup", "aria-label": label });
  const select = (value) => {
    for (const button of group.children) {
      const on = button.dataset.value === String(value);
      button.setAttribute("aria-checked", on);
      button.tabIndex = on ? 0 : -1;
    }
  };
  for (const [value, text] of options) {
    group.append(html("button", { type: "button", role: "radio", "data-value": value,
      onclick: () => { select(value); chosen(value); } }, text));
  }
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const buttons = [...group.children];
    const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  });
  select(initial);
  return group;
}
function dropdown(label, options, first, changed) {
  const key = `${owner}.${label}`;
  const initial = initialValue(key, options, first);
  if (initial !== first) changed(initial);
  const list = html("select", { "aria-label": label, onchange: (event) => { keep(key, event.target.value, first); changed(event.target.value); } },
    ...options.map(([value, text]) => html("option", { value }, text)));
  list.value = initial;
  return list;
}

/** Two controls that select a metric: candidate classes and score. `ready(metric)`: whether it is available. */
const PROTOCOLS = {
  within_split: [["hm", "Harmonic mean"], ["base", "Base"], ["novel", "Novel"]],
  all_classes: [["all_classes_hm", "Harmonic mean"], ["all_classes_base", "Base"], ["all_classes_novel", "Novel"], ["all_classes_accuracy", "Accuracy"], ["openworld_auc", "OpenworldAUC"]],
};
const PROTOCOL_NAMES = [["within_split", "Within split"], ["all_classes", "All classes"]];
/** Candidate classes with which all figures open: those of the headline's metric, if available. */
const standardProtocol = (protocols) => (protocols.find(([protocol]) => PROTOCOLS[protocol].some(([metric]) => metric === payload.metric)) || protocols[0] || ["within_split"])[0];
/** The controls open with the metric of the headline, if it is available. */
function metricControls(container, ready, changed) {
  const [figure, candidates, score] = [owner, "Candidate classes", "Score"];
  const offered = (protocol) => PROTOCOLS[protocol].filter(([metric]) => ready(metric));
  const scoreOf = (metric) => String(metric).replace("all_classes_", "");
  const select = (options, metric) => (options.find(([each]) => scoreOf(each) === scoreOf(metric)) || options[0] || ["hm"])[0];
  const standardIn = (options) => select(options, payload.metric || "hm");
  const protocols = PROTOCOL_NAMES.filter(([protocol]) => offered(protocol).length);
  const standard = standardProtocol(protocols);
  const state = { protocol: initialValue(`${figure}.${candidates}`, protocols, standard) };
  state.metric = initialValue(`${figure}.${score}`, offered(state.protocol), standardIn(offered(state.protocol)));
  const redraw = () => {
    const options = offered(state.protocol);
    state.metric = select(options, state.metric);
    owner = figure;
    if (options.length) keep(`${figure}.${score}`, state.metric, standardIn(options));
    container.replaceChildren();
    if (protocols.length > 1) container.append(choice(candidates, protocols, state.protocol, (value) => { state.protocol = value; redraw(); changed(); }, standard));
    if (options.length) container.append(choice(score, options, state.metric, (value) => { state.metric = value; changed(); }, standardIn(options)));
  };
  redraw();
  return state;
}
const METRIC_NAMES = { hm: "Harmonic mean", base: "Base classes", novel: "Novel classes", accuracy: "All test images", openworld_auc: "OpenworldAUC" };
const metricName = (key) => METRIC_NAMES[key.replace("all_classes_", "")] + (key.startsWith("all_classes_") ? ", all classes as candidates" : "");

// ---- figures -------------------------------------------------------------------------------------------------------

/** The numbers of a figure as a table below it. */
function numbers(root, head, rows) {
  const container = root.querySelector("[data-numbers]");
  if (!container) return;
  container.replaceChildren(html("table", {},
    html("thead", {}, html("tr", {}, ...head.map((text) => html("th", { scope: "col" }, text)))),
    html("tbody", {}, ...rows.map((row) => html("tr", {}, ...row.map((cell, i) => html(i ? "td" : "th", i ? {} : { scope: "row" }, String(cell))))))));
}

/**
 * Set up a figure. `build(part)` creates the controls once and returns `draw(width)`, which fills `part.plot` and returns
 * the number of data marks (data-drawn). A change of the width redraws the figure.
 */
function figure(name, build) {
  const root = document.querySelector(`[data-figure="${name}"]`);
  if (!root) return;
  const plot = root.querySelector("[data-plot]");
  const title = root.querySelector("[data-title]").textContent;
  const part = { root, plot, title, controls: root.querySelector("[data-controls]"), redraw: () => {} };
  try {
    owner = name;
    const draw = build(part);
    let width = 0;
    part.draw = (across) => draw(across);
    part.redraw = () => {
      hideTip();
      plot.replaceChildren();
      root.dataset.drawn = draw(width);
    };
    const measure = () => {
      if (!plot.clientWidth || plot.clientWidth === width) return;
      width = plot.clientWidth;
      part.redraw();
    };
    measure();
    new ResizeObserver(measure).observe(plot);
    offer(name, part);
  } catch (error) {
    plot.replaceChildren(html("p", { class: "quiet" }, "This figure can't be drawn."));
    console.error(`figure ${name}:`, error);
  }
}
const canvas = (part, width, height, description, focusable = false) => {
  const image = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `${part.title}. ${description}`, tabindex: focusable ? 0 : undefined });
  part.plot.append(image);
  return image;
};
const text = (x, y, content, attributes = {}) => svg("text", { x, y, ...attributes }, content);
/** Width of the longest label in pixels, with a margin in case the page's font is not loaded yet. */
const widest = (part, labels) => {
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = `600 14px ${getComputedStyle(part.root).fontFamily}`;
  return Math.ceil(Math.max(0, ...labels.map((label) => pen.measureText(label).width)) * 1.04) + 6;
};
const line = (x1, y1, x2, y2, attributes = {}) => svg("line", { x1, y1, x2, y2, ...attributes });
/** Error bar with caps. */
const whisker = (x1, y1, x2, y2, foot, colour) => {
  const [dx, dy] = x1 === x2 ? [foot, 0] : [0, foot];
  return svg("path", { d: `M${x1},${y1}L${x2},${y2}M${x1 - dx},${y1 - dy}L${x1 + dx},${y1 + dy}M${x2 - dx},${y2 - dy}L${x2 + dx},${y2 + dy}`,
    stroke: colour, class: "whisker" });
};
