// 2-D feature projections of both domains before and after training, cost of the study, and training losses.

figure("map", (part) => {
  const stages = payload.map.stages;
  const domains = [["real", "var(--real)", "circle"], ["synthetic", "var(--made)", "diamond"]];
  let held = null;
  part.controls.append(html("div", { class: "legend" }, ...domains.map(([name, colour, mark]) => html("span", {}, svg("svg", { width: 14, height: 14, class: "swatch", "aria-hidden": "true" }, shape(mark, 7, 7, 4.5, { fill: colour })), name)),
    html("span", {}, svg("svg", { width: 26, height: 14, class: "swatch", "aria-hidden": "true" }, line(2, 7, 24, 7, { class: "gap-line" })), "distance between the domain means")));

  return (width) => {
    const side = width >= 640 && stages.length > 1;
    const size = side ? (width - 24) / stages.length : width;
    const height = Math.min(size, 470);
    let marks = 0;
    const layers = [];
    const panels = html("div", { class: "panels" });
    part.plot.append(panels);
    const highlight = (label) => {
      if (label === held) return;
      held = label;
      for (const { dots, ties } of layers) {
        dots.classList.toggle("focus", label !== null);
        for (const dot of dots.children) dot.classList.toggle("on", label !== null && Number(dot.dataset.label) === label);
        for (const tie of ties.children) tie.classList.toggle("on", Number(tie.dataset.label) === label);
      }
    };
    held = null;
    for (const stage of stages) {
      // Each map has its own scale, equal in both directions; feature spaces before and after training are not comparable.
      const [left, right, low, high] = [Math.min(...stage.x), Math.max(...stage.x), Math.min(...stage.y), Math.max(...stage.y)];
      const zoom = Math.min((size - 36) / (right - left || 1), (height - 36) / (high - low || 1));
      const x = (value) => size / 2 + (value - (left + right) / 2) * zoom;
      const y = (value) => height / 2 - (value - (low + high) / 2) * zoom;
      const middle = (rows) => [rows.reduce((sum, i) => sum + stage.x[i], 0) / rows.length, rows.reduce((sum, i) => sum + stage.y[i], 0) / rows.length];
      const indices = stage.x.map((_, i) => i);
      const panel = html("div", { class: "panel" }, html("h4", {}, stage.title, stage.number ? html("b", {}, stage.number) : null));
      const image = svg("svg", { width: size, height, viewBox: `0 0 ${size} ${height}`, role: "img", class: "map", "aria-label": `${stage.title}: ${indices.length} images of both domains${stage.number ? `, shift ${stage.number}` : ""}` });
      const [dots, ties] = [svg("g", { class: "dots" }), svg("g")];
      for (const i of indices) {
        const [, colour, mark] = domains[stage.domain[i]];
        dots.append(shape(mark, x(stage.x[i]), y(stage.y[i]), mark === "circle" ? 3 : 2.6, { fill: colour, "data-label": stage.label[i] }));
        marks += 1;
      }
      for (const label of new Set(stage.label)) {
        const [real, synthetic] = [0, 1].map((domain) => indices.filter((i) => stage.label[i] === label && stage.domain[i] === domain));
        if (!real.length || !synthetic.length) continue;
        const [[x1, y1], [x2, y2]] = [middle(real), middle(synthetic)];
        ties.append(svg("line", { x1: x(x1), y1: y(y1), x2: x(x2), y2: y(y2), class: "tie", "data-label": label }));
      }
      image.append(dots, ties);
      const centres = [0, 1].map((domain) => indices.filter((i) => stage.domain[i] === domain)).map((rows) => (rows.length ? middle(rows) : null));
      if (centres[0] && centres[1]) {
        const [[x1, y1], [x2, y2]] = centres;
        image.append(line(x(x1), y(y1), x(x2), y(y2), { class: "gap-line" }));
        centres.forEach(([cx, cy], domain) => image.append(shape(domains[domain][2], x(cx), y(cy), 8, { fill: domains[domain][1], class: "centre" })));
      }
      layers.push({ dots, ties });
      const look = (event) => {
        const frame = image.getBoundingClientRect();
        const [px, py] = [event.clientX - frame.left, event.clientY - frame.top];
        let [best, distance] = [-1, 900];
        for (const i of indices) {
          const d = (x(stage.x[i]) - px) ** 2 + (y(stage.y[i]) - py) ** 2;
          if (d < distance) [best, distance] = [i, d];
        }
        if (best < 0) { highlight(null); hideTip(); return; }
        highlight(stage.label[best]);
        showTip(event.clientX, event.clientY, 16, html("div", { class: "tip-head" }, firstThumb(stage.label[best]), html("div", {}, tipTitle(className(stage.label[best])), html("small", {}, domains[stage.domain[best]][0]))));
      };
      image.addEventListener("pointermove", look);
      image.addEventListener("pointerdown", look);
      image.addEventListener("pointerleave", () => { highlight(null); hideTip(); });
      panel.append(image);
      panels.append(panel);
    }
    numbers(part.root, ["measure", ...stages.map((stage) => stage.title)], payload.map.measures.map((measure) => [measure.label, ...measure.values]));
    return marks;
  };
});

/** Stacked bar with a legend of its parts. */
function cutBar(part, width, parts, unit, colours) {
  const total = parts.reduce((sum, entry) => sum + entry.value, 0) || 1;
  const image = svg("svg", { width, height: 30, viewBox: `0 0 ${width} 30`, role: "img", "aria-label": `${part.title}: ${parts.map((entry) => `${entry.name} ${entry.text}`).join(", ")}` });
  let at = 0;
  parts.forEach((entry, i) => {
    const wide = (entry.value / total) * width;
    const rect = svg("rect", { x: at, y: 2, width: Math.max(1.5, wide - 2), height: 26, rx: Math.min(4, wide / 3), fill: colours[i] });
    const show = (event) => showTip(event.clientX, event.clientY, 16, tipTitle(entry.name), tipRow(null, unit, entry.text), tipRow(null, "share", `${fixed((entry.value / total) * 100, 0)} %`));
    rect.addEventListener("pointermove", show);
    rect.addEventListener("pointerdown", show);
    rect.addEventListener("pointerleave", hideTip);
    image.append(rect);
    at += wide;
  });
  const legend = html("div", { class: "legend" }, ...parts.map((entry, i) => {
    const dot = html("i", { class: "dot" });
    dot.style.background = colours[i];
    return html("span", {}, dot, `${entry.name} `, html("b", {}, entry.text));
  }));
  part.plot.append(image, legend);
}

const COST_TONES = [1, 4, 2, 3, 5, 6, 7, 0].map((i) => `var(--tone-${i})`);
for (const [name, unit] of [["time", "time"], ["rejects", "images"]]) {
  figure(name, (part) => (width) => {
    const parts = payload.cost[name];
    cutBar(part, width, parts, unit, parts.map((entry) => `var(--${entry.colour})`));
    numbers(part.root, ["part", unit], parts.map((entry) => [entry.name, entry.text]));
    return parts.length;
  });
}

figure("history", (part) => {
  const terms = payload.history.terms;
  part.controls.append(html("div", { class: "legend" }, ...terms.map((term, i) => { const dot = html("i", { class: "dot" }); dot.style.background = COST_TONES[i % COST_TONES.length]; return html("span", {}, dot, term.name); })));
  return (width) => {
    const height = width < 640 ? 260 : 340;
    const area = { left: 44, right: width - 10, top: 12, bottom: height - 44 };
    const steps = payload.history.steps;
    const values = terms.flatMap((term) => term.values).filter(known);
    const x = linear([Math.min(...steps), Math.max(...steps)], [area.left, area.right]);
    const y = linear([Math.min(0, ...values), Math.max(...values) * 1.04], [area.bottom, area.top]);
    const image = canvas(part, width, height, terms.map((term) => `${term.name} ends at ${fixed(term.values.at(-1), 3)}`).join("; "));
    for (const value of ticks(y.invert(area.bottom), y.invert(area.top), 5)) image.append(line(area.left, y(value), area.right, y(value), { class: "grid" }), text(area.left - 8, y(value) + 4, String(value), { class: "tick", "text-anchor": "end" }));
    for (const value of ticks(steps[0], steps.at(-1), width < 640 ? 4 : 8).filter(Number.isInteger)) image.append(text(x(value), area.bottom + 20, String(value), { class: "tick", "text-anchor": "middle" }));
    image.append(line(area.left, area.bottom, area.right, area.bottom, { class: "axis" }), text((area.left + area.right) / 2, height - 6, "step", { class: "axis-title", "text-anchor": "middle" }));
    terms.forEach((term, i) => {
      const d = term.values.map((value, at) => (known(value) ? [x(steps[at]), y(value)] : null)).filter(Boolean).map(([px, py], at) => `${at ? "L" : "M"}${px.toFixed(1)},${py.toFixed(1)}`).join("");
      image.append(svg("path", { d, stroke: COST_TONES[i % COST_TONES.length], class: "fit" }));
    });
    const look = (event) => {
      const step = x.invert(event.clientX - image.getBoundingClientRect().left);
      const at = steps.reduce((best, value, i) => (Math.abs(value - step) < Math.abs(steps[best] - step) ? i : best), 0);
      showTip(event.clientX, event.clientY, 16, tipTitle(`step ${steps[at]}`), ...terms.map((term) => tipRow(null, term.name, fixed(term.values[at], 3))));
    };
    image.addEventListener("pointermove", look);
    image.addEventListener("pointerdown", look);
    image.addEventListener("pointerleave", hideTip);
    const picked = steps.length > 12 ? steps.map((_, i) => i).filter((i) => i % Math.ceil(steps.length / 12) === 0 || i === steps.length - 1) : steps.map((_, i) => i);
    numbers(part.root, ["step", ...terms.map((term) => term.name)], picked.map((i) => [steps[i], ...terms.map((term) => fixed(term.values[i], 4))]));
    return terms.length;
  };
});
