// Change in accuracy of each class, sorted, and real and synthetic images of any class.

const classes = payload.classes;
const strips = new Map(((payload.images || {}).strips || []).map((strip) => [strip.label, strip]));
const selectedClass = { label: null, listeners: [] };
function selectClass(label, scroll = false) {
  selectedClass.label = label;
  for (const listener of selectedClass.listeners) listener(label);
  const target = document.getElementById("images");
  if (scroll && target) target.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth", block: "start" });
}
const className = (label) => (classes ? classes.names[label] : null) || (strips.get(label) || {}).name || `class ${label}`;
const splitOf = (label) => (payload.base ? (label < payload.base ? "base" : "novel") : "");

/** One image of a strip, selected by the background position. */
function thumb(strip, at, words) {
  const count = strip.real + strip.made;
  const image = html("span", { class: "thumb", ...(words ? { role: "img", "aria-label": words } : { "aria-hidden": "true" }) });
  image.style.backgroundImage = `url(${strip.src})`;
  image.style.backgroundSize = `${count * 100}% 100%`;
  image.style.backgroundPosition = count > 1 ? `${(at / (count - 1)) * 100}% 0` : "0 0";
  return image;
}
const firstThumb = (label) => {
  const strip = strips.get(label);
  return strip ? thumb(strip, 0, `image of ${className(label)}`) : null;
};

figure("classes", (part) => {
  const state = { pair: 0, protocol: "within_split", split: "all" };
  const pairs = classes.pairs.map(([configuration, baseline]) => ({ configuration: configurations.get(configuration), baseline: configurations.get(baseline) }));
  const title = ({ configuration, baseline }) => (baseline ? `${configuration.short} vs. ${baseline.short}` : configuration.label);
  const have = (protocol) => Object.values(classes.configurations).some((configuration) => configuration[protocol]);
  const row = html("div", { class: "control-row" });
  if (pairs.length > 1) row.append(dropdown("Comparison", pairs.map((pair, i) => [String(i), title(pair)]), "0", (value) => { state.pair = Number(value); part.redraw(); }));
  const protocols = PROTOCOL_NAMES.filter(([protocol]) => have(protocol));
  state.protocol = standardProtocol(protocols);
  if (protocols.length > 1) row.append(choice("Candidate classes", protocols, state.protocol, (value) => { state.protocol = value; part.redraw(); }));
  if (payload.base) row.append(choice("Split", [["all", "Both"], ["base", "Base"], ["novel", "Novel"]], "all", (value) => { state.split = value; part.redraw(); }));
  part.controls.append(row);

  return (width) => {
    const narrow = width < 640;
    const pair = pairs[state.pair];
    const [own, baseline] = [classes.configurations[pair.configuration.id], pair.baseline ? classes.configurations[pair.baseline.id] : null];
    const bars = classes.names.map((name, label) => {
      const [value, before] = [own[state.protocol][label], baseline ? baseline[state.protocol][label] : 0];
      return { name, label, value, before, change: known(value) && known(before) ? value - before : null };
    }).filter((bar) => bar.change !== null && (state.split === "all" || splitOf(bar.label) === state.split));
    bars.sort((a, b) => b.change - a.change || a.label - b.label);
    const height = narrow ? 240 : 320;
    const area = { left: 40, right: width - 4, top: 14, bottom: height - 16 };
    const changes = bars.map((bar) => bar.change);
    const [low, high] = [Math.min(0, ...changes), Math.max(baseline ? 1 : 100, ...changes)];
    const y = linear([low - (low ? (high - low) * 0.05 : 0), high + (baseline ? (high - low) * 0.05 : 0)], [area.bottom, area.top]);
    const slot = (area.right - area.left) / Math.max(1, bars.length);
    const wins = bars.filter((bar) => bar.change > 0).length;
    const losses = bars.filter((bar) => bar.change < 0).length;
    const image = canvas(part, width, height, baseline ? `${title(pair)}: ${wins} classes gain, ${losses} lose. Largest gains: ${bars.slice(0, 3).map((bar) => `${bar.name} ${signed(bar.change, 0)}`).join(", ")}; largest losses: ${bars.slice(-3).map((bar) => `${bar.name} ${signed(bar.change, 0)}`).join(", ")}.` : `Accuracy of ${bars.length} classes, sorted.`, true);
    image.append(svg("defs", {}, hatch("class-gain", "var(--gain)"), hatch("class-loss", "var(--loss)")));
    for (const value of ticks(y.invert(area.bottom), y.invert(area.top), 5)) image.append(line(area.left, y(value), area.right, y(value), { class: "grid" }), text(area.left - 8, y(value) + 4, baseline ? (value ? signed(value, 0) : "0") : fixed(value, 0), { class: "tick", "text-anchor": "end" }));
    const rects = bars.map((bar, i) => {
      const kind = bar.change >= 0 ? "gain" : "loss";
      const rect = svg("rect", { x: area.left + i * slot + Math.min(1.5, slot * 0.12), width: Math.max(1, slot - Math.min(3, slot * 0.24)), y: Math.min(y(0), y(bar.change)),
        height: Math.max(1.5, Math.abs(y(bar.change) - y(0))), rx: Math.min(2, slot / 4), fill: splitOf(bar.label) === "novel" ? `url(#class-${kind})` : `var(--${kind})`, class: "class-bar" });
      image.append(rect);
      return rect;
    });
    image.append(line(area.left, y(0), area.right, y(0), { class: "axis" }));
    if (baseline && wins) image.append(text(area.left + 4, y(0) + 19, `${wins} of ${bars.length} gain`, { class: "axis-note" }));
    if (baseline && losses) image.append(text(area.right - 2, y(0) - 9, `${losses} lose`, { class: "axis-note", "text-anchor": "end" }));
    let place = -1;
    const look = (index, clientX, clientY) => {
      if (rects[place]) rects[place].classList.remove("on");
      place = index;
      const bar = bars[index];
      rects[index].classList.add("on");
      const frame = image.getBoundingClientRect();
      showTip(clientX ?? frame.left + area.left + index * slot, clientY ?? frame.top + 40, 16,
        html("div", { class: "tip-head" }, firstThumb(bar.label), html("div", {}, tipTitle(bar.name), html("small", {}, [splitOf(bar.label), classes.count ? plural(classes.count[bar.label], "test image") : ""].filter(Boolean).join(" · ")))),
        tipRow(null, pair.configuration.short, `${fixed(bar.value)} %`), baseline ? tipRow(null, pair.baseline.short, `${fixed(bar.before)} %`) : null, baseline ? tipRow(null, "change", signed(bar.change)) : null);
    };
    const indexAt = (event) => Math.floor((event.clientX - image.getBoundingClientRect().left - area.left) / slot);
    for (const kind of ["pointermove", "pointerdown"]) image.addEventListener(kind, (event) => { const i = indexAt(event); if (bars[i]) look(i, event.clientX, event.clientY); });
    const leave = () => { if (rects[place]) rects[place].classList.remove("on"); hideTip(); };
    image.addEventListener("pointerleave", leave);
    image.addEventListener("blur", leave);
    image.addEventListener("click", (event) => { const bar = bars[indexAt(event)]; if (bar && strips.has(bar.label) && event.pointerType !== "touch") selectClass(bar.label, true); });
    image.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Enter" && bars[place] && strips.has(bars[place].label)) selectClass(bars[place].label, true);
      if (!step || !bars.length) return;
      event.preventDefault();
      look(Math.min(Math.max(place + step, 0), bars.length - 1));
    });

    const listed = (title, chosen, kind) => html("div", { class: "ranking" }, html("h4", {}, title), html("ol", {}, ...chosen.map((bar) => html("li", {},
      html("button", { type: "button", onclick: () => selectClass(bar.label, true), "aria-label": `${bar.name}, ${signed(bar.change)} points, show images` }, firstThumb(bar.label), html("span", {}, bar.name), html("b", { class: kind }, baseline ? signed(bar.change) : fixed(bar.change)))))));
    const count = Math.min(5, Math.floor(bars.length / 2));
    if (count) part.plot.append(html("div", { class: "rankings" }, listed(baseline ? "Largest gains" : "Highest accuracy", bars.slice(0, count), "gain"), listed(baseline ? "Largest losses" : "Lowest accuracy", bars.slice(-count).reverse(), "loss")));
    numbers(part.root, ["class", "split", pair.configuration.short, ...(baseline ? [pair.baseline.short, "change"] : [])], bars.map((bar) => [bar.name, splitOf(bar.label), fixed(bar.value), ...(baseline ? [fixed(bar.before), signed(bar.change)] : [])]));
    return bars.length;
  };
});

figure("images", (part) => {
  const labels = [...strips.keys()];
  let label = labels.includes(payload.images.start) ? payload.images.start : labels[0];
  const list = html("select", { "aria-label": "Class", onchange: (event) => selectClass(Number(event.target.value)) });
  const groups = payload.base ? ["base", "novel"] : [""];
  for (const group of groups) {
    const options = labels.filter((entry) => !group || splitOf(entry) === group).map((entry) => html("option", { value: entry }, className(entry)));
    list.append(...(group ? [html("optgroup", { label: `${group} classes` }, ...options)] : options));
  }
  const move = (step) => selectClass(labels[(labels.indexOf(label) + step + labels.length) % labels.length]);
  part.controls.append(html("div", { class: "control-row picker" },
    html("button", { type: "button", class: "round", "aria-label": "Previous class", onclick: () => move(-1) }, "‹"), list,
    html("button", { type: "button", class: "round", "aria-label": "Next class", onclick: () => move(1) }, "›"),
    html("button", { type: "button", class: "plain", onclick: () => move(1 + Math.floor(Math.random() * (labels.length - 1))) }, "Random class")));
  selectedClass.listeners.push((chosen) => { if (strips.has(chosen)) { label = chosen; part.redraw(); } });

  return () => {
    const strip = strips.get(label);
    list.value = label;
    const images = (from, count, words) => html("div", { class: "film" }, ...Array.from({ length: count }, (_, i) => thumb(strip, from + i, `${words} ${className(label)}, number ${i + 1}`)));
    const side = (title, note, from, count, words) => html("div", { class: "side" }, html("h4", {}, title), html("p", { class: "quiet" }, note), count ? images(from, count, words) : html("p", { class: "quiet" }, "no image of this class"));
    const sides = html("div", { class: payload.images.real && payload.images.made ? "sides" : "sides single" });
    if (payload.images.real) sides.append(side("Real", "from the dataset", 0, strip.real, "real image of"));
    if (payload.images.made) sides.append(side("Synthetic", strip.prompt ? `“${strip.prompt}”` : "generated", strip.real, strip.made, "synthetic image of"));
    part.plot.append(sides);
    const scored = classes ? [...configurations.values()].filter((configuration) => classes.configurations[configuration.id]) : [];
    const protocol = standardProtocol(PROTOCOL_NAMES.filter(([each]) => scored.some((configuration) => classes.configurations[configuration.id][each])));
    const rows = scored.map((configuration) => [configuration, (classes.configurations[configuration.id][protocol] || [])[label]]).filter(([, value]) => known(value));
    if (rows.length) {
      part.plot.append(html("div", { class: "scores", role: "img", "aria-label": rows.map(([configuration, value]) => `${configuration.label} ${fixed(value)} per cent`).join(", ") }, ...rows.map(([configuration, value]) => {
        const bar = html("span", { class: "score-bar" });
        bar.style.setProperty("--share", `${Math.min(100, value)}%`);
        bar.style.setProperty("--colour", tone(configuration));
        return html("div", { class: "score" }, html("span", {}, configuration.short), bar, html("b", {}, `${fixed(value, 0)} %`));
      })));
    }
    numbers(part.root, ["class", "split", "real shown", "synthetic shown", ...rows.map(([configuration]) => configuration.short)], [[className(label), splitOf(label) || "–", strip.real, strip.made, ...rows.map(([, value]) => fixed(value))]]);
    return strip.real + strip.made;
  };
});
