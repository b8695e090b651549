// Map of gains: gain over a baseline vs. name knowledge, a line for each configuration with its intervals.

figure("gains", (part) => {
  const overs = [["real", "Real images only"], ["zero-shot", "Zero-shot CLIP"]].filter(([over]) => payload.gains[over]);
  const state = { over: (overs[0] || ["real"])[0], dataset: "", number: "" };
  const hidden = new Set((address.get("gains.hidden") || "").split(",").filter((id) => configurations.has(id)));
  const averaged = Object.values(payload.gains).some((datasets) => (datasets[""] || {}).mean);
  const numbersOf = [...(averaged ? [["mean", "mean"]] : []), ...payload.numbers.map((n) => [String(n), String(n)])];
  state.number = (numbersOf[0] || ["0"])[0];
  const bar = html("div", { class: "control-row" });
  const rest = html("div", { class: "control-row" });
  const chips = html("div", { class: "chips", role: "group", "aria-label": "Show or hide configurations" });
  part.controls.append(bar, rest, chips);

  /** Points of a configuration; one without synthetic images has the same gain at all numbers. A dataset has means, where they exist. */
  const pointsOf = (id, metric) => {
    const numbers = ((payload.gains[state.over] || {})[state.dataset] || {});
    const order = [...(state.dataset ? ["mean"] : []), state.number, "0"];
    const metrics = order.map((number) => (numbers[number] || {})[id]).find(Boolean) || {};
    return (metrics[metric] || []).filter((point) => known(point.x) && known(point.gain)).sort((a, b) => a.x - b.x);
  };
  const everyMetric = new Set(Object.values(payload.gains).flatMap((datasets) => Object.values(datasets)).flatMap((numbers) => Object.values(numbers)).flatMap((methods) => Object.values(methods)).flatMap((metrics) => Object.keys(metrics)));
  const metrics = metricControls(bar, (metric) => everyMetric.has(metric), () => part.redraw());
  const setting = (label, words, options, key) => {
    if (options.length > 1) rest.append(html("span", {}, `${words} `, dropdown(label, options, state[key], (value) => { state[key] = value; part.redraw(); })));
  };
  setting("Baseline", "gain over", overs, "over");
  if (!payload.datasets.length || payload.numbers.length > 1) setting("Synthetic images per class", "images per class", numbersOf, "number");
  setting("Dataset", "dataset", [["", "average"], ...payload.datasets.map((name) => [name, name])], "dataset");
  const drawable = [...configurations.values()].filter(({ id }) => Object.values(payload.gains).some((datasets) => Object.values(datasets).some((numbers) => Object.values(numbers).some((methods) => methods[id]))));
  for (const configuration of drawable) {
    chips.append(html("button", { type: "button", class: "chip", "aria-pressed": String(!hidden.has(configuration.id)), onclick: (event) => {
      if (!hidden.delete(configuration.id)) hidden.add(configuration.id);
      keep("gains.hidden", [...hidden].join(","), "");
      event.currentTarget.setAttribute("aria-pressed", !hidden.has(configuration.id));
      part.redraw();
    } }, swatch(configuration), configuration.short));
  }

  return (width) => {
    const narrow = width < 640;
    const shown = drawable.map((configuration) => ({ configuration, points: pointsOf(configuration.id, metrics.metric) })).filter(({ points }) => points.length);
    const drawn = shown.filter(({ configuration }) => !hidden.has(configuration.id));
    const height = narrow ? 340 : 460;
    const area = { left: 44, right: width - (narrow ? 12 : widest(part, shown.map(({ configuration }) => configuration.short)) + 28), top: 26, bottom: height - 50 };
    const places = shown.flatMap(({ points }) => points.map((point) => point.x));
    const [least, most] = places.length ? [Math.min(...places), Math.max(...places)] : [0, 1];
    const margin = Math.max(0.02, (most - least) * 0.07);
    const x = linear([least - margin, most + margin], [area.left, area.right]);
    const ends = drawn.flatMap(({ points }) => points.flatMap((point) => [point.gain, point.low, point.high])).filter(known);
    const [floor, ceiling] = [Math.min(-1, ...ends), Math.max(1, ...ends)];
    const air = (ceiling - floor) * 0.06;
    const y = linear([floor - air, ceiling + air], [area.bottom, area.top]);
    const image = canvas(part, width, height, `${metricName(metrics.metric)}, gain in points vs. name knowledge. ${drawn.map(({ configuration, points }) => `${configuration.label}: ${points.map((point) => `${signed(point.gain)} at ${fixed(point.x, 2)}`).join(", ")}`).join("; ")}.`, true);

    for (const value of ticks(floor - air, ceiling + air, narrow ? 6 : 8)) {
      image.append(line(area.left, y(value), area.right, y(value), { class: "grid" }), text(area.left - 8, y(value) + 4, value ? signed(value, value % 1 ? 1 : 0) : "0", { class: "tick", "text-anchor": "end" }));
    }
    for (const value of ticks(least - margin, most + margin, narrow ? 4 : 7)) {
      image.append(line(x(value), area.bottom, x(value), area.bottom + 5, { class: "axis" }), text(x(value), area.bottom + 20, String(value), { class: "tick", "text-anchor": "middle" }));
    }
    image.append(line(area.left, y(0), area.right, y(0), { class: "zero" }), line(area.left, area.bottom, area.right, area.bottom, { class: "axis" }),
      text((area.left + area.right) / 2, height - 6, "name knowledge", { class: "axis-title", "text-anchor": "middle" }),
      text(0, 11, "gain, points", { class: "axis-note" }));

    let marks = 0;
    const labels = [];
    const over = svg("g");
    drawn.forEach(({ configuration, points }, i) => {
      const colour = tone(configuration);
      const shift = (i - (drawn.length - 1) / 2) * (narrow ? 4 : 6);
      const at = (point) => x(point.x) + shift;
      image.append(svg("path", { d: points.map((point, at_) => `${at_ ? "L" : "M"}${at(point).toFixed(1)},${y(point.gain).toFixed(1)}`).join(""), stroke: colour, class: "fit" }));
      for (const point of points) {
        if (known(point.low) && known(point.high)) over.append(whisker(at(point), y(point.low), at(point), y(point.high), 4, colour));
        over.append(shape(configuration.shape, at(point), y(point.gain), narrow ? 4.5 : 5.5, { fill: colour, class: "point" }));
        marks += 1;
      }
      labels.push({ y: y(points.at(-1).gain), configuration });
    });
    image.append(over);
    if (!narrow) {
      for (const label of settle(labels, 19, area.top + 6, area.bottom - 4)) {
        image.append(shape(label.configuration.shape, area.right + 14, label.y, 4.5, { fill: tone(label.configuration) }), text(area.right + 25, label.y + 4, label.configuration.short, { class: "label" }));
      }
    }

    const levels = [...new Map(drawn.flatMap(({ points }) => points.map((point) => [point.tag, point.x])))].sort((a, b) => a[1] - b[1]);
    const hair = line(0, area.top, 0, area.bottom, { class: "hair", visibility: "hidden" });
    image.append(hair);
    let place = -1;
    const look = (index, clientY) => {
      place = index;
      const [tag, knowledge] = levels[index];
      for (const end of ["x1", "x2"]) hair.setAttribute(end, x(knowledge));
      hair.setAttribute("visibility", "visible");
      const rows = drawn.map(({ configuration, points }) => ({ configuration, point: points.find((point) => point.tag === tag) })).filter((row) => row.point);
      rows.sort((a, b) => b.point.gain - a.point.gain);
      const frame = image.getBoundingClientRect();
      showTip(frame.left + x(knowledge), clientY ?? frame.top + height / 2, 18 + drawn.length * 3, tipTitle(`${tag}: name knowledge ${fixed(knowledge, 2)}`),
        ...rows.map(({ configuration, point }) => tipRow(swatch(configuration), configuration.short, `${signed(point.gain)} (${spread(point.low, point.high)})`)));
    };
    const leave = () => { hair.setAttribute("visibility", "hidden"); hideTip(); };
    if (levels.length) {
      const nearest = (event) => {
        const from = event.clientX - image.getBoundingClientRect().left;
        return levels.map(([, knowledge], i) => [Math.abs(x(knowledge) - from), i]).sort((a, b) => a[0] - b[0])[0][1];
      };
      for (const kind of ["pointermove", "pointerdown"]) image.addEventListener(kind, (event) => look(nearest(event), event.clientY));
      image.addEventListener("pointerleave", leave);
      image.addEventListener("blur", leave);
      image.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        look(Math.min(Math.max(place + step, 0), levels.length - 1));
      });
    }
    const heads = [...new Map(shown.flatMap(({ points }) => points.map((point) => [point.tag, point.x])))].sort((a, b) => a[1] - b[1]);
    numbers(part.root, [metricName(metrics.metric), ...heads.map(([tag, knowledge]) => `${tag} (${fixed(knowledge, 2)})`)],
      shown.map(({ configuration, points }) => [configuration.label + (points[0].number ? `, ${points[0].number}` : ""), ...heads.map(([tag]) => { const point = points.find((each) => each.tag === tag); return point ? `${signed(point.gain)} (${spread(point.low, point.high)})` : ""; })]));
    return marks;
  };
});
