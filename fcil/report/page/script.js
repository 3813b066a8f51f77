"use strict";
// Filters choose runs, by what their lines in the table of runs know: those with the chosen values and all words of the
// text among their facts. What is made of other runs alone is hidden: a row, a curve, a point, a chart, a section, a run's own part.
const filters = () => document.querySelector("form[data-filters]");
function apply() {
  const form = filters();
  if (!form) return;
  const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = [...form.querySelectorAll("select")].filter((s) => s.value !== "");
  const lines = [...document.querySelectorAll("[data-facts]")], shown = new Set();
  for (const line of lines) {
    const facts = JSON.parse(line.dataset.facts), text = Object.entries(facts).flat().join(" ").toLowerCase();
    const fits = chosen.every((s) => !(s.name in facts) || facts[s.name] === s.value);
    if (fits && words.every((word) => text.includes(word))) shown.add(line.dataset.runs);
  }
  const among = (runs) => runs.split(" ").filter((run) => shown.has(run));
  let mixed = false; // a mean over runs of which some are not chosen
  for (const part of document.querySelectorAll("[data-runs]")) {
    const runs = part.dataset.runs, left = among(runs).length;
    part.toggleAttribute("hidden", left === 0);
    mixed ||= part.matches("tr") && !part.closest("figure") && left > 0 && left < runs.split(" ").length;
  }
  for (const chart of document.querySelectorAll("svg[data-said]")) {
    const said = JSON.parse(chart.dataset.said).filter(([, runs]) => among(runs).length).map(([text]) => text);
    chart.setAttribute("aria-label", `${chart.dataset.label}: ${said.join(", ")}`);
  }
  const by = [...chosen.map((s) => `${s.name} = ${s.value}`), ...words.map((word) => `with "${word}"`)].join(", ");
  const means = mixed ? " A mean is over all seeds of its row, also those that are not chosen." : "";
  say(document.getElementById("chosen"), `${shown.size} of ${lines.length} runs${by && `: ${by}`}.${means}`);
}
function say(place, text) {
  if (place.textContent !== text) place.textContent = text; // else a screen reader would tell it again and again
}
function begin() {
  const form = filters();
  if (!form) return;
  form.hidden = false;
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  apply();
}
begin();

// Served while runs go on: the page is replaced by a newer one; folds, filters, focus and scrolling stay.
const live = document.getElementById("live");
const kept = () => [...document.querySelectorAll("#page details")];
const name = (fold) => `${fold.closest("[id]")?.id} ${fold.querySelector("summary").textContent}`;
function replace(text) {
  const page = new DOMParser().parseFromString(text, "text/html"), main = page.querySelector("#page");
  if (!main) return;
  const folds = new Map(kept().map((fold) => [name(fold), fold.open]));
  const form = filters(), values = form ? [...form.elements].map((e) => [e.name, e.value]) : [];
  const focused = document.activeElement?.closest("#page")
    ? [...document.querySelectorAll("#page *")].indexOf(document.activeElement) : -1;
  const scrolled = [...document.querySelectorAll("#page .scroll")].map((s) => [s.scrollLeft, s.scrollTop]);
  const numbers = [...document.querySelectorAll("#page .numbers")].map((box) => box.checked);
  const place = [scrollX, scrollY];
  document.querySelector("#page").replaceWith(document.adoptNode(main));
  document.title = page.title;
  for (const fold of kept()) if (folds.has(name(fold))) fold.open = folds.get(name(fold));
  document.querySelectorAll("#page .numbers").forEach((box, i) => { box.checked = numbers[i] ?? box.checked; });
  document.querySelectorAll("#page .scroll").forEach((s, i) => { if (scrolled[i]) [s.scrollLeft, s.scrollTop] = scrolled[i]; });
  for (const [key, value] of values) if (key && filters()?.elements[key]) filters().elements[key].value = value;
  begin();
  if (focused >= 0) document.querySelectorAll("#page *")[focused]?.focus({ preventScroll: true });
  scrollTo(...place);
}
let version = "";
async function look() {
  try {
    if (!document.hidden) {
      const headers = version ? { "If-None-Match": version } : {};
      const reply = await fetch(location.pathname, { headers, cache: "no-store" });
      if (reply.status === 200) {
        version = reply.headers.get("ETag") ?? "";
        replace(await reply.text());
      }
      say(live, reply.status < 400 ? "live" : `not live: ${await reply.text()}`);
    }
  } catch {
    say(live, "not live: fcil watch has ended");
  }
  setTimeout(look, 1000 * Number(live.dataset.seconds));
}
if (live) setTimeout(look, 1000 * Number(live.dataset.seconds));
