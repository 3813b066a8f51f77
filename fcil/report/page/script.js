"use strict";
// Filters: a row or a run is hidden that has another value of a chosen fact, or lacks a word of the text.
const filters = () => document.querySelector("form[data-filters]");
function apply() {
  const form = filters();
  if (!form) return;
  const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  const chosen = [...form.querySelectorAll("select")].filter((s) => s.value !== "");
  let shown = 0, all = 0;
  for (const row of document.querySelectorAll("[data-facts]")) {
    const facts = JSON.parse(row.dataset.facts), text = (row.dataset.text ?? row.textContent).toLowerCase();
    const fits = chosen.every((s) => !(s.name in facts) || facts[s.name] === s.value);
    row.hidden = !(fits && words.every((word) => text.includes(word)));
    if (row.closest("#runs tbody")) { all += 1; shown += row.hidden ? 0 : 1; }
  }
  form.querySelector("output").textContent = `${shown} of ${all} runs`;
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
function say(text) {
  if (live.textContent !== text) live.textContent = text; // else a screen reader would tell it again and again
}
async function look() {
  try {
    if (!document.hidden) {
      const headers = version ? { "If-None-Match": version } : {};
      const reply = await fetch(location.pathname, { headers, cache: "no-store" });
      if (reply.status === 200) {
        version = reply.headers.get("ETag") ?? "";
        replace(await reply.text());
      }
      say(reply.status < 400 ? "live" : `not live: ${await reply.text()}`);
    }
  } catch {
    say("not live: fcil watch has ended");
  }
  setTimeout(look, 1000 * Number(live.dataset.seconds));
}
if (live) setTimeout(look, 1000 * Number(live.dataset.seconds));
