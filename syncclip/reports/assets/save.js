// Save a figure as SVG or PNG (light scheme, 760 px wide, with the font embedded), and its numbers as CSV.

const PAPER = 760;
/** Properties that a standalone file must contain itself. */
const STYLES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "stroke-dasharray", "stroke-linecap", "stroke-linejoin", "opacity", "visibility", "paint-order", "font-size", "font-weight", "font-family"];

/** Copy of an SVG node with inline styles. */
function styled(image) {
  const copy = image.cloneNode(true);
  const [from, into] = [image, copy].map((root) => [root, ...root.querySelectorAll("*")]);
  from.forEach((element, i) => {
    const computed = getComputedStyle(element);
    for (const name of STYLES) into[i].setAttribute(name, computed.getPropertyValue(name));
    for (const name of ["class", "style", "tabindex"]) into[i].removeAttribute(name);
  });
  return copy;
}

/** The figure as one SVG document. */
function sheetOf(part) {
  const [shown, scheme] = [part.plot, root.dataset.scheme];
  const sheet = html("div", { class: "sheet" }, ...[...part.controls.querySelectorAll(".legend")].map((legend) => legend.cloneNode(true)));
  const plot = html("div", { class: "plot" });
  sheet.append(plot);
  sheet.style.width = `${PAPER}px`;
  document.body.append(sheet);
  root.dataset.scheme = "light";
  try {
    part.plot = plot;
    part.draw(PAPER);
    const frame = sheet.getBoundingClientRect();
    const placed = (element) => { const place = element.getBoundingClientRect(); return { x: place.left - frame.left, y: place.top - frame.top, width: place.width, height: place.height }; };
    const parts = [...sheet.querySelectorAll("svg, .dot, .panel h4, .legend > span")];
    const height = Math.ceil(Math.max(...parts.map(placed).map((place) => place.y + place.height)));
    const whole = svg("svg", { xmlns: NS, width: PAPER, height, viewBox: `0 0 ${PAPER} ${height}` },
      svg("title", {}, part.title), svg("style", {}, fontFace()), svg("rect", { width: "100%", height: "100%", fill: "#ffffff" }));
    for (const one of parts) {
      const [place, look] = [placed(one), getComputedStyle(one)];
      if (one instanceof SVGElement) whole.append(fill(styled(one), place, []));
      else if (one.matches(".dot")) whole.append(svg("rect", { ...place, rx: 3, fill: look.backgroundColor }));
      else {
        const mark = one.querySelector("svg, .dot");
        const left = mark ? placed(mark).x + placed(mark).width + 8 : place.x;
        whole.append(text(left, place.y + place.height / 2 + 5, one.innerText.replace(/\s+/g, " ").trim(),
          { fill: look.color, "font-size": look.fontSize, "font-weight": look.fontWeight, "font-family": look.fontFamily }));
      }
    }
    return whole;
  } finally {
    sheet.remove();
    part.plot = shown;
    if (scheme) root.dataset.scheme = scheme; else delete root.dataset.scheme;
    part.redraw();
  }
}
const fontFace = () => [...document.styleSheets].flatMap((one) => [...one.cssRules]).filter((rule) => rule instanceof CSSFontFaceRule).map((rule) => rule.cssText).join("\n");

function download(name, blob) {
  const link = html("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
const source = (image) => new Blob([new XMLSerializer().serializeToString(image)], { type: "image/svg+xml" });

/** Three pixels per SVG unit: 2,280 pixels are 19 cm at 300 dpi. */
async function dots(image, times = 3) {
  const url = await new Promise((done) => { const reader = new FileReader(); reader.onload = () => done(reader.result); reader.readAsDataURL(source(image)); });
  const picture = new Image();
  picture.src = url;
  await picture.decode();
  const sheet = html("canvas", { width: image.getAttribute("width") * times, height: image.getAttribute("height") * times });
  sheet.getContext("2d").drawImage(picture, 0, 0, sheet.width, sheet.height);
  return new Promise((done) => { sheet.toBlob(done, "image/png"); });
}

const cell = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
const rowsOf = (table) => [...table.rows].map((row) => [...row.cells].map((one) => cell(one.textContent.replace(MINUS, "-"))).join(",")).join("\n");

/** Buttons below a figure. */
function offer(name, part) {
  const place = part.root.querySelector("[data-save]");
  if (!place) return;
  const button = (label, act) => html("button", { type: "button", class: "plain", "aria-label": `Save as ${label}: ${part.title}`, onclick: act }, label);
  const table = part.root.querySelector("[data-numbers] table");
  place.append(
    ...(part.plot.querySelector("svg:not(.swatch)") ? [
      button("SVG", () => download(`${name}.svg`, source(sheetOf(part)))),
      button("PNG", async () => download(`${name}.png`, await dots(sheetOf(part)))),
    ] : []),
    ...(table ? [button("CSV", () => download(`${name}.csv`, new Blob([`${rowsOf(part.root.querySelector("[data-numbers] table"))}\n`], { type: "text/csv" })))] : []));
  if (place.children.length) place.prepend(html("span", { class: "quiet" }, "Save"));
}
