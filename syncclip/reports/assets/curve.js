// Scaling curve: accuracy over synthetic images per class, with fits, intervals and individual seeds.

figure("curve", (part) => {
  const ready = (metric) => [...configurations.keys()].some((id) => (payload.points[id] || {})[metric]);
  // Of several upper bounds, only the highest is shown at first.
  const score = (id) => { const points = (payload.points[id] || {})[payload.metric || "hm"]; return points ? points[0].mean : -1; };
  const bounds = [...configurations.values()].filter(({ data }) => data === "all_real").map(({ id }) => id);
  const lower = bounds.sort((a, b) => score(b) - score(a)).slice(1).join(",");
  const hidden = new Set((address.get("curve.hidden") ?? lower).split(",").filter((id) => configurations.has(id)));
  const bar = html("div", { class: "control-row" });
  const chips = html("div", { class: "chips", role: "group", "aria-label": "Show or hide configurations" });
  part.controls.append(bar, chips);
  const state = metricControls(bar, ready, () => part.redraw());
  for (const configuration of configurations.values()) {
    chips.append(html("button", { type: "button", class: "chip", "aria-pressed": String(!hidden.has(configuration.id)), onclick: (event) => {
      if (!hidden.delete(configuration.id)) hidden.add(configuration.id);
      keep("curve.hidden", [...hidden].join(","), lower);
      event.currentTarget.setAttribute("aria-pressed", !hidden.has(configuration.id));
      part.redraw();
    } }, swatch(configuration), configuration.short));
  }

  const seriesOf = (configuration) => ((payload.points[configuration.id] || {})[state.metric] || []);
  const fitOf = (configuration) => ((payload.fits || {})[configuration.id] || {})[state.metric];
  const beginOf = (configuration) => (fitOf(configuration) || {}).begin;

  return (width) => {
    const narrow = width < 640;
    const shown = [...configurations.values()].filter((configuration) => seriesOf(configuration).length);
    const drawn = shown.filter((configuration) => !hidden.has(configuration.id));
    const begins = shown.some((configuration) => known(beginOf(configuration)));
    const amounts = [...new Set(shown.flatMap((configuration) => seriesOf(configuration).map((point) => point.n)))].filter((n) => n > 0).sort((a, b) => a - b);
    if (begins) amounts.unshift(0);
    const [least, most] = [amounts[0] || 0, amounts[amounts.length - 1] || 1];
    const reach = Math.max(most, ...shown.map((configuration) => { const fit = fitOf(configuration); return fit && fit.curve.length ? fit.curve[fit.curve.length - 1].n : 0; }));
    const end = Math.min(reach, most * 4) * (narrow ? 1.12 : 1.05);
    const height = narrow ? 330 : 450;
    const area = { left: 40, right: width - (narrow ? 10 : widest(part, shown.map((configuration) => configuration.short)) + 26), top: 26, bottom: height - 48 };
    // Logarithmic in 1 + n, which is defined at 0.
    const scale = logarithmic([(1 + least) * (least === most ? 0.5 : 0.82), 1 + Math.max(end, most * 1.25)], [area.left, area.right]);
    const x = (n) => scale(1 + n);

    const extent = [];
    for (const configuration of drawn) {
      for (const point of seriesOf(configuration)) extent.push(point.mean - (point.se || 0), point.mean + (point.se || 0), ...point.seeds);
      for (const point of (fitOf(configuration) || { curve: [] }).curve) if (point.n <= end) extent.push(point.value);
    }
    const [floor, ceiling] = extent.length ? [Math.min(...extent), Math.max(...extent)] : [0, 100];
    const air = Math.max((ceiling - floor) * 0.08, 0.5);
    const y = linear([floor - air, ceiling + air], [area.bottom, area.top]);

    const best = drawn.map((configuration) => { const last = seriesOf(configuration).at(-1); return `${configuration.label} ${fixed(last.mean)} % at ${last.n} images per class`; });
    const image = canvas(part, width, height, `${metricName(state.metric)} in per cent vs. synthetic images per class. ${best.join("; ")}.`, true);
    const clip = "curve-area";
    image.append(svg("defs", {}, svg("clipPath", { id: clip }, svg("rect", { x: area.left, y: area.top, width: area.right - area.left, height: area.bottom - area.top }))));

    if (end > most * 1.3) {
      image.append(svg("rect", { x: x(most * 1.12), y: area.top, width: area.right - x(most * 1.12), height: area.bottom - area.top, class: "beyond" }),
        text(area.right - 6, area.bottom - 8, "extrapolation", { class: "axis-note", "text-anchor": "end" }));
    }
    for (const value of ticks(floor - air, ceiling + air, narrow ? 6 : 8)) {
      image.append(line(area.left, y(value), area.right, y(value), { class: "grid" }), text(area.left - 8, y(value) + 4, fixed(value, value % 1 ? 1 : 0), { class: "tick", "text-anchor": "end" }));
    }
    for (const n of amounts) image.append(line(x(n), area.bottom, x(n), area.bottom + 5, { class: "axis" }), text(x(n), area.bottom + 20, String(n), { class: "tick", "text-anchor": "middle" }));
    image.append(line(area.left, area.bottom, area.right, area.bottom, { class: "axis" }),
      text((area.left + area.right) / 2, height - 6, "synthetic images per class", { class: "axis-title", "text-anchor": "middle" }),
      text(0, 11, `${metricName(state.metric)}, %`, { class: "axis-note" }));

    let marks = 0;
    const labels = [];
    const inside = svg("g", { "clip-path": `url(#${clip})` });
    const over = svg("g");
    const growing = drawn.filter((configuration) => seriesOf(configuration).some((point) => point.n > 0));
    const path = (points) => points.map((point, i) => `${i ? "L" : "M"}${x(point.n).toFixed(1)},${y(point.value).toFixed(1)}`).join("");
    for (const configuration of drawn) {
      const series = seriesOf(configuration);
      const colour = tone(configuration);
      const constant = series.filter((point) => point.n === 0);
      if (constant.length) {
        const { mean, se } = constant[0];
        if (se) inside.append(svg("rect", { x: area.left, y: y(mean + se), width: area.right - area.left, height: Math.max(1, y(mean - se) - y(mean + se)), fill: colour, class: "band" }));
        inside.append(line(area.left, y(mean), area.right, y(mean), { stroke: colour, class: "reference" }));
        labels.push({ y: y(mean), configuration, value: mean });
        marks += 1;
        continue;
      }
      const fit = fitOf(configuration);
      // A line is interrupted where the configuration lacks a number of images on the axis.
      const segments = [];
      for (const point of [...(known(beginOf(configuration)) ? [{ n: 0, mean: beginOf(configuration) }] : []), ...series]) {
        const before = segments.length ? segments.at(-1).at(-1).n : null;
        const next = { n: point.n, value: point.mean };
        if (before !== null && amounts.indexOf(point.n) === amounts.indexOf(before) + 1) segments.at(-1).push(next);
        else segments.push([next]);
      }
      const curve = fit && segments.length === 1 ? fit.curve.filter((point) => point.n <= end * 1.001) : [];
      const banded = curve.filter((point) => known(point.low) && known(point.high));
      if (banded.length > 1) {
        const edge = (key) => banded.map((point) => `${x(point.n).toFixed(1)},${y(point[key]).toFixed(1)}`);
        inside.append(svg("path", { d: `M${edge("high").join("L")}L${edge("low").reverse().join("L")}Z`, fill: colour, class: "band" }));
      }
      if (curve.length > 1) {
        inside.append(svg("path", { d: path(curve.filter((point) => point.n <= most * 1.001)), stroke: colour, class: "fit" }),
          svg("path", { d: path(curve.filter((point) => point.n >= most * 0.999)), stroke: colour, class: "fit forecast" }));
      } else {
        inside.append(svg("path", { d: segments.map(path).join(""), stroke: colour, class: "fit" }));
      }
      const shift = (growing.indexOf(configuration) - (growing.length - 1) / 2) * (narrow ? 6 : 9);
      for (const point of series) {
        const at = x(point.n) + shift;
        for (const seed of point.seeds) over.append(svg("circle", { cx: at, cy: y(seed), r: 2.2, fill: colour, class: "seed" }));
        if (point.se) over.append(whisker(at, y(point.mean - point.se), at, y(point.mean + point.se), 4, colour));
        over.append(shape(configuration.shape, at, y(point.mean), narrow ? 4.5 : 5.5, { fill: colour, class: "point" }));
        marks += 1;
      }
      const last = curve.length > 1 ? curve.at(-1).value : series.at(-1).mean;
      labels.push({ y: y(last), configuration, value: series.at(-1).mean });
    }
    image.append(inside, over);
    if (!narrow) {
      for (const label of settle(labels, 19, area.top + 6, area.bottom - 4)) {
        image.append(shape(label.configuration.shape, area.right + 14, label.y, 4.5, { fill: tone(label.configuration) }), text(area.right + 25, label.y + 4, label.configuration.short, { class: "label" }));
      }
    }

    // The tooltip is placed beside the points of all configurations.
    const beside = 18 + (growing.length / 2) * (narrow ? 6 : 9);
    const hair = line(0, area.top, 0, area.bottom, { class: "hair", visibility: "hidden" });
    image.append(hair);
    let place = -1;
    const look = (index, clientY) => {
      place = index;
      const n = amounts[index];
      hair.setAttribute("x1", x(n));
      hair.setAttribute("x2", x(n));
      hair.setAttribute("visibility", "visible");
      const rows = drawn.map((configuration) => ({ configuration, point: seriesOf(configuration).find((point) => point.n === n || point.n === 0) })).filter((row) => row.point);
      rows.sort((a, b) => b.point.mean - a.point.mean);
      const frame = image.getBoundingClientRect();
      showTip(frame.left + x(n), clientY ?? frame.top + height / 2, beside, tipTitle(`${plural(n, "image")} per class`),
        ...rows.map(({ configuration, point }) => tipRow(swatch(configuration), configuration.short, `${fixed(point.mean)}${point.se ? ` ± ${fixed(point.se)}` : ""}`)));
    };
    const leave = () => { hair.setAttribute("visibility", "hidden"); hideTip(); };
    if (amounts.length) {
      const nearest = (event) => {
        const at = event.clientX - image.getBoundingClientRect().left;
        return amounts.map((n, i) => [Math.abs(x(n) - at), i]).sort((a, b) => a[0] - b[0])[0][1];
      };
      for (const kind of ["pointermove", "pointerdown"]) image.addEventListener(kind, (event) => look(nearest(event), event.clientY));
      image.addEventListener("pointerleave", leave);
      image.addEventListener("blur", leave);
      image.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        look(Math.min(Math.max(place + step, 0), amounts.length - 1));
      });
    }

    const columns = [...new Set(shown.flatMap((configuration) => seriesOf(configuration).map((point) => point.n)))].sort((a, b) => a - b);
    numbers(part.root, ["per class", ...columns.map((n) => (n ? String(n) : "no synthetic")), "fitted error at n"],
      shown.map((configuration) => [configuration.label, ...columns.map((n) => { const point = seriesOf(configuration).find((entry) => entry.n === n); return point ? `${fixed(point.mean)}${point.se ? ` ± ${fixed(point.se)}` : ""}` : ""; }), (fitOf(configuration) || { formula: "" }).formula || ""]));
    const note = part.root.querySelector("[data-forecast]");
    if (note) {
      const sentences = new Map();
      for (const configuration of drawn.filter((other) => (fitOf(other) || {}).text)) sentences.set(fitOf(configuration).text, [...(sentences.get(fitOf(configuration).text) || []), configuration.short]);
      note.replaceChildren(...[...sentences].map(([words, names]) => html("span", { class: "said" }, html("b", {}, names.join(", ")), `: ${words}`)));
    }
    return marks;
  };
});
