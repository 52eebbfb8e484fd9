"use strict";
// Charts from the page's own data, the wall's filter and order, and the dialog that shows a prompt's pictures large.
const read = (id) => JSON.parse(document.getElementById(id).textContent);

function draw(place, figure) {
  const narrow = place.clientWidth < 480;
  const axis = { automargin: true, gridcolor: "#8884", linecolor: "#8888", zeroline: false, fixedrange: true,
                 exponentformat: "none", separatethousands: true };
  const layout = structuredClone(figure.layout);
  layout.xaxis = { ...axis, ...layout.xaxis };
  layout.yaxis = { ...axis, ...layout.yaxis };
  if (narrow) layout.yaxis.title = { ...layout.yaxis.title, font: { size: 11 } };
  Plotly.react(place, figure.data, {
    autosize: true, dragmode: false, hovermode: "closest", paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { family: "system-ui, sans-serif", size: 12 }, margin: { l: 60, r: 14, t: 10, b: 44 },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" }, ...layout,
  }, { displayModeBar: false, responsive: true });
}

function charts() {
  const figures = read("figures");
  for (const place of document.querySelectorAll("[data-chart]")) draw(place, figures.charts[place.dataset.chart]);
  const place = document.getElementById("tradeoff");
  if (!place) return;
  const [quality, cost] = ["quality", "cost"].map((name) => document.getElementById(`tradeoff-${name}`));
  const update = () => {
    const figure = figures.tradeoffs[`${quality.value}|${cost.value}`];
    const words = [quality, cost].map((each) => each.selectedOptions[0].text);
    place.setAttribute("aria-label", `Chart: ${words[0]} against ${words[1]}; the figures are in the tables below.`);
    if (figure) draw(place, figure); else Plotly.purge(place);
    document.getElementById("tradeoff-none").hidden = Boolean(figure);
  };
  quality.addEventListener("change", update);
  cost.addEventListener("change", update);
  update();
}

function wall() {
  const list = document.querySelector(".wall");
  if (!list) return;
  const cards = [...list.children], data = read("cards");
  const [model, filter, order, text] = ["model", "filter", "order", "text"].map((n) => document.getElementById(`wall-${n}`));
  const lost = (card, claim) => {
    const [own, theirs] = [card.cells[model.value].false, card.cells.teacher.false];
    return claim === "any" ? own.length > 0 && theirs.length === 0 : own.includes(claim) && !theirs.includes(claim);
  };
  const loss = { number: (c) => c.number, error: (c) => -c.cells[model.value].error,
                 apart: (c) => -c.cells[model.value].apart, false: (c) => -c.cells[model.value].false.length };
  const more = document.getElementById("wall-more");
  let most = 12;
  more.addEventListener("click", () => { most = Infinity; update(); });
  const update = () => {
    const asked = text.value.toLowerCase(), claim = filter ? filter.value : "";
    const sorted = [...data].sort((a, b) => loss[order.value](a) - loss[order.value](b) || a.number - b.number);
    let count = 0, there = 0;
    for (const card of sorted) {
      const element = cards[data.indexOf(card)];
      const fits = card.text.toLowerCase().includes(asked) && (!claim || lost(card, claim));
      const shown = fits && count < most;
      element.hidden = !shown;
      there += fits;
      count += shown;
      list.append(element);
    }
    document.getElementById("wall-count").textContent = `${count} shown, ${there} found, of ${data.length} prompts`;
    more.hidden = count === there;
  };
  for (const each of [model, filter, order]) each?.addEventListener("change", update);
  text.addEventListener("input", update);
  update();
  enlarge(cards, data, list, model);
}

function enlarge(cards, data, list, chosen) {
  const dialog = document.getElementById("large");
  let card = null, model = null;
  const picture = (name) => cards[data.indexOf(card)].querySelector(`img[data-model="${name}"]`);
  const side = (box, name) => {
    const from = picture(name), image = box.querySelector("img");
    image.src = from.src; image.alt = from.alt; image.className = from.className;
    box.querySelector("figcaption").textContent = from.alt;
  };
  const show = () => {
    dialog.querySelector("h2").textContent = `${card.number}. ${card.text}`;
    side(dialog.querySelector(".left"), "teacher");
    side(dialog.querySelector(".right"), model);
    for (const button of dialog.querySelectorAll("[data-show]")) button.ariaPressed = String(button.dataset.show === model);
  };
  const visible = () => [...list.children].filter((each) => !each.hidden).map((each) => data[cards.indexOf(each)]);
  const move = (by) => {
    const there = visible();
    card = there[(there.indexOf(card) + by + there.length) % there.length];
    show();
  };
  const names = [...dialog.querySelectorAll("[data-show]")].map((each) => each.dataset.show);
  const turn = (by) => { model = names[(names.indexOf(model) + by + names.length) % names.length]; show(); };
  const open = (which, name) => { card = which; model = name; show(); dialog.showModal(); };
  cards.forEach((element, i) => {
    element.querySelector("button").addEventListener("click", () => open(data[i], chosen.value));
    element.addEventListener("click", (event) => {
      const name = event.target.dataset?.model;
      if (name) open(data[i], name === "teacher" ? chosen.value : name);
    });
  });
  for (const button of dialog.querySelectorAll("[data-show]")) {
    button.addEventListener("click", () => { model = button.dataset.show; show(); });
  }
  dialog.querySelector(".before").addEventListener("click", () => move(-1));
  dialog.querySelector(".after").addEventListener("click", () => move(1));
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const act = { ArrowLeft: () => move(-1), ArrowRight: () => move(1), ArrowUp: () => turn(-1), ArrowDown: () => turn(1) };
    if (act[event.key]) { event.preventDefault(); act[event.key](); }
  });
}

// A chart keeps the width that it was drawn with; paper has another.
const PAPER = 660;
const sized = (size) => document.querySelectorAll(".plot .main-svg:first-of-type").forEach((drawn) => {
  Plotly.relayout(drawn.closest(".plot"), size);
});
addEventListener("beforeprint", () => sized({ autosize: false, width: PAPER }));
addEventListener("afterprint", () => sized({ autosize: true, width: null }));

charts();
wall();
