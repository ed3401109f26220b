// A gateway as a team writes one in an afternoon: Fastify and @platformatic/kafka. It parses, produces, waits.
import { Producer, ProduceAcks, stringSerializers } from '@platformatic/kafka'
import Fastify from 'fastify'

const config = JSON.parse(process.argv[2])
const producer = new Producer({
  clientId: 'gateway',
  bootstrapBrokers: config.bootstrap.split(','),
  serializers: stringSerializers,
  idempotent: true,
  acks: ProduceAcks.ALL,
  compression: 'lz4'
})
const app = Fastify({ bodyLimit: 1 << 20 })
const message = event => ({
  topic: config.topic,
  key: String(event.userId ?? event.anonymousId),
  value: JSON.stringify(event)
})

app.post('/v1/track', async request => {
  await producer.send({ messages: [message(request.body)] })
  return { success: true }
})

app.post('/v1/batch', async request => {
  await producer.send({ messages: request.body.batch.map(message) })
  return { success: true }
})

await app.listen({ host: '127.0.0.1', port: Number(config.port) })
