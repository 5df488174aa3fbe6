// The brush: strokes that add to the mask on the canvas, or take away; by mouse, finger, pen and keyboard.
const one = (name) => element.querySelector(`#brush-${name}`);
let strokes = [], at = null, painting = false;

const begin = () => {
  const canvas = one("canvas");
  if (!canvas) return;
  strokes = [];
  at = { x: canvas.width / 2, y: canvas.height / 2 };
  const mask = new Image();
  mask.onload = () => canvas.getContext("2d").drawImage(mask, 0, 0, canvas.width, canvas.height);
  mask.src = canvas.dataset.mask;
};
const place = (event) => {
  const canvas = one("canvas"), box = canvas.getBoundingClientRect();
  const fit = Math.min(box.width / canvas.width, box.height / canvas.height);
  const left = (box.width - canvas.width * fit) / 2, top = (box.height - canvas.height * fit) / 2;
  return { x: (event.clientX - box.left - left) / fit, y: (event.clientY - box.top - top) / fit };
};
const line = (from, to) => {
  const canvas = one("canvas"), pen = canvas.getContext("2d");
  pen.globalCompositeOperation = one("take").getAttribute("aria-pressed") === "true" ? "destination-out" : "source-over";
  pen.strokeStyle = canvas.dataset.tint;
  pen.lineWidth = Number(one("size").value);
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(from.x, from.y);
  pen.lineTo(to.x + 0.01, to.y);
  pen.stroke();
};
const keep = () => {
  const canvas = one("canvas");
  strokes.push(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height));
  if (strokes.length > 20) strokes.shift();
};
const cursor = () => {
  const canvas = one("canvas"), ring = one("cursor"), size = Number(one("size").value);
  ring.hidden = document.activeElement !== canvas || painting;
  ring.style.left = `${(100 * at.x) / canvas.width}%`;
  ring.style.top = `${(100 * at.y) / canvas.height}%`;
  ring.style.width = `${(100 * size) / canvas.width}%`;
};
const press = (name, other) => {
  one(name).setAttribute("aria-pressed", "true");
  one(other).setAttribute("aria-pressed", "false");
};

element.addEventListener("pointerdown", (event) => {
  if (event.target.id !== "brush-canvas") return;
  event.preventDefault();
  event.target.setPointerCapture(event.pointerId);
  painting = true;
  keep();
  at = place(event);
  line(at, at);
});
element.addEventListener("pointermove", (event) => {
  if (!painting || event.target.id !== "brush-canvas") return;
  const to = place(event);
  line(at, to);
  at = to;
});
for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => { painting = false; });
element.addEventListener("keydown", (event) => {
  if (event.target.id !== "brush-canvas") return;
  const step = { ArrowLeft: [-4, 0], ArrowRight: [4, 0], ArrowUp: [0, -4], ArrowDown: [0, 4] }[event.key];
  if (event.key === " ") {
    keep();
    line(at, at);
  } else if (step) {
    const canvas = event.target;
    const to = { x: Math.min(canvas.width, Math.max(0, at.x + step[0])), y: Math.min(canvas.height, Math.max(0, at.y + step[1])) };
    if (event.shiftKey) line(at, to);
    at = to;
  } else return;
  event.preventDefault();
  cursor();
});
for (const when of ["focusin", "focusout"]) {
  element.addEventListener(when, (event) => { if (event.target.id === "brush-canvas") setTimeout(cursor); });
}
element.addEventListener("click", (event) => {
  const name = event.target.id;
  if (name === "brush-add") press("add", "take");
  if (name === "brush-take") press("take", "add");
  if (name === "brush-back" && strokes.length) one("canvas").getContext("2d").putImageData(strokes.pop(), 0, 0);
  if (name === "brush-close") trigger("clear");
  if (name === "brush-again") trigger("submit", { painted: one("canvas").toDataURL("image/png") });
});
watch("value", begin);
begin();
