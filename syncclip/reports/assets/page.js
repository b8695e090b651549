// Page controls: colour scheme, copy buttons, sortable tables, the strip at the top.

const root = document.documentElement;
const schemeButton = document.getElementById("scheme");
const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.scheme ? root.dataset.scheme === "dark" : systemDark.matches);
const nameScheme = () => schemeButton.setAttribute("aria-label", isDark() ? "Use the light scheme" : "Use the dark scheme");
// Some browsers deny storage to local files; the scheme is then not remembered.
const remember = (value) => { try { localStorage.setItem("syncclip-scheme", value); } catch { /* storage is denied */ } };
const remembered = () => { try { return localStorage.getItem("syncclip-scheme"); } catch { return null; } };
const wanted = { dark: "dark", light: "light" }[section()] || remembered();
if (wanted) root.dataset.scheme = wanted;
schemeButton.addEventListener("click", () => { root.dataset.scheme = isDark() ? "light" : "dark"; remember(root.dataset.scheme); nameScheme(); });
systemDark.addEventListener("change", nameScheme);
nameScheme();
let screenScheme;
window.addEventListener("beforeprint", () => { screenScheme = root.dataset.scheme; root.dataset.scheme = "light"; });
window.addEventListener("afterprint", () => { if (screenScheme) root.dataset.scheme = screenScheme; else delete root.dataset.scheme; });

for (const button of document.querySelectorAll("[data-copy]")) {
  const words = button.textContent;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    const content = source.dataset.csv || source.textContent;
    try {
      await navigator.clipboard.writeText(content);
    } catch {
      const area = html("textarea", { class: "offscreen" });
      area.value = content;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = words; }, 1600);
  });
}

for (const table of document.querySelectorAll("table[data-sortable]")) {
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = html("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => { const raw = row.children[column].dataset.value ?? row.children[column].textContent; return raw !== "" && !Number.isNaN(Number(raw)) ? Number(raw) : raw; };
      const rows = [...table.tBodies[0].rows].sort((a, b) => { const [one, two] = [key(a), key(b)]; return one < two ? -1 : one > two ? 1 : 0; });
      if (down) rows.reverse();
      table.tBodies[0].append(...rows);
    });
  });
}

const ribbon = document.querySelector("[data-ribbon]");
if (ribbon && strips.size) {
  // Evenly spaced classes, each with a real image above a synthetic one.
  const chosen = payload.images.ribbon.filter((label) => strips.has(label));
  for (const label of chosen) {
    const strip = strips.get(label);
    ribbon.append(html("button", { type: "button", "aria-label": `${className(label)}: show images`, title: className(label), onclick: () => chooseClass(label, true) },
      strip.real ? thumb(strip, 0, "") : null, strip.made ? thumb(strip, strip.real, "") : null));
  }
}

const links = new Map([...document.querySelectorAll("nav a[href^='#']")].map((link) => [link.getAttribute("href").slice(1), link]));
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) for (const [id, link] of links) link.toggleAttribute("aria-current", id === entry.target.id);
}, { rootMargin: "-20% 0px -70% 0px" });
for (const id of links.keys()) { const section = document.getElementById(id); if (section) watcher.observe(section); }
if (String(address)) document.getElementById(section())?.scrollIntoView();
root.dataset.ready = "yes";
