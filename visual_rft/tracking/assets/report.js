// What moves in a report: the values under the pointer of a chart, and the rollouts step by step.
// Whatever a model or a user wrote enters the page as text, never as HTML.
"use strict";

function html(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function svg(tag, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

const AT_ONCE = 4;

const number = (value, signed = false) => (value === null ? "-" : (signed && value > 0 ? "+" : "") + value.toFixed(2));

// Charts

function follow(drawing) {
  const { ends: [left, right], steps, series } = JSON.parse(drawing.dataset.chart);
  const span = steps.at(-1) - steps[0] || 1;
  const even = "even" in drawing.dataset; // bars stand beside each other whatever their steps are
  const places = steps.map((step, i) => left + (right - left) * (even ? i / (steps.length - 1 || 1) : (step - steps[0]) / span));
  const { width, height } = drawing.viewBox.baseVal;
  const guide = svg("line", { class: "guide", y1: 16, y2: height - 22 });
  const told = html("output", "told");
  let at = steps.length - 1;

  function show(index) {
    at = Math.max(0, Math.min(index, steps.length - 1));
    guide.setAttribute("x1", places[at]);
    guide.setAttribute("x2", places[at]);
    drawing.append(guide);
    const lines = series.filter(([, , values]) => values[at] !== null).map(([label, kind, values]) => {
      const line = html("div", "", ...(series.length > 1 ? [html("i", kind)] : []), label ? label + " " : "");
      line.append(html("b", "", String(values[at])));
      return line;
    });
    told.replaceChildren(html("div", "", "step " + steps[at]), ...lines);
    told.style[places[at] > width / 2 ? "left" : "right"] = "0";
    told.style[places[at] > width / 2 ? "right" : "left"] = "auto";
    drawing.parentNode.append(told);
  }

  function hide() {
    guide.remove();
    told.remove();
  }

  function point(event) {
    const box = drawing.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * width;
    show(places.reduce((best, place, i) => (Math.abs(place - x) < Math.abs(places[best] - x) ? i : best), 0));
  }

  drawing.tabIndex = 0;
  drawing.addEventListener("pointermove", point);
  drawing.addEventListener("pointerdown", point);
  drawing.addEventListener("pointerleave", hide);
  drawing.addEventListener("blur", hide);
  drawing.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) show(guide.isConnected ? at + by : at);
  });
}

// Rollouts

const kind = ({ advantage }) => (advantage > 0 ? "up" : advantage < 0 ? "down" : "level");

function rectangle([x, y, width, height], className) {
  return svg("rect", { class: className, x, y, width, height });
}

function picture(question, completions, image) {
  const [width, height] = question.size;
  const drawing = svg("svg", { class: "picture", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": question.name });
  if (image) {
    const style = question.sharp ? "image-rendering:pixelated" : "";
    drawing.append(svg("image", { href: image, width, height, preserveAspectRatio: "none", style }));
  } else {
    drawing.append(svg("rect", { class: "canvas", width, height }));
  }
  const layers = completions.map((completion) => {
    const layer = svg("g", { class: kind(completion) });
    for (const box of completion.boxes) {
      layer.append(rectangle(box, ""));
      layer.append(svg("text", { x: box[0] + 2, y: Math.max(box[1] - 4, 13) }, box[4]));
    }
    drawing.append(layer);
    return layer;
  });
  for (const box of question.boxes) drawing.append(rectangle(box, "truth"));
  return [drawing, layers];
}

function row(completion) {
  const { reward, advantage, refused, parts, tokens, finished, text } = completion;
  const facts = [...parts.map(([name, value]) => `${name} ${number(value)}`), `${tokens} tokens${finished ? "" : ", cut off"}`];
  const head = html("p", "", html("small", "", "reward "), html("b", "", number(reward)), html("small", "", " advantage "));
  head.append(html("b", `advantage ${kind(completion)}`, number(advantage, true)), " ");
  if (refused) head.append(html("span", "refused", refused), " ");
  head.append(html("small", "", facts.join(" · ")));
  const made = html("li", "completion", head, html("pre", "", text));
  made.tabIndex = 0;
  return made;
}

function group(question, all, shown, image) {
  const [drawing, layers] = picture(question, shown, image);
  const mean = all.reduce((sum, { reward }) => sum + (reward ?? 0), 0) / all.length;
  const rows = shown.map(row);
  rows.forEach((one, index) => {
    const only = (chosen) => () => {
      drawing.classList.toggle("one", chosen);
      layers[index].classList.toggle("chosen", chosen);
    };
    for (const event of ["pointerenter", "focus"]) one.addEventListener(event, only(true));
    for (const event of ["pointerleave", "blur"]) one.addEventListener(event, only(false));
  });
  const look = html("div", "look", html("p", "", html("b", "", question.name), ` mean reward ${mean.toFixed(2)}`), drawing);
  if (question.truth) look.append(html("p", "", `truth: ${question.truth}`));
  if (question.asked) look.append(html("details", "", html("summary", "", "Question"), html("pre", "", question.asked)));
  return html("article", "group", look, html("ol", "", ...rows));
}

function explore(island) {
  const { filters, steps, questions, images } = JSON.parse(island.textContent);
  const [slider, refusal, words, at, matches, place] = ["step", "refusal", "words", "at", "matches", "groups"].map((id) => document.getElementById(id));
  slider.max = steps.length - 1;
  refusal.append(...filters.map((name, i) => new Option(name, i)));

  function passes({ refused, text }) {
    const chosen = Number(refusal.value);
    const right = chosen === 0 || (chosen === 1 ? refused === null : refused === filters[chosen]);
    return right && text.toLowerCase().includes(words.value.toLowerCase());
  }

  const found = ([, groups]) => groups.map(([question, all]) => [question, all, all.filter(passes)]).filter(([, , shown]) => shown.length);
  const count = (step) => found(step).reduce((sum, [, , shown]) => sum + shown.length, 0);

  function show() {
    const step = steps[slider.value];
    const here = found(step);
    const total = step[1].reduce((sum, [, all]) => sum + all.length, 0);
    at.textContent = step[0];
    slider.setAttribute("aria-valuetext", `step ${step[0]}`);
    const everywhere = steps.map(count);
    const others = everywhere.filter((some, i) => some && i !== Number(slider.value)).length;
    matches.textContent = `${count(step)} of ${total} completions of this step; ${everywhere.reduce((a, b) => a + b)} in all, in ${others} other steps`;
    place.replaceChildren();
    more(here);
  }

  // So many groups, and a button for the others: a step may hold hundreds.
  function more(left) {
    place.append(...left.slice(0, AT_ONCE).map(([question, all, shown]) => {
      const asked = questions[question];
      return group(asked, all, [...shown].sort((a, b) => (b.reward ?? -Infinity) - (a.reward ?? -Infinity)), images[asked.image]);
    }));
    const others = left.slice(AT_ONCE);
    if (!others.length) return;
    const button = html("button", "more", `${others.length} more groups of this step`);
    button.type = "button";
    button.addEventListener("click", () => {
      button.remove();
      more(others);
    });
    place.append(button);
  }

  // The nearest step in this direction where something passes the filter.
  function go(by) {
    let index = Number(slider.value) + by;
    while (index in steps && !count(steps[index])) index += by;
    if (index in steps) slider.value = index;
    show();
  }

  document.getElementById("earlier").addEventListener("click", () => go(-1));
  document.getElementById("later").addEventListener("click", () => go(1));
  for (const control of [slider, refusal, words]) control.addEventListener("input", show);
  for (const link of document.querySelectorAll("[data-step]")) {
    link.addEventListener("click", () => {
      const distance = ([step]) => Math.abs(step - Number(link.dataset.step));
      slider.value = steps.reduce((best, step, i) => (distance(step) < distance(steps[best]) ? i : best), 0);
      show();
    });
  }
  show();
}

document.querySelectorAll("[data-chart]").forEach(follow);
const island = document.getElementById("rollouts");
if (island) explore(island);
