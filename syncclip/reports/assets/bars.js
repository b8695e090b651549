// Bars of base and novel accuracy for each configuration, and paired differences with their intervals.

const HATCH = "novel-hatch";
/** Striped fill: novel classes in every figure. */
const hatch = (id, colour) => svg("pattern", { id, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
  svg("rect", { width: 5, height: 5, fill: colour, opacity: 0.28 }), svg("rect", { width: 2.2, height: 5, fill: colour }));

figure("bars", (part) => {
  const state = { protocol: "within_split", amount: null };
  const pairs = { within_split: ["base", "novel", "hm"], all_classes: ["all_classes_base", "all_classes_novel", "all_classes_hm"] };
  const series = (configuration, metric) => ((payload.points[configuration.id] || {})[metric] || []);
  const ready = PROTOCOL_NAMES.filter(([protocol]) => [...configurations.values()].some((configuration) => series(configuration, pairs[protocol][0]).length));
  const amounts = [...new Set([...configurations.values()].flatMap((configuration) => series(configuration, "base").map((point) => point.n)))].filter((n) => n > 0).sort((a, b) => a - b);
  state.protocol = standardProtocol(ready);
  state.amount = amounts.at(-1) || 0;
  const row = html("div", { class: "control-row" });
  if (ready.length > 1) row.append(choice("Candidate classes", ready, state.protocol, (value) => { state.protocol = value; part.redraw(); }));
  if (amounts.length > 1) row.append(html("span", { class: "labelled" }, "images per class", choice("Synthetic images per class", amounts.map((n) => [n, String(n)]), state.amount, (value) => { state.amount = Number(value); part.redraw(); })));
  part.controls.append(row);

  return (width) => {
    const narrow = width < 640;
    const pick = (configuration, metric) => series(configuration, metric).find((point) => point.n === state.amount || point.n === 0);
    const [base, novel, mean] = pairs[state.protocol];
    const shown = [...configurations.values()].filter((configuration) => pick(configuration, base));
    const [left, right] = narrow ? [0, width - 46] : [widest(part, shown.map((configuration) => configuration.label)) + 14, width - 112];
    const [thick, gap] = narrow ? [15, 3] : [17, 4];
    const head = narrow ? 24 : 6;
    const step = head + 2 * thick + gap + (narrow ? 12 : 20);
    const top = 8;
    const height = top + shown.length * step + 30;
    const values = shown.flatMap((configuration) => [base, novel].map((metric) => { const point = pick(configuration, metric); return point ? point.mean + (point.se || 0) : 0; }));
    const ceiling = Math.min(100, Math.ceil(Math.max(10, ...values) / 10) * 10);
    const x = linear([0, ceiling], [left, right]);
    const zeroShot = shown.find((configuration) => configuration.method === "zeroshot");
    const image = canvas(part, width, height, shown.map((configuration) => `${configuration.label}: base ${fixed(pick(configuration, base).mean)}, novel ${fixed((pick(configuration, novel) || {}).mean)} per cent`).join("; "));
    const defs = svg("defs");
    image.append(defs);
    for (const value of ticks(0, ceiling, narrow ? 4 : 6)) {
      image.append(line(x(value), top, x(value), height - 26, { class: "grid" }), text(x(value), height - 8, String(value), { class: "tick", "text-anchor": value ? "middle" : "start" }));
    }
    let marks = 0;
    shown.forEach((configuration, i) => {
      const y = top + i * step;
      const colour = tone(configuration);
      defs.append(hatch(`${HATCH}-${i}`, colour));
      if (narrow) image.append(text(0, y + 15, configuration.label, { class: "label strong" }));
      else image.append(text(left - 14, y + head + thick + gap / 2 + 4, configuration.label, { class: "label strong", "text-anchor": "end" }));
      [base, novel].forEach((metric, split) => {
        const point = pick(configuration, metric);
        if (!point) return;
        const at = y + head + split * (thick + gap);
        const group = svg("g", { class: "bar" });
        group.append(svg("rect", { x: x(0), y: at, width: Math.max(1, x(point.mean) - x(0)), height: thick, rx: 3, fill: split ? `url(#${HATCH}-${i})` : colour }));
        const reference = zeroShot && zeroShot !== configuration && pick(zeroShot, metric);
        if (reference) group.append(line(x(reference.mean), at - 2, x(reference.mean), at + thick + 2, { class: "zero-mark" }));
        if (point.se) group.append(whisker(x(point.mean - point.se), at + thick / 2, x(point.mean + point.se), at + thick / 2, 4, "var(--ink)"));
        group.append(text(x(point.mean + (point.se || 0)) + 7, at + thick / 2 + 4.5, fixed(point.mean), { class: "value" }));
        const show = (event) => showTip(event.clientX, event.clientY, 16, tipTitle(configuration.label),
          tipRow(null, split ? "novel classes" : "base classes", `${fixed(point.mean)} %`),
          point.se ? tipRow(null, "standard error", fixed(point.se)) : null,
          point.seeds.length > 1 ? tipRow(null, "seeds", point.seeds.map((seed) => fixed(seed)).join(" · ")) : null,
          reference ? tipRow(null, "over zero-shot", signed(point.mean - reference.mean)) : null);
        group.addEventListener("pointermove", show);
        group.addEventListener("pointerdown", show);
        group.addEventListener("pointerleave", hideTip);
        image.append(group);
        marks += 1;
      });
      const both = pick(configuration, mean);
      if (both && !narrow) image.append(text(width - 4, y + head + thick + gap / 2 + 5, `HM ${fixed(both.mean)}`, { class: "label", "text-anchor": "end" }));
    });
    const cell = (point) => (point ? `${fixed(point.mean)}${point.se ? ` ± ${fixed(point.se)}` : ""}` : "");
    numbers(part.root, ["method", "base", "novel", "harmonic mean", "seeds"], shown.map((configuration) => [configuration.label, cell(pick(configuration, base)), cell(pick(configuration, novel)), cell(pick(configuration, mean)), pick(configuration, base).seeds.length || 1]));
    return marks;
  };
});

figure("differences", (part) => {
  const ready = (metric) => payload.comparisons.some((entry) => entry.metric === metric);
  const bar = html("div", { class: "control-row" });
  part.controls.append(bar);
  const state = metricControls(bar, ready, () => part.redraw());
  /** Labels of both sides; a configuration may be compared with itself at a different number of images. */
  const sides = (entry, form) => (entry.configuration === entry.baseline
    ? [`${configurations.get(entry.configuration)[form]}, ${entry.n}`, `${entry.baseline_n} per class`]
    : [configurations.get(entry.configuration)[form], configurations.get(entry.baseline)[form]]);

  return (width) => {
    const narrow = width < 720;
    const shown = payload.comparisons.filter((entry) => entry.metric === state.metric);
    const titles = shown.map((entry) => sides(entry, "short").join(" over "));
    const [left, right] = narrow ? [10, width - 10] : [widest(part, titles) + 18, width - 168];
    const step = narrow ? 58 : 44;
    const top = 30;
    const height = top + shown.length * step + 34;
    const ends = shown.flatMap((entry) => [entry.low, entry.high, entry.difference]).filter(known);
    const air = 0.06 * (Math.max(0.5, ...ends) - Math.min(-0.5, ...ends));
    const x = linear([Math.min(-0.5, ...ends) - air, Math.max(0.5, ...ends) + air], [left, right]);
    const name = (entry) => sides(entry, "label").join(" over ");
    const image = canvas(part, width, height, shown.map((entry) => `${name(entry)}: ${signed(entry.difference)} points, ${payload.level} CI ${spread(entry.low, entry.high)}`).join("; "));
    for (const value of ticks(x.invert(left), x.invert(right), narrow ? 5 : 7)) {
      image.append(line(x(value), top, x(value), height - 30, { class: "grid" }), text(x(value), height - 12, value ? signed(value, value % 1 ? 1 : 0) : "0", { class: "tick", "text-anchor": "middle" }));
    }
    image.append(line(x(0), top - 6, x(0), height - 30, { class: "zero" }),
      text(x(0) - 10, 16, x(0) - left > 60 || !narrow ? "◂ worse" : "", { class: "axis-note", "text-anchor": "end" }), text(x(0) + 10, 16, "better ▸", { class: "axis-note" }));
    shown.forEach((entry, i) => {
      const y = top + i * step + (narrow ? 38 : step / 2);
      const colour = entry.low > 0 ? "var(--gain)" : entry.high < 0 ? "var(--loss)" : "var(--unsure)";
      const [mine, other] = sides(entry, "short");
      const group = svg("g", { class: "row" });
      group.append(svg("rect", { x: 0, y: top + i * step, width, height: step, class: "row-back" }));
      if (narrow) {
        group.append(svg("rect", { x: 0, y: top + i * step, width, height: 27, class: "label-back" }));
        group.append(text(left, y - 18, mine, { class: "label strong" }, ), text(right, y - 18, signed(entry.difference), { class: "label strong", "text-anchor": "end" }));
        group.querySelector("text").append(svg("tspan", { class: "dim" }, ` over ${other}`));
      } else {
        group.append(text(left - 18, y + 4, "", { class: "label", "text-anchor": "end" }));
        group.querySelector("text").append(svg("tspan", { class: "strong" }, mine), svg("tspan", { class: "dim" }, ` over ${other}`));
        group.append(text(width - 4, y + 4, `${signed(entry.difference)}  [${signed(entry.low)}, ${signed(entry.high)}]`, { class: "value", "text-anchor": "end" }));
      }
      if (known(entry.low) && known(entry.high)) group.append(svg("line", { x1: x(entry.low), x2: x(entry.high), y1: y, y2: y, stroke: colour, class: "interval" }));
      group.append(svg("circle", { cx: x(entry.difference), cy: y, r: 6, fill: colour, class: "point" }));
      const show = (event) => showTip(event.clientX, event.clientY, 16, tipTitle(name(entry)), tipRow(null, "difference", `${signed(entry.difference, 2)} points`), tipRow(null, `${payload.level} CI`, spread(entry.low, entry.high)),
        entry.images ? tipRow(null, "images per class", `${entry.averaged_over.length ? "mean over " : ""}${entry.images}`) : null);
      group.addEventListener("pointermove", show);
      group.addEventListener("pointerdown", show);
      group.addEventListener("pointerleave", hideTip);
      image.append(group);
    });
    numbers(part.root, [`${metricName(state.metric)}`, "difference", `${payload.level} low`, `${payload.level} high`], shown.map((entry) => [name(entry), signed(entry.difference, 2), signed(entry.low, 2), signed(entry.high, 2)]));
    return shown.length;
  };
});
