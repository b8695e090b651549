// Figure of a hyperparameter search: a panel for each setting, with the validation score of each combination.

figure("search", (part) => (width) => {
  numbers(part.root, ["setting", "value", "score", "combination"], payload.metrics.flatMap(({ key, label }) => payload.axes[key].trials.map((trial) => [label, payload.axes[key].values[trial.at], fixed(trial.score, 2), trial.name + (trial.selected ? " (selected)" : "")])));
  return panels(part, width, 300, (panel, size, key) => {
    const { values, trials } = payload.axes[key];
    const height = 250;
    const area = { left: 44, right: size - 24, top: 12, bottom: height - 34 };
    const x = linear([0, Math.max(1, values.length - 1)], [area.left + 18, area.right]);
    const y = linear(ends(trials.map((trial) => trial.score)), [area.bottom, area.top]);
    const best = values.map((_, at) => Math.max(...trials.filter((trial) => trial.at === at).map((trial) => trial.score)));
    const image = canvas(panel, size, height, values.map((value, at) => `best ${fixed(best[at], 2)} at ${value}`).join("; "));
    for (const value of ticks(y.invert(area.bottom), y.invert(area.top), 5)) image.append(line(area.left, y(value), area.right, y(value), { class: "grid" }), text(area.left - 8, y(value) + 4, String(value), { class: "tick", "text-anchor": "end" }));
    const every = Math.ceil((values.length * (10 + 7 * Math.max(...values.map((value) => value.length)))) / (area.right - area.left));
    values.forEach((value, at) => { if (at % every === 0) image.append(text(x(at), area.bottom + 20, value, { class: "tick", "text-anchor": "middle" })); });
    image.append(svg("path", { d: best.map((score, at) => `${at ? "L" : "M"}${x(at).toFixed(1)},${y(score).toFixed(1)}`).join(""), stroke: "var(--made)", class: "fit" }));
    for (const trial of [...trials].sort((a, b) => a.selected - b.selected)) {
      image.append(tipOf(svg("circle", { cx: x(trial.at), cy: y(trial.score), r: trial.selected ? 6.5 : 4, class: trial.selected ? "ours" : "one" }), () => tipTitle(trial.name), () => tipRow(null, "score", fixed(trial.score, 2))));
    }
    return trials.length;
  });
});
