"""Style and script of the page that `xingaug show` writes; the script reads data from the page only."""

STYLE = """
:root { color-scheme: light; --ink: #1d2430; --soft: #5b6675; --line: #dde2ea; --accent: #2f5fd0; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); margin: 0; background: #f5f6f9; height: 100vh;
  display: grid; grid-template: auto 1fr / 190px 1fr; overflow: hidden; }
header { grid-column: 1 / 3; padding: .7rem 1.1rem; background: #fff; border-bottom: 1px solid var(--line); }
h1 { font-size: 1.1rem; margin: 0; } header p { margin: .1rem 0 0; color: var(--soft); font-size: .85rem; }
header p:empty { display: none; }
nav { overflow-y: auto; border-right: 1px solid var(--line); background: #fff; }
nav button { display: flex; justify-content: space-between; width: 100%; border: 0; background: none; font: inherit;
  padding: .25rem .9rem; cursor: pointer; text-align: left; font-variant-numeric: tabular-nums; }
nav button span { color: var(--soft); } nav button:hover { background: #eef1f7; }
nav button[aria-current=true] { background: var(--accent); color: #fff; }
nav button[aria-current=true] span { color: #fff; }
main { overflow-y: auto; padding: .8rem 1.2rem 2rem; } h2 { font-size: 1.05rem; margin: .9rem 0 .5rem; }
main > p { margin: 0; color: var(--soft); }
.wall { display: grid; gap: 12px 10px; grid-template-columns: repeat(auto-fill, 132px); }
figure { margin: 0; } .frame { position: relative; background: #1b1f27; border-radius: 4px; overflow: hidden; }
.frame img { display: block; width: 100%; } .frame svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.bare svg { display: none; } .lost { color: #fff; padding: 3rem .6rem; font-size: .8rem; }
figcaption { color: var(--soft); font-size: .68rem; line-height: 1.4; overflow-wrap: anywhere; }
"""

SCRIPT = """
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const list = document.getElementById("list"), view = document.getElementById("view");
let current = 0;

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function skeleton(image) {
  const space = "http://www.w3.org/2000/svg", svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", `-0.5 -0.5 ${image.size[0]} ${image.size[1]}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const add = (tag, attributes) => {
    const made = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    svg.append(made);
  };
  const joints = image.joints, width = image.size[1] / 60;
  data.limbs.forEach(([a, b], i) => {
    if (joints[a][2] > 0 && joints[b][2] > 0)
      add("line", {x1: joints[a][0], y1: joints[a][1], x2: joints[b][0], y2: joints[b][1],
        stroke: data.hues[i % data.hues.length], "stroke-width": width});
  });
  for (const [x, y, sure] of joints)
    if (sure > 0) add("circle", {cx: x, cy: y, r: 0.7 * width, fill: sure >= 0.5 ? "#fff" : "#ff3b30"});
  return svg;
}

function picture(image, kind) {
  const figure = element("figure", "", {"data-kind": kind}), frame = element("div", "", {class: "frame"});
  if (image.src) frame.append(element("img", "", {src: image.src, alt: image.file}));
  else frame.append(element("div", "cannot be read", {class: "lost"}));
  if (image.joints.length) frame.append(skeleton(image));
  figure.append(frame);
  const scores = Object.entries(image.gate).map(([name, value]) => `${name} ${value}`);
  const lines = [image.file, image.of && `of ${image.of}`, ...scores, `doubt ${image.doubt}`];
  for (const line of lines.filter(Boolean)) {
    figure.append(element("figcaption", line));
  }
  return figure;
}

function wall(title, images, kind) {
  const section = element("section"), grid = element("div", "", {class: "wall"});
  section.append(element("h2", `${title}: ${images.length}`), grid);
  for (const image of images) grid.append(picture(image, kind));
  return section;
}

function show(number) {
  current = Math.min(Math.max(number, 0), data.identities.length - 1);
  const one = data.identities[current];
  for (const button of list.children) button.setAttribute("aria-current", button.dataset.number === String(current));
  list.children[current].scrollIntoView({block: "nearest"});
  view.replaceChildren(
    element("h2", `Identity ${one.pid}`),
    element("p", `${current + 1} of ${data.identities.length}, doubt ${one.doubt}, ` +
      `${one.rejected} renderings rejected by the gate`),
    wall("Real images and their poses", one.real, "real"),
    wall("Renderings and their target poses", one.made, "made"));
  view.scrollTop = 0;
  history.replaceState(null, "", `#${one.pid}`);
}

data.identities.forEach((one, number) => {
  const button = element("button", String(one.pid), {"data-number": number});
  button.append(element("span", one.doubt.toFixed(2)));
  button.addEventListener("click", () => { button.blur(); show(number); });
  list.append(button);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const moves = {ArrowLeft: current - 1, ArrowRight: current + 1, Home: 0, End: data.identities.length - 1};
  if (event.key in moves) { show(moves[event.key]); event.preventDefault(); }
  else if (event.key === "s" || event.key === "S") view.classList.toggle("bare");
});
const linked = data.identities.findIndex((one) => `#${one.pid}` === location.hash);
show(Math.max(linked, 0));
"""
