// Calls Jitsu's client as it is told on standard input; prints what its error policy was told.
import { text } from 'node:stream/consumers'
import jitsu from '@jitsu/js'

const { settings, calls } = JSON.parse(await text(process.stdin))
const errors = []
const analytics = jitsu.jitsuAnalytics({ ...settings, errorPolicy: (message) => errors.push(message) })
for (const [method, ...args] of calls) await analytics[method](...args)
console.log(JSON.stringify({ errors }))
