"""Bare servers, one process each: read a JSON event of a POST, parse it with orjson, answer 200. No Kafka.

`python servers.py KIND JSON`; KIND: uvicorn, granian-asgi, granian-rsgi, robyn, protocol (asyncio and llhttp).
"""

import asyncio
import json
import sys

import orjson

ANSWER = b'{"success":true}'
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n"
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def asgi(scope, receive, send):
    if scope["type"] != "http":
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    orjson.loads(body)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


class Rsgi:
    async def __rsgi__(self, scope, protocol):
        orjson.loads(await protocol())
        protocol.response_bytes(200, [("content-type", "application/json")], ANSWER)


rsgi = Rsgi()


class Protocol(asyncio.Protocol):
    """What pipeline/gateway/front.py does for a head that it has not seen: llhttp, then the body by its length."""

    def __init__(self):
        import httptools

        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.parser.feed_data(data)

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        orjson.loads(self.body)
        self.body = b""
        self.transport.write(HEAD + ANSWER)


async def serve(port):
    server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", port)
    await server.serve_forever()


def main(kind, port):
    if kind == "uvicorn":
        import uvicorn

        uvicorn.run(
            asgi, host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning"
        )
    elif kind.startswith("granian"):
        from granian import Granian

        interface = kind.removeprefix("granian-")
        options = {"interface": interface, "workers": 1, "loop": "uvloop", "log_enabled": False, "http": "1"}
        Granian(f"servers:{interface}", address="127.0.0.1", port=port, **options).serve()
    elif kind == "robyn":
        from robyn import Response, Robyn

        sys.argv = [sys.argv[0], "--log-level", "WARN"]  # it says itself that any other is for debugging
        app = Robyn(__file__)

        @app.post("/v1/track")
        async def track(request):
            orjson.loads(request.body)
            return Response(200, {"content-type": "application/json"}, ANSWER.decode())

        app.start(host="127.0.0.1", port=port)
    else:
        import uvloop

        uvloop.run(serve(port))


if __name__ == "__main__":
    main(sys.argv[1], int(json.loads(sys.argv[2])["port"]))
