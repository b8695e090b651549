// Figures of a protocol, a panel for each metric: scores next to published results, and averages over numbers of images.

/** Panels for all metrics, side by side if each has at least `least` pixels; `draw(part, width, metric)` fills one. */
function panels(part, width, least, draw) {
  const gap = 24;
  const columns = Math.max(1, Math.min(payload.metrics.length, Math.floor((width + gap) / (least + gap))));
  const size = Math.min(width, 2 * least, Math.floor((width - gap * (columns - 1)) / columns));
  const place = html("div", { class: "panels" });
  part.plot.append(place);
  let marks = 0;
  for (const metric of payload.metrics) {
    const plot = html("div", { class: "panel" }, html("h4", {}, metric.label));
    place.append(plot);
    marks += draw({ ...part, plot, title: `${part.title}: ${metric.label}` }, size, metric.key);
  }
  return marks;
}

/** Range of a percentage axis: all values with a margin. */
const ends = (values) => {
  const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 100];
  const air = Math.max(2, (high - low) * 0.06);
  return [Math.max(0, low - air), Math.min(100, high + air)];
};

/** Show a tooltip at a mark. */
const tipOf = (mark, ...content) => {
  const show = (event) => showTip(event.clientX, event.clientY, 16, ...content.map((make) => make()));
  mark.addEventListener("pointermove", show);
  mark.addEventListener("pointerdown", show);
  mark.addEventListener("pointerleave", hideTip);
  return mark;
};

figure("averages", (part) => {
  const kinds = [["one", "dataset", 3], ["ours", "average", 5.5], ["theirs", "published", 6]];
  part.controls.append(html("div", { class: "legend" }, ...kinds.map(([kind, name, r]) =>
    html("span", {}, svg("svg", { width: 16, height: 16, class: "swatch", "aria-hidden": "true" }, svg("circle", { cx: 8, cy: 8, r, class: kind })), name))));
  const names = 22 + 7 * Math.max(0, ...payload.lines.map((row) => row.label.length));

  return (width) => {
    const marks = panels(part, width, names + 150, (panel, size, metric) => {
      const values = payload.lines.flatMap((row) => [row.average[metric], row.published[metric], ...row.tests.map((test) => test.scores[metric])]).filter(known);
      const [step, top, height] = [26, 10, 44 + 26 * payload.lines.length];
      const x = linear(ends(values), [names, size - 14]);
      const image = canvas(panel, size, height, payload.lines.map((row) => `${row.label} ${fixed(row.average[metric], 2)}`).join("; "));
      for (const value of ticks(x.invert(names), x.invert(size - 14), 4)) {
        image.append(line(x(value), top, x(value), height - 26, { class: "grid" }), text(x(value), height - 8, String(value), { class: "tick", "text-anchor": "middle" }));
      }
      let drawn = 0;
      payload.lines.forEach((row, i) => {
        const y = top + step * (i + 0.5);
        image.append(text(names - 14, y + 4, row.label, { class: "label", "text-anchor": "end" }));
        const dot = (value, r, kind, over) => {
          if (!known(value)) return;
          image.append(tipOf(svg("circle", { cx: x(value), cy: y, r, class: kind }), () => tipTitle(row.label), () => tipRow(null, over, fixed(value, 2))));
          drawn += 1;
        };
        for (const test of row.tests) dot(test.scores[metric], 3, "one", test.name);
        dot(row.published[metric], 8, "theirs", "published average");
        dot(row.average[metric], 5.5, "ours", "average");
      });
      return drawn;
    });
    const cell = (value) => (known(value) ? fixed(value, 2) : "");
    numbers(part.root, ["method", ...payload.metrics.flatMap((metric) => [metric.label, "published"])], payload.lines.map((row) => [row.label, ...payload.metrics.flatMap(({ key }) => [cell(row.average[key]), cell(row.published[key])])]));
    return marks;
  };
});

figure("growth", (part) => {
  const { heading, numbers: amounts, curves, levels } = payload.growth;
  const colour = (i) => `var(--tone-${[4, 1, 7, 2, 3, 5, 6, 0][i % 8]})`;
  const names = 20 + 7 * Math.max(...[...curves, ...levels].map((one) => one.name.length));

  return (width) => {
    const marks = panels(part, width, names + 170, (panel, size, metric) => {
      const height = 290;
      const area = { left: 34, right: size - names, top: 14, bottom: height - 48 };
      const series = curves.map((one, i) => ({ ...one, colour: colour(i), points: amounts.map((n, at) => ({ n, at, value: one.points[at][metric] })).filter((point) => known(point.value)) }));
      const flat = levels.filter((one) => known(one.scores[metric]));
      const x = linear([0, amounts.length - 1], [area.left, area.right]);
      const y = linear(ends([...series.flatMap((one) => one.points.map((point) => point.value)), ...flat.map((one) => one.scores[metric])]), [area.bottom, area.top]);
      const image = canvas(panel, size, height, series.map((one) => `${one.name}: ${one.points.map((point) => `${fixed(point.value, 2)} at ${point.n}`).join(", ")}`).join("; "));
      for (const value of ticks(y.invert(area.bottom), y.invert(area.top), 5)) image.append(line(area.left, y(value), area.right, y(value), { class: "grid" }), text(area.left - 8, y(value) + 4, String(value), { class: "tick", "text-anchor": "end" }));
      amounts.forEach((n, at) => image.append(text(x(at), area.bottom + 20, String(n), { class: "tick", "text-anchor": "middle" })));
      image.append(text((area.left + area.right) / 2, height - 8, heading, { class: "axis-title", "text-anchor": "middle" }));
      const labels = [];
      for (const one of flat) {
        image.append(line(area.left, y(one.scores[metric]), area.right, y(one.scores[metric]), { class: "level" }));
        labels.push({ y: y(one.scores[metric]), name: one.name, fill: "var(--dim)" });
      }
      for (const one of series) {
        image.append(svg("path", { d: one.points.map((point, i) => `${i ? "L" : "M"}${x(point.at).toFixed(1)},${y(point.value).toFixed(1)}`).join(""), stroke: one.colour, class: "fit" }));
        for (const point of one.points) image.append(tipOf(svg("circle", { cx: x(point.at), cy: y(point.value), r: 4, fill: one.colour, class: "point" }), () => tipTitle(one.name), () => tipRow(null, `${point.n} images`, fixed(point.value, 2))));
        if (one.points.length) labels.push({ y: y(one.points.at(-1).value), name: one.name, fill: one.colour });
      }
      for (const label of settle(labels, 17, area.top, area.bottom)) {
        image.append(svg("text", { x: area.right + 12, y: label.y + 4, class: "end", style: `fill: ${label.fill}` }, label.name));
      }
      return series.reduce((sum, one) => sum + one.points.length, flat.length);
    });
    numbers(part.root, ["method", "metric", ...amounts.map(String)], curves.flatMap((one) => payload.metrics.map(({ key, label }) => [one.name, label, ...one.points.map((scores) => (known(scores[key]) ? fixed(scores[key], 2) : ""))])));
    return marks;
  };
});
