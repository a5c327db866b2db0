// Reads one stream with supabase-js and the module of supawire: `node streams.mjs URL KEY MODULE`; prints what it got.
import { createClient } from "@supabase/supabase-js"
import ws from "ws"

const [url, key, module] = process.argv.slice(2)
const { readStreams } = await import(module)
const client = createClient(url, key, { realtime: { transport: ws } })
const updates = []
const streams = readStreams(client.channel("room"), {
  most: 100_000,
  onUpdate: (stream) => updates.push(stream.length),
  onEnd: ({ id, kind, info, status, reason, text, values, bytes }) => {
    const got = { id, kind, info, status, reason, text, values, bytes: [...bytes], updates: updates.splice(0).length }
    console.log(JSON.stringify(got))
  },
})
streams.subscribe((status) => console.log(JSON.stringify({ subscribed: status })))
process.stdin.on("data", (line) => {
  const [action, ...rest] = JSON.parse(line)
  if (action === "close") { streams.close(); client.removeAllChannels().then(() => process.exit(0)) }
  else streams[action](...rest)
})
