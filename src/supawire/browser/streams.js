// Shows the live streams of a supawire producer, with supabase-js 2: readStreams(channel, { onUpdate }).subscribe()
// A stream has id, info, kind, status, reason, and text (kind "text"), values ("json") or bytes ("bytes"). status is
// "running", or how it has ended: complete, cancelled, failed, lost, interrupted, corrupt. load(id), if given, returns a
// stored { text, status, reason }, a promise of it, or null; it is called when the producer does not answer.
const ANSWER_TIMEOUTS = [1000, 2000, 4000, 4000] // milliseconds after each request
const encoder = new TextEncoder()

export function readStreams(channel, { id = null, idle = 15000, load = null, onUpdate = () => {}, onEnd = () => {} } = {}) {
  const known = new Map()
  let joined = false
  const request = (payload) => { if (joined) channel.send({ type: "broadcast", event: "stream-request", payload }) }

  function add(name) {
    const stream = { id: name, run: null, info: null, kind: "text", status: "running", reason: null, text: "", values: [],
      length: 0, parts: [], line: "", requests: 0, due: 0, missing: -1, get bytes() { return joinBytes(this.parts) } }
    known.set(name, stream)
    return stream
  }
  function end(stream, status, reason) {
    Object.assign(stream, { status, reason: reason ?? null, due: Infinity })
    onEnd(stream)
  }
  function append(stream, data) {
    stream.parts.push(data)
    stream.length += data.length
    if (stream.kind === "bytes") return
    const text = new TextDecoder().decode(data)
    stream.text += text
    if (stream.kind !== "json") return
    const lines = (stream.line + text).split("\n")
    stream.line = lines.pop()
    for (const line of lines) stream.values.push(JSON.parse(line))
  }
  async function receive(segment) {
    if (typeof segment?.id !== "string" || !(segment.at >= 0) || (id !== null && segment.id !== id)) return
    let stream = known.get(segment.id)
    if (stream?.run && stream.run !== segment.run) {
      if (stream.status === "running") end(stream, "interrupted", "another stream with the same id has begun")
      stream = null
    }
    stream ??= add(segment.id)
    if (stream.status !== "running") return
    Object.assign(stream, { run: segment.run, kind: segment.kind ?? "text", info: segment.info ?? stream.info })
    if (segment.at > stream.length) { // something is missing
      if (segment.first > stream.length) return end(stream, "lost", "the producer no longer has the beginning")
      if (stream.missing !== stream.length) Object.assign(stream, { missing: stream.length, requests: 0, due: 0 })
      return tick()
    }
    const text = segment.text ?? ""
    const data = stream.kind === "bytes" ? Uint8Array.from(atob(text), (c) => c.charCodeAt(0)) : encoder.encode(text)
    const fresh = data.slice(stream.length - segment.at)
    Object.assign(stream, { requests: 0, due: Date.now() + idle })
    if (fresh.length) append(stream, fresh)
    if (fresh.length || segment.info) onUpdate(stream)
    if (segment.end?.length > stream.length) stream.due = 0
    else if (segment.end) {
      const right = segment.end.length === stream.length && (await matches(stream.parts, segment.end.sha256))
      if (stream.status === "running") end(stream, right ? segment.end.status : "corrupt", segment.end.reason)
    }
  }
  function restore(stream, stored) {
    if (stream.status !== "running" || !(stored?.text?.length >= stream.text.length)) return
    const data = encoder.encode(stored.text)
    onUpdate(Object.assign(stream, { text: stored.text, parts: [data], length: data.length }))
    if (stored.status !== "running") end(stream, stored.status, stored.reason)
  }
  async function tick() {
    for (const stream of joined ? known.values() : []) {
      if (Date.now() < stream.due) continue
      if (stream.requests < ANSWER_TIMEOUTS.length) {
        stream.due = Date.now() + ANSWER_TIMEOUTS[stream.requests++]
        request({ want: "data", id: stream.id, at: stream.length })
        if (load && stream.requests === 2) restore(stream, await Promise.resolve(load(stream.id)).catch(() => null))
      } else if (stream.run === null) Object.assign(stream, { requests: 0, due: Date.now() + idle }) // may begin later
      else end(stream, "interrupted", "the producer does not answer")
    }
  }
  channel.on("broadcast", { event: "stream" }, ({ payload }) => receive(payload))
  if (id !== null) add(id)
  const timer = setInterval(tick, 250)
  const subscribe = (callback) => channel.subscribe((status, error) => {
    joined = status === "SUBSCRIBED"
    if (joined && id === null) request({ want: "data" })
    for (const stream of known.values()) if (stream.status === "running") Object.assign(stream, { requests: 0, due: 0 })
    tick()
    callback?.(status, error)
  })
  const steer = (name, data) => request({ want: "steer", id: name, data })
  return { subscribe, steer, cancel: (name) => request({ want: "cancel", id: name }), close: () => clearInterval(timer) }
}
function joinBytes(parts) {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0))
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0)
  return whole
}
async function matches(parts, expected) {
  const digest = await globalThis.crypto?.subtle?.digest("SHA-256", joinBytes(parts)) // on secure pages only
  return !digest || Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("") === expected
}
