"use strict";

// Of the maps that the server sends: as large as a screen shows them.
const LONGEST = 1024;
const NO_SEGMENT = "no segment";
const STEP = 8;

const at = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;

// The last answer, its pixels, the segment that is shown alone, and where the cross is.
let found = null;
let labels = null;
let confidence = null;
let alone = null;
let place = [0, 0];
// Of images that are asked about one after the other, only the last one is shown.
let asked = 0;

function say(text, wrong = false) {
  at("status").textContent = text;
  at("status").classList.toggle("wrong", wrong);
}

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

async function segmented(file) {
  const body = new FormData();
  body.append("image", file);
  const answer = await fetch(`predict?format=json&maps=${LONGEST}`, { method: "POST", body });
  const tree = await answer.json();
  if (!answer.ok) throw new Error(tree.error);
  return tree;
}

async function show(file) {
  const mine = ++asked;
  say(`Segmenting ${file.name} ...`);
  try {
    // A format that the browser cannot draw has its segments shown all the same.
    const drawn = createImageBitmap(file).catch(() => null);
    const tree = await segmented(file);
    const packed = [tree.maps.labels, tree.maps.confidence];
    const [pixels, sure] = await Promise.all(packed.map(unpacked));
    const picture = await drawn;
    if (mine !== asked) return;
    [found, labels, confidence, alone] = [tree, new Uint16Array(pixels), new Uint8Array(sure), null];
    draw(file.name, picture);
    say("");
  } catch (error) {
    if (mine === asked) say(`${file.name}: ${error.message}`, true);
  }
}

function draw(name, picture) {
  const { width, height } = found.maps;
  for (const canvas of [at("picture"), at("overlay")]) [canvas.width, canvas.height] = [width, height];
  if (picture) at("picture").getContext("2d").drawImage(picture, 0, 0, width, height);
  at("overlay").setAttribute("aria-label", `${name}; arrow keys read it point by point`);
  at("sum").textContent = `${name}, ${found.width} x ${found.height}, confidence ${percent(found.confidence)}`;
  at("segments").replaceChildren(...found.segments.map(row));
  at("here").textContent = "Point at the image for name and confidence.";
  at("cross").hidden = true;
  at("result").hidden = false;
  place = [width >> 1, height >> 1];
  colour();
}

function row(segment) {
  const line = document.createElement("tr");
  const head = line.appendChild(document.createElement("th"));
  head.scope = "row";
  const button = head.appendChild(document.createElement("button"));
  button.type = "button";
  button.setAttribute("aria-pressed", "false");
  const square = button.appendChild(document.createElement("span"));
  square.className = "colour";
  square.style.background = segment.colour;
  button.append(segment.name);
  button.title = "Show it alone";
  button.addEventListener("click", () => {
    alone = alone === segment.id ? null : segment.id;
    for (const other of at("segments").querySelectorAll("button")) {
      other.setAttribute("aria-pressed", String(other === button && alone !== null));
    }
    colour();
  });
  for (const share of [segment.share, segment.confidence]) {
    line.appendChild(document.createElement("td")).textContent = percent(share);
  }
  return line;
}

function colour() {
  const { width, height } = found.maps;
  const context = at("overlay").getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const shown = new Map();
  for (const { id, colour: code } of found.segments) {
    const [red, green, blue] = [1, 3, 5].map((start) => parseInt(code.slice(start, start + 2), 16));
    if (alone === null || alone === id) shown.set(id, ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0);
  }
  labels.forEach((id, index) => { pixels[index] = shown.get(id) ?? 0; });
  context.putImageData(image, 0, 0);
}

function read(x, y) {
  const { width, height } = found.maps;
  place = [Math.min(width - 1, Math.max(0, x)), Math.min(height - 1, Math.max(0, y))];
  const index = place[1] * width + place[0];
  const segment = found.segments.find(({ id }) => id === labels[index]);
  at("here").textContent = `${segment ? segment.name : NO_SEGMENT}, confidence ${percent(confidence[index] / 255)}`;
  at("cross").hidden = false;
  at("cross").style.left = `${(100 * (place[0] + 0.5)) / width}%`;
  at("cross").style.top = `${(100 * (place[1] + 0.5)) / height}%`;
}

function point(event) {
  const box = at("overlay").getBoundingClientRect();
  const { width, height } = found.maps;
  read(
    Math.floor(((event.clientX - box.left) / box.width) * width),
    Math.floor(((event.clientY - box.top) / box.height) * height),
  );
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

at("overlay").addEventListener("pointermove", point);
at("overlay").addEventListener("pointerdown", point);
at("overlay").addEventListener("keydown", (event) => {
  const way = ARROWS[event.key];
  if (!way) return;
  event.preventDefault();
  read(place[0] + STEP * way[0], place[1] + STEP * way[1]);
});

at("opacity").addEventListener("input", () => {
  at("overlay").style.opacity = at("opacity").value / 100;
});
at("overlay").style.opacity = at("opacity").value / 100;

at("file").addEventListener("change", () => {
  if (at("file").files.length) show(at("file").files[0]);
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
  });
}

fetch("names")
  .then((answer) => answer.json())
  .then((about) => {
    at("model").textContent = `${about.method}, K = ${about.num_clusters}, ${about.backbone}`;
  });
