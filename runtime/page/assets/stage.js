// The stage: the slider between two pictures, and what lies over them while it is pointed at, or kept by a press.
const chip = (event) => event.target.closest && event.target.closest(".chip");
const overlay = (one) => element.querySelector(`#overlay-${one.dataset.overlay}`);
const kept = (one) => one.getAttribute("aria-pressed") === "true";
const show = (event) => { const one = chip(event); if (one) overlay(one).hidden = false; };
const hide = (event) => { const one = chip(event); if (one && !kept(one)) overlay(one).hidden = true; };
element.addEventListener("input", (event) => {
  if (event.target.id === "slider") event.target.closest(".pair").style.setProperty("--cut", `${event.target.value}%`);
});
element.addEventListener("pointerover", show);
element.addEventListener("focusin", show);
element.addEventListener("pointerout", hide);
element.addEventListener("focusout", hide);
element.addEventListener("click", (event) => {
  const one = chip(event);
  if (!one) return;
  one.setAttribute("aria-pressed", String(!kept(one)));
  overlay(one).hidden = !kept(one) && !one.matches(":hover");
});
