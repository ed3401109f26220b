// Signs a body as Octokit does, and says whether it takes another's signature.
import { text } from 'node:stream/consumers'
import { sign, verify } from '@octokit/webhooks-methods'

const { secret, body, theirs } = JSON.parse(await text(process.stdin))
console.log(JSON.stringify({ signature: await sign(secret, body), verified: await verify(secret, body, theirs) }))
