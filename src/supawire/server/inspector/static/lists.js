// What the server tells, as lists and tables.

import { ago, clock, count, element, pretty, refill } from "/inspector/draw.js";

const MOST = 500;
const WAYS = { in: "↑ in", out: "↓ out", refused: "✕", other: "•" };
const narrow = matchMedia("(max-width: 40rem)"); // there, three columns are hidden
const find = (selector) => document.querySelector(selector);

// --- who is there

export function drawOverview(overview) {
  title("#connections", overview.connected);
  title("#channels", overview.joined);
  fill("#connections", overview.connections, (it) => String(it.number), connection, "Nobody is connected.");
  drawConnectionChoices(overview.connections);
  fill("#channels", overview.topics, (it) => `${it.private} ${it.topic}`, topic, "Nobody has joined a channel.");
  refill(find("#topics"), overview.topics, (it) => it.topic, (it) => element("option", { value: it.topic }));
  const faults = find("#faults");
  const text = overview.faults.length ? `Faults in force: ${overview.faults.join("; ")}.` : "";
  faults.hidden = text === "";
  if (faults.textContent !== text) faults.textContent = text;
}

function title(section, number) {
  find(`${section} .count`).textContent = number;
}

function fill(section, items, key, draw, nothing) {
  const list = find(`${section} .cards`);
  if (items.length) refill(list, items, key, draw);
  else list.replaceChildren(element("li", { className: "empty" }, nothing));
}

// The connections that a fault may be for; what is chosen stays.
export function drawConnectionChoices(connections) {
  const numbers = connections.map((it) => it.number);
  for (const select of document.querySelectorAll("select[data-kind=connection]")) {
    const items = [{ value: "", text: "all" }, ...numbers.map((number) => ({ value: String(number), text: `#${number}` }))];
    refill(select, items, (it) => it.value, (it) => element("option", { value: it.value }, it.text));
  }
}

function connection(it) {
  const since = element("span", { className: "since" }, `since ${ago(it.opened_at)}`);
  since.dataset.since = it.opened_at;
  const head = element("div", { className: "head" },
    element("strong", {}, `#${it.number}`), chip(it.version), it.state ? chip(it.state, "private") : null, since);
  const channels = it.channels.map((channel) => element("li", {},
    element("b", {}, channel.topic), ` as ${channel.role}`, channel.private ? ", private" : "",
    ...channel.changes.map((change) => element("div", { className: "mono" }, `${change}${channel.ready ? "" : " (not live)"}`))));
  return element("li", {}, head, channels.length ? element("ul", {}, ...channels) : element("p", { className: "hint" }, "in no channel"));
}

function topic(it) {
  const who = it.members.map((number) => `#${number}`).join(" ");
  const head = element("div", { className: "head" },
    element("strong", {}, it.topic), it.private ? chip("private", "private") : null, element("span", { className: "since", title: who }, count(it.members.length, "member", "members")));
  const present = it.present.map((key) => element("li", {},
    element("b", {}, key.key), " ", element("span", { className: "mono" }, key.payloads.join(" "))));
  if (it.keys > it.present.length) present.push(element("li", {}, `and ${it.keys - it.present.length} more`));
  const presence = present.length ? element("ul", { ariaLabel: `Present in ${it.topic}` }, ...present) : null;
  return element("li", {}, head, presence);
}

function chip(text, kind = "") {
  return element("span", { className: `chip ${kind}` }, text);
}

export function drawTimes() {
  for (const since of document.querySelectorAll("[data-since]")) since.textContent = `since ${ago(Number(since.dataset.since))}`;
}

// --- frames

export class Frames {
  constructor() {
    this.kept = [];
    this.missed = 0;
    this.wanted = { text: "", way: "", heartbeats: false, bad: false };
    this.scroll = find("#frames .scroll");
    this.body = find("#frames tbody");
    this.following = true; // the newest frame stays in sight until somebody scrolls up or opens one
    this.body.addEventListener("click", (event) => this.toggle(event.target.closest("tr.frame")));
    this.last = 0; // the number of the newest line
    this.since = 0; // what is exported begins here
    this.act = () => {}; // what a button of an open frame does
    this.scroll.addEventListener("scroll", () => {
      this.following = this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight < 40;
    });
    new ResizeObserver(() => this.follow()).observe(this.scroll);
  }

  follow() {
    if (this.following) this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  add(all, missed = 0) {
    const frames = all.filter((frame) => frame.number >= this.since); // after a reconnect the history comes again
    this.missed += missed;
    this.kept.push(...frames);
    this.last = frames.at(-1)?.number ?? this.last;
    const gone = this.kept.splice(0, Math.max(0, this.kept.length - MOST));
    for (const frame of gone) this.forget(frame);
    this.body.append(...frames.filter((frame) => this.wants(frame)).map((frame) => this.row(frame)));
    this.say();
    this.follow();
  }

  forget(frame) {
    if (frame.row === undefined) return;
    if (frame.row.nextSibling?.classList.contains("more")) frame.row.nextSibling.remove();
    frame.row.remove();
  }

  filter(wanted) {
    this.wanted = wanted;
    this.body.replaceChildren(...this.kept.filter((frame) => this.wants(frame)).map((frame) => this.row(frame)));
    this.say();
    this.following = true;
    this.follow();
  }

  restart() { // the server was started again: its numbers begin at 1
    this.since = 0;
  }

  clear() {
    this.since = this.last + 1;
    this.start();
  }

  start() {
    this.kept = [];
    this.missed = 0;
    this.body.replaceChildren();
    this.say();
  }

  wants(frame) {
    const { text, way, heartbeats, bad } = this.wanted;
    if (way && way !== frame.kind) return false;
    if (bad && !frame.bad) return false;
    if (!heartbeats && frame.topic === "phoenix") return false;
    if (!text) return true;
    const numbers = frame.connections.map((number) => `#${number}`);
    if (/^#\d+$/.test(text)) return numbers.includes(text);
    return [frame.topic, frame.event, frame.user_event, frame.payload].some((part) => part.toLowerCase().includes(text.toLowerCase()));
  }

  say() {
    const shown = this.body.querySelectorAll("tr.frame").length;
    const of = shown === this.kept.length ? `${shown}` : `${shown} of ${this.kept.length}`;
    find("#frames .count").textContent = this.missed ? `${of}, ${this.missed} left out` : of;
    find("#frames .empty").hidden = shown > 0;
  }

  row(frame) {
    const way = WAYS[frame.kind] ?? WAYS.other;
    const others = frame.receivers - frame.connections.length;
    const who = frame.connections.map((number) => `#${number}`).join(" ") + (others > 0 ? ` +${others}` : "");
    const event = element("button", { type: "button", ariaExpanded: "false", title: frame.user_event || frame.event },
      frame.user_event || frame.event || "?", frame.user_event ? element("em", {}, ` ${frame.event}`) : null);
    const topic = frame.topic.replace(/^realtime:/, "");
    frame.row = element("tr", { className: frame.bad ? "frame bad" : "frame" },
      element("td", { className: "time" }, ...clock(frame.at)),
      element("td", { className: `way ${frame.kind}` }, way, frame.bad ? element("span", { className: "hidden" }, " error") : null),
      element("td", { className: "who", title: `${count(frame.receivers, "connection", "connections")}: ${who}` }, who),
      element("td", { title: frame.topic }, topic),
      element("td", {}, event),
      element("td", { className: "code" }, frame.payload.slice(0, 300)),
      element("td", { className: "number" }, String(frame.size)));
    frame.row.frame = frame;
    return frame.row;
  }

  toggle(row) {
    if (!row) return;
    this.following = false;
    const open = row.nextSibling?.classList.contains("more");
    row.querySelector("button").ariaExpanded = String(!open);
    if (open) {
      row.nextSibling.remove();
      return;
    }
    const { kind, topic, ref, binary, cut, payload } = row.frame;
    const isFrame = kind === "in" || kind === "out";
    const form = isFrame ? (binary ? "binary" : "text") : "";
    const facts = [row.frame.bad ? "error" : "", topic, ref ? `ref ${ref}` : "", form, cut ? "the payload is longer than shown" : ""];
    row.after(element("tr", { className: "more" }, element("td", { colSpan: narrow.matches ? 4 : 7 },
      element("p", { className: "hint" }, facts.filter(Boolean).join(" · ")),
      isFrame ? this.buttons(row.frame) : null, element("pre", {}, pretty(payload)))));
  }

  buttons(frame) {
    const output = element("output", { ariaLive: "polite" });
    const button = (name, text, title) => {
      const made = element("button", { type: "button", title }, text);
      made.dataset.act = name;
      made.addEventListener("click", () => this.act(name, frame, output));
      return made;
    };
    const again = frame.kind === "in" ? "Handle this frame again, as if the client had sent it twice" : "Send this frame again";
    return element("div", { className: "row" },
      button("copy", "Copy", "Copy the payload"), button("resend", "Send again", again),
      frame.event === "broadcast" && frame.user_event ? button("edit", "Edit", "Put it into the form for publishing") : null, output);
  }
}

// --- changes of rows

let changed = 0;

export function drawChanges(changes) {
  changed += changes.length;
  const body = find("#changes tbody");
  body.prepend(...changes.map(change).reverse());
  while (body.children.length > MOST) body.lastChild.remove();
  find("#changes .count").textContent = changed;
  find("#changes .empty").hidden = changed > 0;
}

export function clearChanges() {
  changed = 0;
  find("#changes tbody").replaceChildren();
  drawChanges([]);
}

function change(it) {
  const row = it.record && it.old_record && it.old_record !== "{}" ? `${it.record} was ${it.old_record}` : it.record || it.old_record;
  return element("tr", {},
    element("td", { className: "time" }, ...clock(it.at)),
    element("td", { className: it.type }, it.type),
    element("td", { title: it.table }, it.table),
    element("td", { className: "code", title: row }, it.errors ? element("span", { className: "bad" }, `${it.errors} `) : null, row),
    element("td", { className: "number", title: count(it.receivers, "channel received it", "channels received it") }, String(it.receivers)));
}
