// Shows the live streams of a supawire producer, with supabase-js 2: readStreams(channel, { onUpdate }).subscribe()
// A stream has id, info, kind, status, reason, and text (kind "text"), values ("json") or bytes ("bytes"). status is
// "running", or how it has ended: complete, cancelled, failed, lost, interrupted, corrupt, too_large (than `most` bytes).
// load(id), if given, returns a stored { kind, info, text, status, reason }, a promise of it, or null; it is called when no
// producer answers. The newest 1000 streams are remembered.
const ANSWER_TIMEOUTS = [1000, 2000, 4000, 4000] // milliseconds after each request
const [encoder, decoder] = [new TextEncoder(), new TextDecoder("utf-8", { ignoreBOM: true })]

export function readStreams(channel, { id = null, idle = 15000, most = 16777216, load = null, onUpdate, onEnd } = {}) {
  const known = new Map()
  let [joined, closed] = [false, false]
  const request = (payload) => { if (joined) channel.send({ type: "broadcast", event: "stream-request", payload }) }

  function add(name) {
    const stream = { id: name, run: null, info: null, kind: "text", status: "running", reason: null, text: "", values: [],
      length: 0, parts: [], line: "", requests: 0, due: 0, missing: -1, get bytes() { return joinBytes(this.parts) } }
    known.set(name, stream)
    if (known.size > 1000) forget(known.values().next().value, "too many streams are read at once")
    return stream
  }
  const end = (stream, status, reason = null) => onEnd?.(Object.assign(stream, { status, reason, due: Infinity }))
  const forget = (stream, reason) => known.delete(stream.id) && stream.status === "running" && end(stream, "interrupted", reason)
  function take(stream, text, at) { // adds a text that begins at this offset; returns whether something is new
    try {
      const data = stream.kind === "bytes" ? Uint8Array.from(atob(text), (c) => c.charCodeAt(0)) : encoder.encode(text)
      const fresh = data.slice(stream.length - at)
      if (!fresh.length) return false
      if (stream.length + fresh.length > most) return end(stream, "too_large", `the stream has more than ${most} bytes`)
      const part = stream.kind === "bytes" ? "" : decoder.decode(fresh)
      const lines = stream.kind === "json" ? (stream.line + part).split("\n") : [""]
      stream.parts.push(fresh)
      Object.assign(stream, { length: stream.length + fresh.length, text: stream.text + part, line: lines.pop() })
      for (const line of lines) stream.values.push(JSON.parse(line))
      return true
    } catch { end(stream, "corrupt", "a segment is not valid") }
  }
  async function receive(segment) {
    if (closed || typeof segment?.id !== "string" || !(segment.at >= 0) || (id !== null && segment.id !== id)) return
    const last = known.get(segment.id)
    if (last?.run && last.run !== segment.run) forget(last, "another stream with the same id has begun")
    const stream = known.get(segment.id) ?? add(segment.id)
    if (stream.status !== "running") return
    Object.assign(stream, { run: segment.run, kind: segment.kind ?? "text", info: segment.info ?? stream.info })
    if (segment.at > stream.length) { // something is missing
      if (segment.first > stream.length) return end(stream, "lost", "the producer no longer has the beginning")
      if (stream.missing !== stream.length) Object.assign(stream, { missing: stream.length, requests: 0, due: 0 })
      return tick()
    }
    Object.assign(stream, { requests: 0, due: Date.now() + idle })
    const fresh = take(stream, segment.text ?? "", segment.at)
    if (stream.status !== "running") return
    if (fresh || segment.info) onUpdate?.(stream)
    if (segment.end?.length > stream.length) stream.due = 0
    else if (segment.end) {
      const { status, length, sha256, reason } = segment.end
      const right = length === stream.length && !(stream.line && status === "complete") && await matches(stream.parts, sha256)
      if (stream.status === "running") end(stream, right ? status : "corrupt", reason)
    }
  }
  function restore(stream, stored) {
    if (closed || stream.status !== "running" || !(stored?.text?.length >= stream.text.length)) return
    const { kind = stream.kind, info = stream.info } = stored
    take(Object.assign(stream, { kind, info, text: "", values: [], line: "", parts: [], length: 0 }), stored.text, 0)
    if (stream.status === "running") onUpdate?.(stream)
    if (stream.status === "running" && stored.status !== "running") end(stream, stored.status, stored.reason)
  }
  async function tick() {
    for (const stream of joined && !closed ? known.values() : []) {
      if (Date.now() < stream.due) continue
      if (stream.requests < ANSWER_TIMEOUTS.length) {
        stream.due = Date.now() + ANSWER_TIMEOUTS[stream.requests++]
        request({ want: "data", id: stream.id, at: stream.length })
        if (load && stream.requests === 2) restore(stream, await Promise.resolve(stream.id).then(load).catch(() => null))
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
  const close = () => { clearInterval(timer); closed = true }
  return { subscribe, steer, cancel: (name) => request({ want: "cancel", id: name }), close }
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
