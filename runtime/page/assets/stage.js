// The stage: the slider between two pictures, and what lies over them while it is pointed at, or kept by a press.
const chip = (event) => event.target.closest && event.target.closest(".chip");
const overlay = (one) => element.querySelector(`#overlay-${one.dataset.overlay}`);
const kept = (one) => one.getAttribute("aria-pressed") === "true";
const show = (event) => { const one = chip(event); if (one) overlay(one).hidden = false; };
const hide = (event) => { const one = chip(event); if (one && !kept(one)) overlay(one).hidden = true; };
let cut = 50;  // where the slider was left, and what was kept, through the next picture
const pinned = new Set();
const again = () => {
  const slider = element.querySelector("#slider");
  if (slider) {
    slider.value = cut;
    slider.closest(".pair").style.setProperty("--cut", `${cut}%`);
  }
  for (const one of element.querySelectorAll(".chip")) {
    const is = pinned.has(one.textContent);
    one.setAttribute("aria-pressed", String(is));
    overlay(one).hidden = !is;
  }
};
element.addEventListener("input", (event) => {
  if (event.target.id !== "slider") return;
  cut = event.target.value;
  event.target.closest(".pair").style.setProperty("--cut", `${cut}%`);
});
element.addEventListener("pointerover", show);
element.addEventListener("focusin", show);
element.addEventListener("pointerout", hide);
element.addEventListener("focusout", hide);
element.addEventListener("click", (event) => {
  const one = chip(event);
  if (!one) return;
  one.setAttribute("aria-pressed", String(!kept(one)));
  pinned[kept(one) ? "add" : "delete"](one.textContent);
  overlay(one).hidden = !kept(one) && !one.matches(":hover");
});
watch("value", again);
