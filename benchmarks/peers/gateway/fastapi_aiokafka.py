"""A gateway as a team writes one in an afternoon: FastAPI and aiokafka. It parses, produces, waits.

Tuned as their own docs say: uvloop and httptools under uvicorn, no access log, idempotent, acks=all, a short linger.
"""

import asyncio
import json
import sys
from contextlib import asynccontextmanager

import uvicorn
from aiokafka import AIOKafkaProducer
from fastapi import FastAPI, Request

CONFIG = json.loads(sys.argv[1])
producer: AIOKafkaProducer


@asynccontextmanager
async def lifespan(app):
    global producer
    producer = AIOKafkaProducer(
        bootstrap_servers=CONFIG["bootstrap"],
        enable_idempotence=True,
        acks="all",
        compression_type="lz4",
        linger_ms=2,
        max_batch_size=1_000_000,
        max_request_size=2_000_000,
    )
    await producer.start()
    yield
    await producer.stop()


app = FastAPI(lifespan=lifespan)


def key_of(event):
    return str(event.get("userId") or event["anonymousId"]).encode()


@app.post("/v1/track")
async def track(request: Request):
    event = await request.json()
    await producer.send_and_wait(CONFIG["topic"], json.dumps(event).encode(), key=key_of(event))
    return {"success": True}


@app.post("/v1/batch")
async def batch(request: Request):
    events = (await request.json())["batch"]
    sent = [await producer.send(CONFIG["topic"], json.dumps(event).encode(), key=key_of(event)) for event in events]
    await asyncio.gather(*sent)
    return {"success": True}


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(CONFIG["port"]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
    )
