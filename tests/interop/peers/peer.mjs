// The official JavaScript client, controlled by lines of JSON: it reads commands from standard input and writes answers and
// events to standard output. `peer.py` is the same for the official Python client; `tests/interop/official.py` starts both.

import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { inspect } from "node:util";
import { RealtimeClient, postgresChangesFilter } from "@supabase/realtime-js";
import WebSocket from "ws";

const require = createRequire(import.meta.url);
const Serializer = require("@supabase/realtime-js/dist/main/lib/serializer.js").default;
const clients = new Map();

const emit = (line) => process.stdout.write(JSON.stringify(line) + "\n");
const toBytes = (hex) => Uint8Array.from(Buffer.from(hex, "hex")).buffer;
const isBytes = (value) => value instanceof ArrayBuffer || ArrayBuffer.isView(value);
const shown = (value) => (isBytes(value) ? { hex: Buffer.from(value).toString("hex") } : value);
const fromJson = (value) => (value && typeof value === "object" && Object.keys(value).join() === "hex" ? toBytes(value.hex) : value);

const inspected = (row) =>
  Object.fromEntries(Object.entries(row).map(([name, value]) => [name, inspect(value, { breakLength: Infinity })]));

function people(state) {
  const plain = ({ presence_ref, ...rest }) => rest;
  return Object.fromEntries(Object.entries(state).map(([key, metas]) => [key, metas.map(plain)]));
}

function channelOf({ client, topic }) {
  return clients.get(client).channels.get(topic);
}

const commands = {
  async open({ client, url, key, vsn, longpoll }) {
    const options = { params: { apikey: key }, vsn, transport: longpoll ? require("@supabase/phoenix").LongPoll : WebSocket };
    clients.set(client, { realtime: new RealtimeClient(url, options), channels: new Map() });
  },

  async join({ client, topic, options, changes }) {
    const { realtime, channels } = clients.get(client);
    const channel = realtime.channel(topic, { config: options });
    channels.set(topic, channel);
    const report = (on, rest) => emit({ client, on, topic, ...rest });
    channel.on("broadcast", { event: "*" }, (message) =>
      report("broadcast", { event: message.event, payload: shown(message.payload), meta: message.meta ?? null }));
    channel.on("system", {}, (payload) => report("system", { payload }));
    if (options.presence?.enabled) {
      channel.on("presence", { event: "sync" }, () => report("sync", { state: people(channel.presenceState()) }));
      channel.on("presence", { event: "join" }, ({ key }) => report("join", { key }));
      channel.on("presence", { event: "leave" }, ({ key }) => report("leave", { key }));
    }
    changes.forEach((binding, number) =>
      channel.on("postgres_changes", binding, (change) =>
        report("change", { number, type: change.eventType, table: change.table, record: change.new, old_record: change.old,
          shown: inspected(change.new) })));
    return await new Promise((resolve) =>
      channel.subscribe((status, error) => {
        report("status", { status, error: error?.message ?? null });
        resolve(error ? `${status}: ${error.message}` : status);
      }));
  },

  async send({ event, payload, ...where }) {
    return await channelOf(where).send({ type: "broadcast", event, payload: fromJson(payload) });
  },

  async http({ event, payload, ...where }) {
    const { success } = await channelOf(where).httpSend(event, fromJson(payload));
    return success ? "ok" : "error";
  },

  async track({ payload, ...where }) {
    return await channelOf(where).track(payload);
  },

  async untrack(where) {
    return await channelOf(where).untrack();
  },

  async state(where) {
    return people(channelOf(where).presenceState());
  },

  async set_auth({ client, token }) {
    await clients.get(client).realtime.setAuth(token);
  },

  async leave(where) {
    return await channelOf(where).unsubscribe();
  },

  async close({ client }) {
    const { realtime } = clients.get(client);
    clients.delete(client);
    await realtime.removeAllChannels();
    await realtime.disconnect();
  },

  // what its builder of filters makes of conditions
  async filters({ conditions }) {
    return conditions.map((each) =>
      each.reduce((builder, { column, op, value, negated }) => builder.add(column, op, value, negated), postgresChangesFilter())
        .build());
  },

  // what its codec makes of frames, without a connection
  async encode({ frames }) {
    const serializer = new Serializer();
    return await Promise.all(frames.map(({ payload, ...frame }) => new Promise((resolve) => {
      const message = { ...frame, payload: { ...payload, payload: fromJson(payload.payload) } };
      serializer.encode(message, (data) => resolve(isBytes(data) ? { hex: Buffer.from(data).toString("hex") } : data));
    })));
  },

  async decode({ frames }) {
    const serializer = new Serializer();
    return await Promise.all(frames.map((frame) => new Promise((resolve) =>
      serializer.decode(fromJson(frame), (message) =>
        resolve({ ...message, payload: { ...message.payload, payload: shown(message.payload.payload) } })))));
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const { id, do: name, ...rest } = JSON.parse(line);
  commands[name](rest).then(
    (ok) => emit({ id, ok: ok ?? null }),
    (error) => emit({ id, error: `${error.name}: ${error.message}` }),
  );
}
process.exit(0);
