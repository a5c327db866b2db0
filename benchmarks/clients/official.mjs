// The official JavaScript client: `node benchmarks/clients/official.mjs URL TOPIC TASK PACKAGES`, where PACKAGES is the
// folder that has it installed. Its half of the talk with the runner is that of meter.py, and of cold.py.

import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [url, topic, text, packages] = process.argv.slice(2);
const task = JSON.parse(text);
const require = createRequire(resolve(packages, "package.json"));

const say = (line) => process.stdout.write(line + "\n");
const cpu = () => { const { user, system } = process.cpuUsage(); return (user + system) / 1e6; };
const clock = () => performance.now() / 1000;

let left = 0;
let began = [0, 0];
let seen;

const start = () => { began = [cpu(), clock()]; };
const stop = (more) => say(JSON.stringify({ cpu: cpu() - began[0], wall: clock() - began[1], ...more }));
const count = () => { left -= 1; if (left === 0) stop(); };

const topicOf = (number) => (number === 0 ? topic : `${topic}-${number}`);
const tableOf = (number) => (number === 0 ? "todos" : `todos_${number}`);
const message = (number) => ({
  user: `user-${String(number).padStart(4, "0")}`, x: number * 1.5, y: 77.25,
  at: `2026-11-24T05:47:${String(number % 60).padStart(2, "0")}.674Z`, tool: "pen", down: true,
});

if (task.does === "import" || task.does === "start") say("joined");
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
if (task.does === "import" || task.does === "start") { await lines.next(); say("ready"); start(); }

const { RealtimeClient } = require("@supabase/realtime-js");
const transport = require("ws");

const newClient = () => new RealtimeClient(`${url.replace("http", "ws")}/realtime/v1`, { params: { apikey: "key" }, vsn: "2.0.0", transport });
const channelOf = (client, name) => client.channel(name, { config: {
  broadcast: { ack: task.does === "ack" }, presence: { key: String(task.members || ""), enabled: task.members > 0 } } });
const subscribed = (channel) => new Promise((resolve, reject) =>
  channel.subscribe((status, error) => (status === "SUBSCRIBED" ? resolve() : reject(error ?? new Error(status)))));

async function listen(client) {
  for (let number = 0; number < task.channels; number++) {
    const channel = channelOf(client, topicOf(number));
    let synced;
    const there = new Promise((resolve) => { synced = resolve; });
    if (task.kind === "change") {
      for (let binding = 0; binding < task.bindings; binding++)
        channel.on("postgres_changes", { event: "*", schema: "public", table: tableOf(binding) }, (change) => { seen = change.new; count(); });
    } else if (task.kind === "diff") {
      channel.on("presence", { event: "sync" }, () => { synced(); if (task.reads === "state") { seen = channel.presenceState(); if (Object.keys(seen).length <= seen["user-1"].length) throw new Error("somebody is missing"); } count(); });
    } else {
      channel.on("broadcast", { event: "cursor" }, (message) => { seen = message.payload; count(); });
    }
    await subscribed(channel);
    if (task.members) await there;
  }
}

async function takeState(client) {
  const channel = channelOf(client, topic);
  const there = new Promise((resolve) => channel.on("presence", { event: "sync" }, resolve));
  await subscribed(channel);
  await there;
  if (Object.keys(channel.presenceState()).length !== task.members) throw new Error("somebody is missing");
  await client.removeChannel(channel);
}

const breath = (number) => (number % 32 === 0 ? new Promise((resolve) => setTimeout(resolve, 1)) : null);

let pause;

async function send(times) {
  if (pause === undefined) { // measured before the first message, since pauses would do work that messages leave behind
    for (let number = 0; number < 100; number++) await breath(0);
    const before = cpu();
    for (let number = 0; number < 400; number++) await breath(0);
    pause = (cpu() - before) / 400;
  }
  const began = cpu();
  for (let number = 0; number < times; number++) {
    await channel.send({ type: "broadcast", event: "cursor", payload: message(number % 512) });
    await breath(number);
  }
  stop({ cpu: cpu() - began - pause * Math.ceil(times / 32) });
}

async function roundTrips(times, once) {
  const took = [];
  for (let number = 0; number < times; number++) {
    const before = clock();
    await once();
    took.push(clock() - before);
  }
  took.sort((one, other) => one - other);
  return { p50: took[Math.floor(times / 2)] * 1e6, p99: took[Math.floor((times * 99) / 100)] * 1e6 };
}

async function joinAll(client, channels) {
  const joins = [];
  for (let number = 0; number < channels; number++) {
    const channel = client.channel(topicOf(number));
    channel.on("broadcast", { event: "cursor" }, () => {});
    joins.push(subscribed(channel));
  }
  await Promise.all(joins);
  return client;
}

async function memory() {
  const many = task.channels === 1 ? 10 : task.channels;
  const kept = [];
  const used = () => { gc(); gc(); const { heapUsed, external, rss } = process.memoryUsage(); return [heapUsed + external, rss]; };
  const more = async (prefix) => {
    if (task.channels > 1) {
      for (let number = 0; number < many; number++) {
        const channel = kept[0].channel(`${topic}-${prefix}-${number}`);
        channel.on("broadcast", { event: "cursor" }, () => {});
        await subscribed(channel);
      }
    } else {
      for (let number = 0; number < many; number++) {
        kept.push(newClient());
        const channel = kept.at(-1).channel(`${topic}-${prefix}-${number}`);
        channel.on("broadcast", { event: "cursor" }, () => {});
        await subscribed(channel);
      }
    }
  };
  kept.push(newClient());
  await more("warm");
  const before = used();
  await more("more");
  const after = used();
  return { traced: (after[0] - before[0]) / many / 1024, rss: (after[1] - before[1]) / many / 1024 };
}

switch (task.does) {
  case "import": break;
  case "start": await joinAll(newClient(), 1); break;
  case "receive": await listen(newClient()); break;
}
if (task.does === "import" || task.does === "start") { stop(); await lines.next(); process.exit(0); }

const client = task.does === "join" || task.does === "memory" ? null : newClient();
const channel = task.does === "send" || task.does === "ack" ? channelOf(client, topic) : null;
if (channel) await subscribed(channel);
say("joined");
for (let line = await lines.next(); !line.done; line = await lines.next()) {
  left = Number(line.value);
  const times = left;
  start();
  say("ready");
  switch (task.does) {
    case "send": await send(times); break;
    case "ack": stop(await roundTrips(times, () => channel.send({ type: "broadcast", event: "cursor", payload: message(1) }))); break;
    case "state": for (let number = 0; number < times; number++) await takeState(client); stop(); break;
    case "join": await joinAll(newClient(), task.channels); stop(); break;
    case "memory": stop(await memory()); break;
  }
}
process.exit(0);
