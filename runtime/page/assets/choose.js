// Pictures to choose from: a press tells the server which.
element.addEventListener("click", (event) => {
  const one = event.target.closest("[data-choice]");
  if (one) trigger("select", { choice: one.dataset.choice });
});
