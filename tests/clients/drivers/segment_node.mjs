// Calls Segment's node client as it is told on standard input; prints what the client says of its deliveries.
import { text } from 'node:stream/consumers'
import { Analytics } from '@segment/analytics-node'

const { settings, calls, timeout = 30_000 } = JSON.parse(await text(process.stdin))
const analytics = new Analytics(settings)
const errors = []
const delivered = []
analytics.on('error', (error) => errors.push(String(error.reason ?? error.code)))
for (const [method, call] of calls) {
  if (typeof call.timestamp === 'string') call.timestamp = new Date(call.timestamp)
  analytics[method](call, (error, context) => (error ? errors.push(String(error)) : delivered.push(context.event)))
}
await analytics.closeAndFlush({ timeout })
console.log(JSON.stringify({ errors, delivered }))
