// The page's one socket: news of the server come in, orders go out.

import { element } from "/inspector/draw.js";
import { drawFaultButtons, sayFault } from "/inspector/faults.js";
import { clearChanges, drawChanges, drawOverview, drawTimes, Frames } from "/inspector/lists.js";
import { drawResult } from "/inspector/sql.js";

const find = (selector) => document.querySelector(selector);
const frames = new Frames();
let socket = null;
let paused = false;
let wait = 250;
let startedAt = 0;
const waiting = new Map(); // what to do with the answer about a frame, by its number

function connect() {
  socket = new WebSocket(`ws://${location.host}/inspector/live`);
  socket.onopen = () => {
    wait = 250;
    frames.start(); // the history follows, from its beginning
    clearChanges();
    if (paused) order({ do: "look", frames: false });
    sayLink();
  };
  socket.onmessage = (message) => take(JSON.parse(message.data));
  socket.onclose = () => {
    sayLink();
    setTimeout(connect, wait);
    wait = Math.min(wait * 2, 4000);
  };
}

function sayLink() {
  const open = socket.readyState === WebSocket.OPEN;
  const state = !open ? "waiting" : paused ? "paused" : "live";
  const link = find("#link");
  link.dataset.state = state;
  link.textContent = open ? state : "the server does not answer; trying again";
}

function order(what) {
  if (socket.readyState !== WebSocket.OPEN) return false;
  socket.send(JSON.stringify(what));
  return true;
}

function take(news) {
  if (news.about) drawAbout(news.about);
  if (news.overview) drawOverview(news.overview);
  if (news.frames || news.missed) frames.add(news.frames ?? [], news.missed);
  if (news.changes) drawChanges(news.changes);
  for (const answer of news.answers ?? []) answered(answer);
}

function drawAbout(about) {
  const started = new Date(about.started_at * 1000).toLocaleString();
  const facts = [`version ${about.version}`, `${about.level} level`, `started ${started}`];
  find("#about").replaceChildren(...facts.map((fact) => element("li", {}, fact)));
  find("#rows").hidden = about.level !== "memory";
  find("#database").hidden = about.level === "memory";
  if (startedAt && startedAt !== about.started_at) frames.restart();
  startedAt = about.started_at;
  drawFaultButtons(about.faults, (name, values) => order({ do: "fault", name, arguments: values }));
}

// --- forms

function say(form, text, bad = false) {
  const output = form.querySelector("output");
  output.classList.toggle("bad", bad);
  output.textContent = text;
}

function answered(answer) {
  const { to, error = "", keys = {}, number = 0, text = "", result = null } = answer;
  if (to === "keys") drawKeys(keys);
  else if (to === "emit") say(find("#emit"), error || "emitted", error !== "");
  else if (to === "fault") sayFault(error || "done", error !== "");
  else if (to === "sql") drawResult(result, error);
  else if (to === "export") exported(text, error);
  else if (to === "resend" || to === "payload") {
    waiting.get(number)?.(text, error);
    waiting.delete(number);
  } else say(find("#broadcast"), error || "sent", error !== "");
}

function json(form, name) {
  const field = form.elements[name];
  try {
    const value = JSON.parse(field.value);
    field.removeAttribute("aria-invalid");
    return value;
  } catch (error) {
    field.setAttribute("aria-invalid", "true");
    field.focus();
    throw new Error(`not JSON: ${error.message}`);
  }
}

function onSubmit(selector, make) {
  const form = find(selector);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    say(form, "");
    try {
      if (!order(make(form))) say(form, "the server does not answer", true);
    } catch (error) {
      say(form, error.message, true);
    }
  });
}

onSubmit("#broadcast", (form) => ({
  do: "publish",
  topic: form.elements.topic.value,
  event: form.elements.event.value,
  payload: json(form, "payload"),
  private: form.elements.private.checked,
}));

onSubmit("#emit", (form) => {
  const type = form.elements.type.value;
  return {
    do: "emit",
    type,
    table: form.elements.table.value,
    record: type === "DELETE" ? null : json(form, "record"),
    old_record: type === "INSERT" ? null : json(form, "old_record"),
  };
});

find("#emit").elements.type.addEventListener("change", (event) => {
  for (const label of document.querySelectorAll("#emit [data-for]")) label.hidden = !label.dataset.for.includes(event.target.value);
});

// --- frames

const filter = find("#filter");
filter.addEventListener("submit", (event) => event.preventDefault());
filter.addEventListener("input", () => {
  const { text, way, heartbeats, bad } = filter.elements;
  frames.filter({ text: text.value.trim(), way: way.value, heartbeats: heartbeats.checked, bad: bad.checked });
});

find("#pause").addEventListener("click", () => {
  paused = !paused;
  find("#pause").ariaPressed = String(paused);
  find("#pause").textContent = paused ? "Go on" : "Pause";
  order({ do: "look", frames: !paused });
  sayLink();
});

find("#clear").addEventListener("click", () => {
  frames.clear();
  sayExport("");
});

// A button of an open frame.
frames.act = async (name, frame, output) => {
  const tell = (text, bad = false) => {
    output.textContent = text;
    output.classList.toggle("bad", bad);
  };
  const ask = (what) => new Promise((done, fail) => {
    waiting.set(frame.number, (text, error) => (error ? fail(new Error(error)) : done(text)));
    if (!order({ do: what, number: frame.number })) fail(new Error("the server does not answer"));
  });
  try {
    if (name === "resend") {
      await ask("resend");
      tell("sent again");
      return;
    }
    const text = frame.cut ? await ask("payload") : frame.payload;
    if (name === "copy") {
      await navigator.clipboard.writeText(text);
      tell("copied");
    } else {
      edit(frame, text);
    }
  } catch (error) {
    tell(error.message, true);
  }
};

function edit(frame, text) {
  const fields = find("#broadcast").elements;
  let payload = text;
  try {
    const value = JSON.parse(text);
    payload = JSON.stringify(!frame.binary && value?.type === "broadcast" ? value.payload : value);
  } catch {
    // raw bytes or a cut payload: shown as it is
  }
  fields.topic.value = frame.topic.replace(/^realtime:/, "");
  fields.event.value = frame.user_event;
  fields.payload.value = payload;
  fields.payload.focus();
}

for (const button of document.querySelectorAll("[data-export]")) {
  button.addEventListener("click", () => {
    find("#frames-output").dataset.form = button.dataset.export;
    if (!order({ do: "export", form: button.dataset.export, since: frames.since })) sayExport("the server does not answer", true);
  });
}

function sayExport(text, bad = false) {
  const output = find("#frames-output");
  output.textContent = text;
  output.classList.toggle("bad", bad);
}

function exported(text, error) {
  if (error) {
    sayExport(error, true);
    return;
  }
  const name = find("#frames-output").dataset.form === "pytest" ? "test_recorded.py" : "recording.jsonl";
  const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
  sayExport(`saved ${name}`);
}

// --- SQL

find("#sql").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = find("#sql").elements.text.value;
  if (!text.trim()) return;
  say(find("#sql"), "running");
  if (!order({ do: "sql", text })) say(find("#sql"), "the server does not answer", true);
});

find("#sql textarea").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("#sql").requestSubmit();
});

// --- keys

find("#show-keys").addEventListener("click", () => {
  if (find("#keys").hidden) order({ do: "keys" });
  else hideKeys();
});

function hideKeys() {
  find("#keys dl").replaceChildren();
  toggleKeys(false);
}

function toggleKeys(open) {
  find("#keys").hidden = !open;
  find("#show-keys").ariaExpanded = String(open);
  find("#show-keys").textContent = open ? "Hide keys" : "Show keys";
}

function drawKeys(keys) {
  const rows = { "URL": location.origin, "anon key": keys.anon, "service key": keys.service };
  find("#keys dl").replaceChildren(...Object.entries(rows).flatMap(([name, value]) => {
    const copy = element("button", { type: "button", ariaLabel: `Copy ${name}` }, "Copy");
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(value);
      copy.textContent = "Copied";
    });
    return [element("dt", {}, name), element("dd", {}, element("code", { tabIndex: 0 }, value)), copy];
  }));
  toggleKeys(true);
}

frames.say();
setInterval(drawTimes, 1000);
connect();
