"use strict";
// One page for both ways: answers go to the server that sent it, or stay in this browser and are saved as a file.
// A "way" has state(), begin(), answer(position, value, seconds), picture(position, name) and, for a file, save().

const main = document.getElementById("main");
const message = document.getElementById("message");
const embedded = document.getElementById("study");

class Refused extends Error {}

const byServer = {
  async call(method, path, body) {
    let answer;
    try {
      answer = await fetch(path, {
        method, credentials: "same-origin", headers: body ? { "Content-Type": "application/json" } : {},
        body: body ? JSON.stringify(body) : undefined,
      });
    } catch (error) {
      throw new Error("The server cannot be reached. Your answers so far are kept.");
    }
    const said = await answer.json().catch(() => ({}));
    if (!answer.ok) throw (answer.status < 500 ? new Refused(said.message || `The server said ${answer.status}.`)
      : new Error("The server has a problem. Your answers so far are kept."));
    return said;
  },
  state() { return this.call("GET", "state" + location.search); },
  begin() { return this.call("POST", "begin" + location.search, { agree: true }); },
  answer(position, value, seconds) { return this.call("POST", "answers", { position, value, seconds }); },
  picture(position, name) { return `pictures/${position}/${name}.png`; },
};

function byFile(study) {
  const key = `limner-study-${study.study}-${study.number}`;
  const read = () => { try { return JSON.parse(localStorage.getItem(key)) || null; } catch (error) { return null; } };
  let memory = read();
  const write = () => { try { localStorage.setItem(key, JSON.stringify(memory)); } catch (error) { /* memory stays */ } };
  const asked = new URLSearchParams(location.search).get("PROLIFIC_PID");
  const state = () => ({
    about: study.about, agreed: memory !== null, pages: study.pages,
    next: memory ? memory.answers.length : 0, ended: memory && memory.answers.length >= study.pages.length ? "" : null,
  });
  return {
    async state() { return state(); },
    async begin() { memory = { panel_id: asked, answers: [] }; write(); return state(); },
    async answer(position, value, seconds) {
      memory.answers.push({ position, value, seconds });
      write();
      return state();
    },
    picture(position, name) { return study.pictures[position][name]; },
    save() {
      const file = { study: study.study, rater: study.number, panel_id: memory.panel_id, answers: memory.answers };
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 1)], { type: "application/json" }));
      link.download = `answers-${study.study.slice(0, 12)}-${study.number}.json`;
      link.click();
    },
  };
}

const way = embedded ? byFile(JSON.parse(embedded.textContent)) : byServer;
let state = null;

function node(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties || {});
  made.append(...children);
  return made;
}

function say(text) { message.textContent = text || ""; }

async function act(work) {
  try {
    say("");
    await work();
  } catch (error) {
    say(error.message);
    if (error instanceof Refused) {
      try { state = await way.state(); if (state.agreed) show(); } catch (again) { /* said already */ }
    }
  }
}

function show() {
  document.onkeydown = null;
  const count = state.pages.length;
  document.getElementById("header").hidden = !state.agreed;
  document.getElementById("progress").value = count ? state.next / count : 0;
  document.getElementById("count").textContent = state.agreed ? `${Math.min(state.next, count)} of ${count}` : "";
  main.replaceChildren(...(state.agreed ? (state.next < count ? question() : end()) : consent()));
  window.scrollTo(0, 0);
  const first = main.querySelector("h1");
  if (first) { first.tabIndex = -1; first.focus({ preventScroll: true }); }
}

function consent() {
  const about = state.about;
  if (about.closed) return [node("h1", { textContent: "Thank you" }), node("p", { textContent: about.closed })];
  const box = node("input", { type: "checkbox", id: "agree" });
  const go = node("button", { id: "begin", className: "go", textContent: "Begin", disabled: true });
  box.onchange = () => { go.disabled = !box.checked; };
  go.onclick = () => act(async () => { go.disabled = true; try { state = await way.begin(); show(); } finally { go.disabled = !box.checked; } });
  return [
    node("h1", { textContent: about.title }),
    ...about.paragraphs.map((text) => node("p", { textContent: text })),
    node("label", { className: "agree" }, box, about.agree),
    go,
  ];
}

function figure(position, name, caption) {
  const picture = node("img", { src: way.picture(position, name), alt: caption || "The picture", draggable: false });
  return node("figure", { className: name.split("-")[0] }, picture, node("figcaption", { textContent: caption }));
}

function question() {
  const position = state.next, page = state.pages[position], words = page.words, value = {};
  const began = performance.now();
  let sent = false;
  const send = () => act(async () => {
    if (sent) return;
    sent = true;
    lock(true);
    try { state = await way.answer(position, value, Math.min(9e6, (performance.now() - began) / 1000)); show(); } finally { sent = false; lock(false); }
  });
  const sets = [];
  const lock = (is) => main.querySelectorAll("fieldset button").forEach((one) => { one.disabled = is; });
  const choice = (name, choices) => {
    const keys = {};
    const buttons = choices.map(([label, one, key]) => {
      const button = node("button", { type: "button", textContent: label, id: `${name}-${one}` }, node("kbd", { textContent: key }));
      button.setAttribute("aria-pressed", "false");
      button.onclick = () => {
        if (sent) return;
        value[name] = one;
        buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
        if (Object.keys(value).length === sets.length) send();
      };
      keys[key.toLowerCase()] = button;
      return button;
    });
    const legend = node("legend", { textContent: words[name] });
    sets.push({ name, keys, set: node("fieldset", { id: name }, legend, node("div", { className: "choices" }, ...buttons)) });
  };
  const columns = [];
  if (page.question === "acceptable") {
    columns.push([figure(position, "before", "before")], [figure(position, "after", "after")]);
    choice("made", [["Yes", true, "Y"], ["No", false, "N"]]);
    choice("kept", [["Yes", true, "Y"], ["No", false, "N"]]);
  } else if (page.question === "quality") {
    columns.push([figure(position, "after", "")]);
    choice("rating", [1, 2, 3, 4, 5].map((one) => [String(one), one, String(one)]));
  } else {
    for (const side of ["left", "right"]) columns.push([figure(position, `before-${side}`, "before"), figure(position, `after-${side}`, side)]);
    choice("better", [["Left", "left", "A"], ["Right", "right", "L"]]);
  }
  document.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const open = sets.find((one) => !(one.name in value)) || sets[sets.length - 1]; // keys answer the first open question
    const button = open.keys[event.key.toLowerCase()];
    if (button && !button.disabled) { event.preventDefault(); button.click(); }
  };
  preload(position + 1);
  return [
    node("h1", { textContent: words.title }), node("p", { className: "help", textContent: words.help }),
    node("div", { className: `columns ${page.question}` }, ...columns.map((one) => node("div", { className: "column" }, ...one))),
    ...sets.map((one) => one.set),
  ];
}

function preload(position) {
  const page = state.pages[position];
  if (page) page.pictures.forEach((name) => { new Image().src = way.picture(position, name); });
}

function end() {
  const parts = [node("h1", { textContent: "That was all. Thank you." })];
  if (way.save) {
    const save = node("button", { id: "save", className: "go", textContent: "Save your answers" });
    save.onclick = () => way.save();
    parts.push(node("p", { textContent: "Your answers are in this browser alone. Save them as a file, and send it back to whoever gave you this page." }), save);
  } else {
    parts.push(node("p", { textContent: "Your answers are kept. Your code is" }), node("p", { id: "code", className: "code", textContent: state.ended }));
  }
  return parts;
}

act(async () => { state = await way.state(); show(); });
