// The official JavaScript client: `node benchmarks/clients/official.mjs URL TOPIC SCENARIO PACKAGES`, where PACKAGES is the
// folder that has it installed. Its half of the talk with the runner is that of meter.py.

import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [url, topic, scenario, packages] = process.argv.slice(2);
const require = createRequire(resolve(packages, "package.json"));
const { RealtimeClient } = require("@supabase/realtime-js");
const transport = require("ws");

const say = (line) => process.stdout.write(line + "\n");
const cpu = () => { const { user, system } = process.cpuUsage(); return (user + system) / 1e6; };
const clock = () => performance.now() / 1000;

let left = 0;
let began = [0, 0];
let seen;

function count() {
  left -= 1;
  if (left === 0) say(JSON.stringify({ cpu: cpu() - began[0], wall: clock() - began[1] }));
}

const client = new RealtimeClient(`${url.replace("http", "ws")}/realtime/v1`, { params: { apikey: "key" }, vsn: "2.0.0", transport });
const channel = client.channel(topic);
if (scenario.startsWith("change")) {
  channel.on("postgres_changes", { event: "*", schema: "public", table: "todos" }, (change) => { seen = change.new; count(); });
} else {
  channel.on("broadcast", { event: "cursor" }, (message) => { seen = message.payload; count(); });
}
await new Promise((resolve, reject) =>
  channel.subscribe((status, error) => (status === "SUBSCRIBED" ? resolve() : reject(error ?? new Error(status)))));
say("joined");
for await (const line of createInterface({ input: process.stdin })) {
  left = Number(line);
  began = [cpu(), clock()];
  say("ready");
}
process.exit(0);
